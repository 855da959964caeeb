"""Preprocessing from file to network input, on a synthetic radiograph."""

import hashlib
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cxr.data import transforms
from cxr.data.images import ImageError, to_gray, to_square
from cxr.params import ImageParams

PARAMS = ImageParams(input_size=64, resize="crop")


def thorax(height: int = 200, width: int = 260) -> NDArray[np.uint8]:
    """A bright body with two dark lungs, and dark air left and right."""
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    image = np.where(np.abs(columns) > 0.8, 5, 170)
    image[((np.abs(columns) - 0.32) / 0.23) ** 2 + (rows / 0.62) ** 2 < 1] = 70
    return image.astype(np.uint8)


@pytest.mark.parametrize("resize", ["crop", "stretch", "letterbox"])
def test_prepare_is_to_square(resize: str) -> None:
    image = Image.fromarray(thorax())
    found = transforms.prepare(image, PARAMS.model_copy(update={"resize": resize}))
    np.testing.assert_array_equal(found, to_square(image, 64, resize))


def test_a_jpeg_is_decoded_at_the_smallest_sufficient_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    iio.imwrite(tmp_path / "x.jpeg", thorax(800, 1000), quality=95)
    sizes = []
    monkeypatch.setattr(
        transforms, "to_gray", lambda image: sizes.append(image.size) or to_gray(image)
    )
    for size in (64, 256, 512):
        transforms.read_prepared(
            tmp_path / "x.jpeg", PARAMS.model_copy(update={"input_size": size})
        )
    assert sizes == [(125, 100), (500, 400), (1000, 800)]


def test_a_file_changed_since_verification_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    iio.imwrite(path, thorax())
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    np.testing.assert_array_equal(
        transforms.read_prepared(path, PARAMS, sha256), transforms.read_prepared(path, PARAMS)
    )
    iio.imwrite(path, 255 - thorax())
    with pytest.raises(ImageError, match=r"x\.png: changed since it was verified"):
        transforms.read_prepared(path, PARAMS, sha256)
