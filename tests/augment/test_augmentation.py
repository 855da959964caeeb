"""Augmentation: effect of each parameter, the identity without them, reproducibility."""

import numpy as np
import pytest

from cxr.augment.augmentation import augment
from cxr.params import PerturbParams, read_params
from cxr.tools.project_copy import PROJECT

PARAMS = read_params(PROJECT / "params.yaml").perturb
NOTHING = PerturbParams(
    **{name: type(value)(0) for name, value in PARAMS} | {"p": 1.0, "jpeg_quality": 100}
)
ALONE = {
    "flip": True,
    "rotation": 20.0,
    "shift": 0.2,
    "zoom": 0.5,
    "aspect": 0.5,
    "gamma": 1.0,
    "contrast": 1.0,
    "brightness": 0.3,
    "equalize": True,
    "downscale": 0.8,
    "noise": 20.0,
    "border": 0.3,
    "text_overlay": 5,
    "jpeg_quality": 5,
    "random_erasing": 0.5,
}


@pytest.fixture
def image():
    rows, columns = np.mgrid[0:64, 0:64]
    return (80 + 40 * np.sin(rows / 9) + columns).astype(np.uint8)


def many(image, params, count=20):
    return [augment(image, params, np.random.default_rng(seed)) for seed in range(count)]


def test_zero_strengths_leave_the_image_unchanged(image):
    for found in many(image, NOTHING):  # up to JPEG's rounding at quality 100
        assert np.abs(found.astype(int) - image).max() <= 2


@pytest.mark.parametrize("name", ALONE)
def test_each_parameter_has_an_effect(image, name):
    found = many(image, NOTHING.model_copy(update={name: ALONE[name]}))
    changed = [np.abs(one.astype(int) - image).max() > 6 for one in found]
    assert any(changed)
    assert all(one.shape == image.shape and one.dtype == np.uint8 for one in found)


def test_every_parameter_is_covered():
    assert set(ALONE) | {"p"} == set(PerturbParams.model_fields)


def test_probability_is_the_fraction_of_perturbed_images(image):
    params = NOTHING.model_copy(update={"noise": 30.0, "p": 0.25})
    found = many(image, params, 400)
    noisy = np.mean([np.abs(one.astype(int) - image).max() > 6 for one in found])
    assert noisy == pytest.approx(0.25, abs=0.07)


def test_augmentation_is_reproducible_and_depends_on_the_seed(image):
    first, second = many(image, PARAMS), many(image, PARAMS)
    np.testing.assert_array_equal(first, second)
    assert len({one.tobytes() for one in first}) == len(first)


def test_the_input_is_not_modified(image):
    before = image.copy()
    many(image, PARAMS)
    np.testing.assert_array_equal(image, before)


def test_factors_are_symmetric_about_one(image):
    params = NOTHING.model_copy(update={"zoom": 0.5})
    dot = np.zeros((65, 65), np.uint8)
    dot[31:34, 44:47] = 255
    columns = np.arange(65)
    centers = [(one.sum(0) * columns).sum() / one.sum() for one in many(dot, params, 300)]
    zooms = (np.array(centers) - 32) / 13
    assert zooms.min() == pytest.approx(1 / 1.5, abs=0.06)
    assert zooms.max() == pytest.approx(1.5, abs=0.06)
    assert np.mean(zooms > 1) == pytest.approx(0.5, abs=0.1)
