"""The exported folder has all that prediction needs."""

import json

import numpy as np
import pandas as pd
import pytest

from cxr import paths
from cxr.common.names import TRAINED, VARIANTS
from cxr.inference import external_validation, labeled_folder
from cxr.params import read_params
from tests.support.project import Project


@pytest.mark.slow
def test_the_stage_writes_every_file_that_prediction_needs(finished: Project) -> None:
    folder = finished.folder / paths.EXPORTED
    metrics = json.loads((finished.folder / paths.EXPORT).read_text())
    settings = json.loads((folder / "settings.json").read_text())
    expected = {"settings.json", "model_card.md", "ood_reference.npz", "reference.csv"}
    expected |= {f"{v}{end}" for v in (*TRAINED, "features") for end in (".xml", ".bin")}
    assert {file.name for file in folder.iterdir()} == expected
    assert set(metrics) == {*TRAINED, "features", "drift", "ood"}
    assert metrics["ood"] == settings["ood"]
    assert {"test", "dark"} <= set(metrics["drift"]["flagged"])

    evaluation = json.loads((finished.folder / paths.EVALUATION).read_text())
    params = read_params(finished.folder / "params.yaml")
    assert settings["image"] == params.image.model_dump()
    assert settings["evaluate"] == params.evaluate.model_dump(mode="json")
    for variant in VARIANTS:
        threshold = evaluation[variant]["operating_point"]["threshold"]
        assert settings["variants"][variant]["threshold"] == threshold
        assert set(settings["variants"][variant]["scale"]) == {"slope", "intercept"}
    assert settings["variants"]["ensemble"]["members"] == evaluation["ensemble"]["scales"]
    manifest = pd.read_csv(finished.folder / paths.ARRAYS / "train/index.csv")
    ratios = manifest["width"] / manifest["height"]
    assert settings["trained_on"]["aspect_ratio"] == [ratios.min(), ratios.max()]
    low, high = settings["trained_on"]["shorter_side"]
    assert low == min(manifest["width"].min(), manifest["height"].min()) <= high


@pytest.mark.slow
def test_the_stage_is_reproducible(finished: Project) -> None:
    outputs = finished.outputs()["export"]
    before = finished.contents(outputs)
    finished.run("dvc repro --force --single-item export")
    assert finished.contents(outputs) == before


@pytest.mark.slow
def test_external_evaluation_agrees_with_the_pipeline(finished: Project) -> None:
    """On the pipeline's own test images, as a labeled folder."""
    raw = finished.folder / paths.raw("phantom")
    networks = external_validation.AllVariants(finished.folder / paths.EXPORTED)
    found = external_validation.evaluate(networks, labeled_folder.find(raw / "test")).images
    expected = pd.read_csv(finished.folder / paths.PREDICTIONS)
    expected = expected[expected["split"] == "test"]
    both = found.assign(path="test/" + found["file"]).merge(
        expected, on="path", suffixes=("", "_expected"), validate="one_to_one"
    )
    assert len(both) == len(found) == len(expected) > 10
    for column in ("label", "patient"):
        assert (both[column] == both[f"{column}_expected"]).all()
    for variant in VARIANTS:
        # Cached activations of the fine-tuned variant are in half precision.
        tolerance = 1e-4 if variant in ("baseline", "augmented") else 5e-3
        np.testing.assert_allclose(both[variant], both[f"{variant}_expected"], atol=tolerance)
