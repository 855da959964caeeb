"""Exported networks agree with Keras for any batch size, and have reproducible bytes."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import openvino
import pandas as pd
import pytest

from cxr import paths
from cxr.common.names import TRAINED, VARIANTS
from cxr.compute.runtimes import open_network, run_all
from cxr.errors import CxrError
from cxr.export import bundle
from cxr.inference import external_validation, labeled_folder
from cxr.params import read_params
from cxr.tools.project_copy import PROJECT
from tests.support.project import Project

SIZE = 16
IMAGES = np.random.default_rng(0).integers(0, 256, (40, SIZE, SIZE)).astype(np.uint8)

# A network with the layers of the real ones: scaling, test-time augmentation, shared layers, a
# probability; and rare ones: grouped convolutions, GELU, layer and other normalization.
NETWORK = f"""
import keras
from keras import layers
keras.utils.set_random_seed(0)
image = keras.Input(({SIZE}, {SIZE}, 1), dtype="uint8", name="image")
view = keras.Input((None, None, 1), dtype="uint8")
scaled = layers.Rescaling(1 / 255)(layers.Resizing({SIZE}, {SIZE})(view))
scaled = layers.Normalization(mean=[0.4], variance=[0.1])(scaled)
maps = layers.MaxPooling2D()(layers.SeparableConv2D(8, 3, activation="relu")(scaled))
maps = layers.Conv2D(8, 3, groups=4, activation="gelu")(layers.LayerNormalization()(maps))
pooled = layers.GlobalAveragePooling2D()(layers.BatchNormalization()(maps))
body = keras.Model(view, layers.Dense(1, activation="sigmoid")(pooled))
views = [body(image), body(layers.Cropping2D(1)(image)), body(layers.ZeroPadding2D(1)(image))]
model = keras.Model(image, layers.Average()(views))
"""

OTHER_PROCESS = f"""
import sys
from pathlib import Path
import numpy as np
from cxr.export import bundle
{NETWORK}
images = np.zeros((1, {SIZE}, {SIZE}), np.uint8)
expected = model.predict_on_batch(images[..., None])
bundle.export_compared(model, Path(sys.argv[1]), images, expected)
"""


def network() -> keras.Model:
    found: dict[str, keras.Model] = {}
    exec(NETWORK, found)
    return found["model"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported file of `network`."""
    file = tmp_path_factory.mktemp("exported") / "net.xml"
    keras.Sequential([keras.layers.Dense(1)])  # changes the numbers in Keras's default names
    model = network()
    expected = model.predict_on_batch(IMAGES[..., np.newaxis])
    bundle.export_compared(model, file, IMAGES, expected)
    return file


@pytest.mark.slow
def test_exported_network_agrees_with_keras_for_any_batch_size(exported: Path) -> None:
    expected = network().predict_on_batch(IMAGES[..., np.newaxis])
    assert np.ptp(expected) > 1e-3
    for count in (1, 40):
        found = run_all(open_network(exported), IMAGES[:count])
        np.testing.assert_allclose(found, expected[:count], atol=1e-6, strict=True)


@pytest.mark.slow
def test_two_processes_write_equal_bytes(exported: Path, tmp_path: Path) -> None:
    second = tmp_path / "net.xml"
    environment = {"PYTHONPATH": str(PROJECT / "src"), "PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-c", OTHER_PROCESS, second], env=environment, check=True)
    for suffix in (".xml", ".bin"):
        written = second.with_suffix(suffix).read_bytes()
        assert written == exported.with_suffix(suffix).read_bytes(), suffix


def test_input_and_output_are_named_and_the_batch_is_free(exported: Path) -> None:
    model = openvino.Core().read_model(exported)
    assert model.input("image").element_type == openvino.Type.u8
    assert str(model.input("image").partial_shape) == f"[?,{SIZE},{SIZE},1]"
    assert str(model.output("output").partial_shape) == "[?,1]"


def test_a_damaged_or_missing_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "net.xml"
    with pytest.raises(CxrError, match=r"(?s)net\.xml cannot be read.*dvc repro export"):
        open_network(file)
    file.write_bytes(b"nothing")
    with pytest.raises(CxrError, match=r"net\.xml cannot be read"):
        open_network(file)


@pytest.mark.slow
def test_outputs_that_differ_from_keras_are_an_error(tmp_path: Path) -> None:
    model = network()
    file = tmp_path / "net.xml"
    expected = model.predict_on_batch(IMAGES[..., np.newaxis])
    found = bundle.export_compared(model, file, IMAGES, expected)
    assert found["bytes"] == sum(part.stat().st_size for part in tmp_path.iterdir())
    assert found["difference"] < 1e-6
    expected[7] += 2e-4
    with pytest.raises(CxrError, match=r"net\.xml differs from Keras by 0\.0002"):
        bundle.export_compared(model, file, IMAGES, expected)


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
