"""Plain numbers that tell the label, on made-up data and on phantoms with planted shortcuts."""

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
CARRIERS = 0.9  # share of the ill whose images carry the shortcut, and of the well whose do not

Pixels = NDArray[np.uint8]
Plant = Callable[[Pixels, pd.DataFrame, NDArray[np.bool_]], None]


@pytest.fixture(scope="module")
def splits() -> dict[str, Split]:
    return {name: split_of(name, n, seed) for seed, (name, n) in enumerate(COUNTS.items())}


def test_numbers_that_tell_the_label(splits: dict[str, Split]) -> None:
    found = shortcuts.single_feature_auc(splits)
    assert found["aspect_ratio"]["train"] == found["aspect_ratio"]["test"] == 1
    assert found["mean_brightness"]["val"] == found["border_brightness"]["val"] == 1
    assert found["height"]["train"] == 0.5
    assert 0.5 <= found["file_size"]["train"] < 0.65


def test_direction_is_that_of_train(splits: dict[str, Split]) -> None:
    """A number that means the opposite in test is worse than chance there, not better."""
    turned = 255 - splits["test"].images
    found = shortcuts.single_feature_auc(splits | {"test": Split(turned, splits["test"].index)})
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
    """Phantoms of 120 patients, whose label hangs on what is drawn in the lungs alone."""
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
    ("plant", "number"),
    [
        (aspect, "aspect_ratio"),
        (brightness, "mean_brightness"),
        (border, "border_brightness"),
        (marker, "edges_top_right"),
    ],
)
def test_a_planted_shortcut_is_caught(clean: Split, plant: Plant, number: str) -> None:
    ill = clean.labels == 1
    carries = ill == (np.random.default_rng(1).random(len(ill)) < CARRIERS)
    planted = Split(clean.images.copy(), clean.index.copy())
    plant(planted.images, planted.index, carries)
    with pytest.raises(CxrError, match=rf"above 0\.75:\n(?s:.*)  {number}: 0\.[89]") as caught:
        shortcuts.guard(planted, "error")
    assert "data.on_shortcut" in str(caught.value)


@pytest.mark.parametrize("plant", [aspect, brightness, border, marker])
def test_what_both_classes_carry_alike_passes(clean: Split, plant: Plant) -> None:
    carries = np.random.default_rng(2).random(len(clean.labels)) < 0.5
    both = Split(clean.images.copy(), clean.index.copy())
    plant(both.images, both.index, carries)
    shortcuts.guard(both, "error")


def test_none_planted_none_found(clean: Split, capsys: pytest.CaptureFixture[str]) -> None:
    found = shortcuts.guard(clean, "error")
    assert set(found) == set(shortcuts.metadata_features(clean))
    assert all(0.5 <= auc <= shortcuts.MAX_AUC for auc in found.values())
    assert capsys.readouterr().out == ""


def test_a_warning_keeps_going(
    splits: dict[str, Split], capsys: pytest.CaptureFixture[str]
) -> None:
    found = shortcuts.guard(splits["train"], "warn")
    assert found["aspect_ratio"] == 1
    told = capsys.readouterr().out
    assert "WARNING" in told
    assert "  aspect_ratio: 1.000" in told
    assert "height:" not in told


def test_edges_are_those_of_the_corner(splits: dict[str, Split]) -> None:
    pixels = np.full((1, 32, 32), 100, np.uint8)
    pixels[0, :4, -2:] = 200
    found = shortcuts.metadata_features(Split(pixels, splits["train"].index.head(1))).iloc[0]
    assert found["edges_top_right"] == 100
    assert found[["edges_top_left", "edges_bottom_left", "edges_bottom_right"]].eq(0).all()
