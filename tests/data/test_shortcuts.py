"""Metadata features as shortcuts, on synthetic data and on phantoms with planted shortcuts."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from cxr.common.arrays import Split
from cxr.data import manifest, phantom, preprocess, shortcuts
from cxr.errors import CxrError
from cxr.params import ImageParams
from tests.support.synthetic import COUNTS, split_of

PARAMS = ImageParams(input_size=64, resize="crop")
CARRIERS = 0.9  # fraction of positives with, and of negatives without the planted shortcut

Pixels = NDArray[np.uint8]
Plant = Callable[[Pixels, pd.DataFrame, NDArray[np.bool_]], None]


@pytest.fixture(scope="module")
def splits() -> dict[str, Split]:
    return {name: split_of(name, n, seed) for seed, (name, n) in enumerate(COUNTS.items())}


def test_features_that_predict_the_label(splits: dict[str, Split]) -> None:
    found = shortcuts.single_feature_auc(splits)
    assert found["aspect_ratio"]["train"] == found["aspect_ratio"]["test"] == 1
    assert found["mean_brightness"]["val"] == found["border_brightness"]["val"] == 1
    assert found["height"]["train"] == 0.5
    assert 0.5 <= found["file_size"]["train"] < 0.65


def test_the_sign_is_chosen_on_train(splits: dict[str, Split]) -> None:
    """A feature of the opposite effect in test has an AUC below 0.5 there."""
    inverted = 255 - splits["test"].images
    found = shortcuts.single_feature_auc(splits | {"test": Split(inverted, splits["test"].index)})
    assert found["mean_brightness"]["train"] == 1
    assert found["mean_brightness"]["test"] == 0


def test_sizes_of_the_files() -> None:
    index = pd.DataFrame({"width": ["400", "300"], "height": ["100", "300"]}, index=[7, 8])
    found = shortcuts.sizes(index)
    assert found.loc[7].to_dict() == {
        **{"width": 400, "height": 100, "shorter": 100, "size": 200, "aspect_ratio": 4}
    }
    assert found.loc[8, "aspect_ratio"] == 1


def test_border_is_the_outermost_sixteenth(splits: dict[str, Split]) -> None:
    pixels = np.zeros((1, 32, 32), np.uint8)
    pixels[:, 2:-2, 2:-2] = 255
    found = shortcuts.metadata_features(Split(pixels, splits["train"].index.head(1)))
    assert found["border_brightness"].tolist() == [0]
    assert found["mean_brightness"].tolist() == pytest.approx([255 * 28**2 / 32**2])


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Phantoms of 120 patients; the label depends on the lungs only."""
    folder = tmp_path_factory.mktemp("clean")
    phantom.generate(folder, patients=120, seed=5, short_side=80)
    images = manifest.verify(folder, "error").images
    files = [folder / path for path in images["path"]]
    return Split(np.stack(list(preprocess.read_all(files, PARAMS))), images.astype(str))


def brightness(pixels: Pixels, index: pd.DataFrame, carries: NDArray[np.bool_]) -> None:
    pixels[carries] = pixels[carries] // 2 + 128


def border(pixels: Pixels, index: pd.DataFrame, carries: NDArray[np.bool_]) -> None:
    for edge in (np.s_[:, :4], np.s_[:, -4:], np.s_[:, :, :4], np.s_[:, :, -4:]):
        part = pixels[edge]
        part[carries] = 0


def marker(pixels: Pixels, index: pd.DataFrame, carries: NDArray[np.bool_]) -> None:
    pixels[carries, 2:6, 58:60] = 255
    pixels[carries, 5:6, 58:62] = 255  # an L


def aspect(pixels: Pixels, index: pd.DataFrame, carries: NDArray[np.bool_]) -> None:
    index.loc[carries, "width"] = (index.loc[carries, "width"].astype(int) * 1.4).astype(str)


@pytest.mark.parametrize(
    ("plant", "feature"),
    [
        (aspect, "aspect_ratio"),
        (brightness, "mean_brightness"),
        (border, "border_brightness"),
        (marker, "edges_top_right"),
    ],
)
def test_a_planted_shortcut_is_detected(clean: Split, plant: Plant, feature: str) -> None:
    is_positive = clean.labels == 1
    carries = is_positive == (np.random.default_rng(1).random(len(is_positive)) < CARRIERS)
    planted = Split(clean.images.copy(), clean.index.copy())
    plant(planted.images, planted.index, carries)
    with pytest.raises(CxrError, match=rf"above 0\.75:\n(?s:.*)  {feature}: 0\.[89]") as caught:
        shortcuts.guard(planted, "error")
    assert "data.on_shortcut" in str(caught.value)


@pytest.mark.parametrize("plant", [aspect, brightness, border, marker])
def test_a_feature_of_both_classes_is_no_shortcut(clean: Split, plant: Plant) -> None:
    carries = np.random.default_rng(2).random(len(clean.labels)) < 0.5
    both = Split(clean.images.copy(), clean.index.copy())
    plant(both.images, both.index, carries)
    shortcuts.guard(both, "error")


def test_clean_phantoms_have_no_shortcut(clean: Split, capsys: pytest.CaptureFixture[str]) -> None:
    found = shortcuts.guard(clean, "error")
    assert set(found) == set(shortcuts.metadata_features(clean))
    assert all(0.5 <= auc <= shortcuts.MAX_AUC for auc in found.values())
    assert capsys.readouterr().out == ""


def test_warn_does_not_raise(splits: dict[str, Split], capsys: pytest.CaptureFixture[str]) -> None:
    found = shortcuts.guard(splits["train"], "warn")
    assert found["aspect_ratio"] == 1
    output = capsys.readouterr().out
    assert "WARNING" in output
    assert "  aspect_ratio: 1.000" in output
    assert "height:" not in output


def test_edge_strength_is_per_corner(splits: dict[str, Split]) -> None:
    pixels = np.full((1, 32, 32), 100, np.uint8)
    pixels[0, :4, -2:] = 200
    found = shortcuts.metadata_features(Split(pixels, splits["train"].index.head(1))).iloc[0]
    assert found["edges_top_right"] == 100
    assert found[["edges_top_left", "edges_bottom_left", "edges_bottom_right"]].eq(0).all()
