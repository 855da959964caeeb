"""Preprocessing from file to network input, on a synthetic radiograph."""

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from cxr.data import transforms
from cxr.data.images import to_gray
from cxr.params import ImageParams

PARAMS = ImageParams(input_size=64, resize="crop")


def test_a_jpeg_is_decoded_at_the_smallest_sufficient_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    iio.imwrite(tmp_path / "x.jpeg", np.full((800, 1000), 120, np.uint8), quality=95)
    sizes = []
    monkeypatch.setattr(
        transforms, "to_gray", lambda image: sizes.append(image.size) or to_gray(image)
    )
    for size in (64, 256, 512):
        transforms.read_prepared(
            tmp_path / "x.jpeg", PARAMS.model_copy(update={"input_size": size})
        )
    assert sizes == [(125, 100), (500, 400), (1000, 800)]
