"""Stress validation: conditions, the swapped shapes, and that it is made of validation alone."""

import imageio.v3 as iio
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr.augment import stress_test
from cxr.data.images import ImageError
from cxr.params import read_params
from cxr.tools.project_copy import PROJECT
from tests.support.project import hash_of

PARAMS = read_params(PROJECT / "params.yaml").image.model_copy(update={"input_size": 32})


@pytest.fixture
def files(tmp_path):
    """Three images of each class, NORMAL upright and PNEUMONIA wide, with an index."""
    rows = []
    for number, (label, size) in enumerate(
        [("NORMAL", (40 + n, 60)) for n in range(3)]
        + [("PNEUMONIA", (90 + 10 * n, 60)) for n in range(3)]
    ):
        pixels = np.random.default_rng(number).integers(0, 256, size[::-1]).astype(np.uint8)
        iio.imwrite(tmp_path / f"{number}.png", pixels)
        rows.append(
            {"path": f"{number}.png", "label": label, "width": str(size[0]), "height": "60"}
        )
    return tmp_path, pd.DataFrame(rows)


def hashes_of(folder):
    return {file.name: hash_of(file) for file in folder.iterdir()}


def test_every_condition_holds_every_image_once(files):
    _, index = files
    table = stress_test.stress_index(index)
    assert len(table) == len(index) * len(stress_test.CONDITIONS)
    for _, rows in table.groupby("condition"):
        assert rows["path"].tolist() == index["path"].tolist()


def test_shapes_are_swapped_between_the_classes_rank_by_rank():
    ratios = pd.Series([1.0, 1.2, 1.4, 1.5, 1.6, 1.8])
    labels = pd.Series(["NORMAL"] * 3 + ["PNEUMONIA"] * 3)
    swapped = stress_test.swapped_aspect_ratios(ratios, labels)
    assert swapped.is_monotonic_increasing is False
    assert swapped[:3].is_monotonic_increasing
    assert swapped[:3].min() >= 1.5
    assert swapped[3:].max() <= 1.4
    assert swapped[2] == pytest.approx(1.8)
    assert swapped[5] == pytest.approx(1.4)


def test_only_the_other_shape_changes_the_aspect_ratio(files):
    _, index = files
    table = stress_test.stress_index(index)
    true = index["width"].astype(float) / 60
    for condition, rows in table.groupby("condition"):
        same = np.allclose(rows["aspect_ratio"], true)
        assert same == (condition != stress_test.SHAPE)


@pytest.mark.parametrize(("ratio", "size"), [(1.0, (60, 60)), (2.0, (90, 45)), (0.5, (30, 60))])
def test_crop_to_aspect_ratio_takes_the_largest_middle_part(ratio, size):
    image = Image.fromarray(np.add.outer(np.arange(60), np.arange(90)).astype(np.uint8))
    cut = stress_test.crop_to_aspect_ratio(image, ratio)
    assert cut.size == size
    middle = np.asarray(image)[29:31, 44:46].mean()
    assert np.asarray(cut).mean() == pytest.approx(middle, abs=1.5)


def test_images_repeat_and_no_two_conditions_are_alike(files):
    folder, index = files
    table = stress_test.stress_index(index)
    first, second = (
        np.stack(list(stress_test.stress_images(folder, table, hashes_of(folder), PARAMS)))
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
    assert first.shape == (len(table), 32, 32)
    assert len(np.unique(first.reshape(len(table), -1), axis=0)) == len(table)


def test_the_other_shape_is_cut_before_the_image_becomes_a_square(files):
    folder, index = files
    table = stress_test.stress_index(index)
    rows = table[table["condition"] == stress_test.SHAPE].reset_index(drop=True)
    squash = PARAMS.model_copy(update={"resize": "stretch"})
    images = list(stress_test.stress_images(folder, rows, hashes_of(folder), squash))
    wide = Image.open(folder / "5.png")
    cut = stress_test.crop_to_aspect_ratio(wide, rows["aspect_ratio"][5])
    assert cut.width < wide.width
    expected = np.asarray(cut.resize((32, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(images[5], expected)


def test_a_file_that_changed_since_it_was_verified_is_refused(files):
    folder, index = files
    hashes = hashes_of(folder)
    Image.new("L", (60, 60)).save(folder / "3.png")
    with pytest.raises(ImageError, match=r"3\.png: changed since it was verified"):
        list(stress_test.stress_images(folder, stress_test.stress_index(index), hashes, PARAMS))
