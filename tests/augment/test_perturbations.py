"""Perturbations: effect and reproducibility of each."""

import cv2
import numpy as np
import pytest

from cxr.augment import perturbations as change

SIDE = 64
RNG_SEED = 3


@pytest.fixture
def image():
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    return (60 + rows + columns).astype(np.uint8)


@pytest.fixture
def rng():
    return np.random.default_rng(RNG_SEED)


def dot(row, column):
    image = np.zeros((SIDE + 1, SIDE + 1), np.uint8)
    image[row - 1 : row + 2, column - 1 : column + 2] = 255
    return image


def center_of_mass(image):
    rows, columns = np.indices(image.shape)
    return (image * rows).sum() / image.sum(), (image * columns).sum() / image.sum()


ALL = {
    "affine": lambda image, rng: change.affine(
        image, rotation=5, shift=(0.1, 0), zoom=0.8, aspect=1.2
    ),
    "exposure": lambda image, rng: change.exposure(image, gamma=1.5, contrast=0.8, brightness=0.1),
    "equalize": lambda image, rng: change.equalize(image),
    "border": lambda image, rng: change.border(image, (0.1, 0, 0.1, 0.05)),
    "text_overlay": lambda image, rng: change.text_overlay(image, rng, 3),
    "downscale": lambda image, rng: change.downscale(image, 0.5),
    "compress": lambda image, rng: change.compress(image, 10),
    "add_noise": lambda image, rng: change.add_noise(image, rng, 8.0),
    "random_erasing": lambda image, rng: change.random_erasing(image, rng, 0.4),
}


@pytest.mark.parametrize("name", ALL)
def test_every_perturbation_returns_a_new_image_reproducibly(image, name):
    before = image.copy()
    first, second = (ALL[name](image, np.random.default_rng(RNG_SEED)) for _ in range(2))
    assert first.shape == image.shape
    assert first.dtype == np.uint8
    assert (first != image).any()
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"shift": (0.2, 0.0)}, (22, 55)),  # x is to the right
        ({"zoom": 0.5}, (27, 37)),
        ({"zoom": 1.5}, (17, 47)),
        ({"rotation": 90}, (42, 42)),
        ({"rotation": 180}, (42, 22)),
        ({"aspect": 2.25}, (25.3, 47)),  # 1.5 times as wide, two thirds as high
    ],
)
def test_affine_moves_a_dot_as_specified(arguments, expected):
    moved = change.affine(dot(22, 42), **arguments)
    assert center_of_mass(moved.astype(float)) == pytest.approx(expected, abs=0.6)


def test_affine_pads_with_black():
    moved = change.affine(np.full((SIDE, SIDE), 200, np.uint8), zoom=0.5)
    assert moved[:10].max() == 0
    assert moved[SIDE // 2, SIDE // 2] == 200


def test_exposure_formula():
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    x = gray / 255
    found = change.exposure(gray, gamma=2.0, contrast=0.5, brightness=0.1)
    np.testing.assert_array_equal(found, np.rint(((x**2 - 0.5) * 0.5 + 0.6) * 255))
    bright = change.exposure(gray, brightness=0.5)
    assert bright[0, 0] == 128
    assert bright.max() == 255


def test_equalize_uses_the_full_range(image):
    equalized = change.equalize(image)
    assert (equalized.min(), equalized.max()) == (0, 255)
    assert equalized.mean() == pytest.approx(127.5, abs=8)


def test_border_covers_exactly_its_widths(image):
    bordered = change.border(image, (0.25, 0.125, 0.0, 0.5), gray=7)
    assert (bordered[:16] == 7).all()
    assert (bordered[-8:] == 7).all()
    assert (bordered[:, -32:] == 7).all()
    np.testing.assert_array_equal(bordered[16:-8, :32], image[16:-8, :32])


def test_text_stays_near_the_edges_and_grows_with_the_count():
    blank = np.full((256, 256), 100, np.uint8)
    masks = [
        change.text_overlay(blank, np.random.default_rng(seed), 1) != 100 for seed in range(60)
    ]
    assert all(mask.any() for mask in masks)
    touched = np.mean(masks, axis=0)
    assert touched[110:146, 110:146].max() <= 0.05  # the heart is not covered
    few, many = (
        np.mean(
            [
                (change.text_overlay(blank, np.random.default_rng(s), n) != 100).sum()
                for s in range(20)
            ]
        )
        for n in (1, 4)
    )
    assert many > 2 * few


def test_downscale_and_compress_reduce_detail():
    fine = np.tile([[0, 255], [255, 0]], (32, 32)).astype(np.uint8)
    assert change.downscale(fine, 0.5).std() < 5
    assert change.downscale(fine, 1.0).std() > 120
    noise = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    losses = [np.abs(change.compress(noise, q).astype(int) - noise).mean() for q in (95, 10)]
    assert losses[0] < losses[1] / 4


def test_noise_has_the_standard_deviation(rng):
    noisy = change.add_noise(np.full((200, 200), 128, np.uint8), rng, 10.0)
    assert noisy.std() == pytest.approx(10, rel=0.05)
    assert noisy.mean() == pytest.approx(128, abs=0.3)


def test_random_erasing_covers_one_rectangle_within_the_limit():
    blank = np.full((SIDE, SIDE), 100, np.uint8)
    sizes = []
    for seed in range(50):
        rows, columns = np.nonzero(
            change.random_erasing(blank, np.random.default_rng(seed), 0.25) != 100
        )
        if len(rows):
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert len(rows) == height * width
            sizes += [height, width]
    assert max(sizes) <= 16
    assert max(sizes) > 12


def test_markers_are_legible_at_full_size():
    """Erosion by a stroke's width removes at least 90 % of the text, so it is no blob."""
    blank = np.zeros((512, 512), np.uint8)
    text = change.text_overlay(blank, np.random.default_rng(1), 6) > 60
    eroded = cv2.erode(text.astype(np.uint8), np.ones((9, 9), np.uint8))
    assert text.any()
    assert eroded.sum() < text.sum() / 10
