"""Properties of the real images, on the 256-pixel copy of the Kaggle data set."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr.data import manifest, splits
from cxr.data.images import decode, to_gray
from cxr.data.manifest import Verified
from cxr.data.transforms import prepare, read_prepared
from cxr.params import read_params
from cxr.tools.project_copy import PROJECT

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def verified(real_data: Path) -> Verified:
    return manifest.verify(real_data, "error")


def test_counts_are_as_published(verified: Verified) -> None:
    summary = manifest.summarize(verified, "kaggle")
    assert {name: summary[name]["images"] for name in ("train", "val", "test")} == {
        "train": 5216,
        "val": 16,
        "test": 624,
    }
    assert (summary["train"]["NORMAL"], summary["train"]["PNEUMONIA"]) == (1341, 3875)
    assert (summary["test"]["NORMAL"], summary["test"]["PNEUMONIA"]) == (234, 390)
    assert (summary["train"]["patients"], summary["test"]["patients"]) == (3654, 428)
    assert summary["patients_in_several_splits"] == 0
    assert summary["rejects"] == 0


def test_each_file_name_has_patient_and_pathogen(verified: Verified) -> None:
    images = verified.images
    stems = images["path"].map(lambda path: Path(path).stem)
    assert not (images["patient"] == stems).any()
    is_positive = images["label"] == "PNEUMONIA"
    assert set(images.loc[is_positive, "pathogen"]) == {"bacteria", "virus"}
    assert set(images.loc[~is_positive, "pathogen"]) == {"none"}


def test_no_patient_is_in_two_splits(verified: Verified) -> None:
    assigned = splits.assign(verified.images, read_params(PROJECT / "params.yaml").split)
    patients = pd.DataFrame({"patient": verified.images["patient"], "split": assigned})
    assert patients.groupby("patient")["split"].nunique().max() == 1
    counts = assigned.value_counts()
    assert counts["test"] == 624
    assert abs(counts["val"] - 0.1 * 5232) <= 2


def test_redrawn_test_split_has_the_official_size(verified: Verified) -> None:
    params = read_params(PROJECT / "params.yaml").split.model_copy(update={"test": "redrawn"})
    counts = splits.assign(verified.images, params).value_counts()
    assert abs(counts["test"] - 624) <= 5


def test_images_have_contrast_and_are_not_clipped(real_data: Path, verified: Verified) -> None:
    params = read_params(PROJECT / "params.yaml").image
    for path in verified.images["path"][::500]:
        square = read_prepared(real_data / path, params)
        assert square.std() > 20
        assert 40 < np.median(square) < 220


def test_reduced_decoding_gives_nearly_the_same_image(real_data: Path) -> None:
    params = read_params(PROJECT / "params.yaml").image
    originals = sorted((real_data.parent / "originals").rglob("*.jpeg"))[::8]
    if not originals:
        pytest.skip("CXR_TEST_DATA has no originals")
    differences = []
    for path in originals:
        full = prepare(to_gray(decode(path.read_bytes(), path)), params).astype(int)
        differences.append(np.abs(read_prepared(path, params) - full).mean())
    assert 0 < np.mean(differences) < 0.5
