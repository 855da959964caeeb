"""Borders, lungs and intensity: what is cut off and what is left, on drawn radiographs."""

import hashlib
import time

import numpy as np
import pytest
from PIL import Image

from cxr import cleaning
from cxr.demo import PROJECT
from cxr.images import ImageError, to_grey, to_square
from cxr.params import read_params

PARAMS = read_params(PROJECT / "params.yaml").image.model_copy(update={"size": 64})


def thorax(height=200, width=260, centre=(100, 130), scale=1.0, air=True):
    """A light body with two dark lungs beside the spine, and dark air on both sides of it."""
    rows, columns = np.mgrid[0:height, 0:width]
    y, x = (rows - centre[0]) / scale, (columns - centre[1]) / scale
    image = np.full((height, width), 170.0)
    if air:
        image[np.abs(x) > 105] = 5
    for side in (-1, 1):
        image[((x - side * 42) / 30) ** 2 + (y / 62) ** 2 < 1] = 70
    return image.astype(np.uint8)


def test_lungs_are_found_beside_air():
    top, bottom, left, right = cleaning.lung_box(thorax())
    assert (top, bottom) == pytest.approx((38, 162), abs=6)
    assert (left, right) == pytest.approx((58, 202), abs=6)


@pytest.mark.parametrize("centre", [(90, 120), (100, 140)])
def test_the_square_is_centred_on_the_lungs(centre):
    cropped = cleaning.crop_to_lungs(thorax(centre=centre))
    assert cropped.shape[0] == cropped.shape[1]
    top, bottom, left, right = cleaning.lung_box(cropped)
    side = len(cropped)
    assert (top + bottom) / 2 == pytest.approx(side / 2, abs=0.05 * side)
    assert (left + right) / 2 == pytest.approx(side / 2, abs=0.05 * side)


def test_lungs_of_any_size_come_out_alike():
    shares = []
    for scale in (0.7, 1.0):
        cropped = cleaning.crop_to_lungs(thorax(scale=scale, air=False))
        shares.append((cropped == 70).mean())
    before = [(thorax(scale=scale, air=False) == 70).mean() for scale in (0.7, 1.0)]
    assert before[1] / before[0] > 1.9
    assert shares[1] / shares[0] == pytest.approx(1, abs=0.1)


def test_lungs_of_large_images_are_looked_for_in_a_smaller_copy():
    large = np.kron(thorax(), np.ones((15, 15), np.uint8))  # 3000 x 3900 pixels
    started = time.process_time()
    found = cleaning.lung_box(large)
    assert time.process_time() - started < 5  # at full size it takes minutes
    np.testing.assert_allclose(np.array(found) / 15, cleaning.lung_box(thorax()), atol=2)


def test_a_square_never_leaves_the_image():
    image = thorax(height=170, centre=(85, 130))
    assert cleaning.crop_to_lungs(image).shape[0] <= 170


@pytest.mark.parametrize(
    "image",
    [
        np.full((100, 120), 90, np.uint8),
        np.tile(np.linspace(0, 255, 120, dtype=np.uint8), (100, 1)),
        np.zeros((1, 1), np.uint8),
        thorax()[:, :130],  # one lung
    ],
    ids=["flat", "ramp", "pixel", "one lung"],
)
def test_what_has_no_pair_of_lungs_stays_whole(image):
    assert cleaning.lung_box(image) is None
    assert cleaning.crop_to_lungs(image) is image


def test_dark_bars_are_cut_off_and_only_they():
    image = np.zeros((100, 200), np.uint8)
    image[10:95, 30:180] = np.random.default_rng(1).integers(80, 200, (85, 150))
    np.testing.assert_array_equal(cleaning.trim_borders(image), image[10:95, 30:180])


def test_no_more_than_a_fifth_is_cut_off():
    image = np.zeros((100, 100), np.uint8)
    image[45:55] = 200
    assert cleaning.trim_borders(image).shape == (60, 100)


def test_without_bars_nothing_is_cut_off():
    image = thorax(air=False)
    np.testing.assert_array_equal(cleaning.trim_borders(image), image)


def test_intensity():
    grey = thorax()
    assert cleaning.standardise(grey, "as_is") is grey
    for intensity in ("equalise", "clahe"):
        dark = (grey * 0.5).astype(np.uint8)
        before = np.abs(grey.astype(float) - dark).mean()
        found, of_dark = (cleaning.standardise(g, intensity).astype(float) for g in (grey, dark))
        assert np.abs(found - of_dark).mean() < before
    with pytest.raises(ValueError, match="stretched"):
        cleaning.standardise(grey, "stretched")


def test_defaults_only_make_a_square():
    image = Image.fromarray(thorax())
    np.testing.assert_array_equal(
        cleaning.prepare(image, PARAMS), to_square(image, 64, PARAMS.resize)
    )


def test_every_parameter_changes_the_result():
    image = Image.fromarray(thorax())
    plain = cleaning.prepare(image, PARAMS)
    for update in ({"region": "lungs"}, {"intensity": "clahe"}, {"resize": "squash"}):
        changed = cleaning.prepare(image, PARAMS.model_copy(update=update))
        assert changed.shape == (64, 64)
        assert (changed != plain).any()
    wide = PARAMS.model_copy(update={"resize": "squash"})
    trimmed = wide.model_copy(update={"trim": True})
    assert (cleaning.prepare(image, trimmed) != cleaning.prepare(image, wide)).any()


@pytest.mark.parametrize(
    ("change", "is_decoded_whole"),
    [({}, False), ({"trim": True}, True), ({"region": "lungs"}, True)],
)
def test_images_that_are_cropped_are_decoded_whole(tmp_path, monkeypatch, change, is_decoded_whole):
    Image.fromarray(thorax(800, 1000, (400, 500), 4)).save(tmp_path / "x.jpeg", quality=95)
    sizes = []
    monkeypatch.setattr(
        cleaning, "to_grey", lambda image: sizes.append(image.size) or to_grey(image)
    )
    cleaning.read_prepared(tmp_path / "x.jpeg", PARAMS.model_copy(update=change))
    assert sizes == [(1000, 800) if is_decoded_whole else (125, 100)]


def test_a_file_that_is_another_than_was_verified_is_named(tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(thorax()).save(path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    np.testing.assert_array_equal(
        cleaning.read_prepared(path, PARAMS, sha256), cleaning.read_prepared(path, PARAMS)
    )
    Image.fromarray(thorax(scale=0.9)).save(path)
    with pytest.raises(ImageError, match=r"x\.png: changed since it was verified"):
        cleaning.read_prepared(path, PARAMS, sha256)
