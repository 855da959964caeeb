"""The stress-test set: conditions, swapped aspect ratios, reproducibility."""

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
    """Three images of each class, NORMAL in portrait and PNEUMONIA in landscape, with an index."""
    widths = {"NORMAL": (40, 41, 42), "PNEUMONIA": (90, 100, 110)}
    rows = [
        {"path": f"{label}-{width}.png", "label": label, "width": str(width), "height": "60"}
        for label, of_label in widths.items()
        for width in of_label
    ]
    for number, row in enumerate(rows):
        pixels = np.random.default_rng(number).integers(0, 256, (60, int(row["width"])), np.uint8)
        iio.imwrite(tmp_path / row["path"], pixels)
    return tmp_path, pd.DataFrame(rows)


def hashes_of(folder):
    return {file.name: hash_of(file) for file in folder.iterdir()}


def test_every_condition_has_every_image_once(files):
    _, index = files
    table = stress_test.stress_index(index)
    assert len(table) == len(index) * len(stress_test.CONDITIONS)
    for _, rows in table.groupby("condition"):
        assert rows["path"].tolist() == index["path"].tolist()


def test_aspect_ratios_are_swapped_between_the_classes_by_rank():
    ratios = pd.Series([1.0, 1.2, 1.4, 1.5, 1.6, 1.8])
    labels = pd.Series(["NORMAL"] * 3 + ["PNEUMONIA"] * 3)
    swapped = stress_test.swapped_aspect_ratios(ratios, labels)
    assert swapped.is_monotonic_increasing is False
    assert swapped[:3].is_monotonic_increasing
    assert swapped[:3].min() >= 1.5
    assert swapped[3:].max() <= 1.4
    assert swapped[2] == pytest.approx(1.8)
    assert swapped[5] == pytest.approx(1.4)


def test_only_other_shape_changes_the_aspect_ratio(files):
    _, index = files
    table = stress_test.stress_index(index)
    true = index["width"].astype(float) / 60
    for condition, rows in table.groupby("condition"):
        same = np.allclose(rows["aspect_ratio"], true)
        assert same == (condition != stress_test.SHAPE)


@pytest.mark.parametrize(("ratio", "size"), [(1.0, (60, 60)), (2.0, (90, 45)), (0.5, (30, 60))])
def test_crop_to_aspect_ratio_is_the_largest_center_crop(ratio, size):
    image = Image.fromarray(np.add.outer(np.arange(60), np.arange(90)).astype(np.uint8))
    cropped = stress_test.crop_to_aspect_ratio(image, ratio)
    assert cropped.size == size
    center = np.asarray(image)[29:31, 44:46].mean()
    assert np.asarray(cropped).mean() == pytest.approx(center, abs=1.5)


def test_images_are_reproducible_and_conditions_differ(files):
    folder, index = files
    table = stress_test.stress_index(index)
    first, second = (
        np.stack(list(stress_test.stress_images(folder, table, hashes_of(folder), PARAMS)))
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
    assert first.shape == (len(table), 32, 32)
    assert len(np.unique(first.reshape(len(table), -1), axis=0)) == len(table)


def test_other_shape_is_cropped_before_resizing(files):
    folder, index = files
    table = stress_test.stress_index(index)
    rows = table[table["condition"] == stress_test.SHAPE].reset_index(drop=True)
    stretch = PARAMS.model_copy(update={"resize": "stretch"})
    images = list(stress_test.stress_images(folder, rows, hashes_of(folder), stretch))
    wide = Image.open(folder / "PNEUMONIA-110.png")
    cropped = stress_test.crop_to_aspect_ratio(wide, rows["aspect_ratio"][5])
    assert cropped.width < wide.width
    expected = np.asarray(cropped.resize((32, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(images[5], expected)


def test_a_file_changed_since_verification_is_rejected(files):
    folder, index = files
    hashes = hashes_of(folder)
    Image.new("L", (60, 60)).save(folder / "PNEUMONIA-90.png")
    with pytest.raises(ImageError, match=r"PNEUMONIA-90\.png: changed since it was verified"):
        list(stress_test.stress_images(folder, stress_test.stress_index(index), hashes, PARAMS))
