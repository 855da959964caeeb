"""Augmentation for radiographs: random perturbations of the strengths in params.yaml.

Unlike a rotation by 72 degrees, all of them happen between one device and the next. Both classes
get the same ones, so that none of what they change can tell the label.
"""

import numpy as np

from cxr.augment import perturbations as change
from cxr.augment.perturbations import Image
from cxr.params import PerturbParams


def augment(image: Image, params: PerturbParams, rng: np.random.Generator) -> Image:
    """One random version of an image.

    Geometry and exposure change in every image; each of the others in the share
    `params.probability` of them.

    Args:
        image: uint8 (S, S).
        params: the largest strength of each perturbation; 0 leaves it out.
        rng: makes the draw; equal generators give equal images.
    """
    image = _move(image, params, rng)
    image = _expose(image, params, rng)
    for perturb in (_equalise, _coarsen, _noise, _frame, _write, _compress, _cut_out):
        if rng.random() < params.p:
            image = perturb(image, params, rng)
    return image


def _symmetric(rng: np.random.Generator, largest: float) -> float:
    return float(rng.uniform(-largest, largest))


def _factor(rng: np.random.Generator, largest: float) -> float:
    """A factor as often above 1 as below: 1 / (1 + largest) to 1 + largest."""
    return float(np.exp(_symmetric(rng, np.log1p(largest))))


def _move(image: Image, params: PerturbParams, rng: np.random.Generator) -> Image:
    if params.flip and rng.random() < 0.5:
        image = np.ascontiguousarray(image[:, ::-1])
    return change.affine(
        image,
        rotation=_symmetric(rng, params.rotation),
        shift=(_symmetric(rng, params.shift), _symmetric(rng, params.shift)),
        zoom=_factor(rng, params.zoom),
        aspect=_factor(rng, params.aspect),
    )


def _expose(image: Image, params: PerturbParams, rng: np.random.Generator) -> Image:
    return change.exposure(
        image,
        gamma=_factor(rng, params.gamma),
        contrast=_factor(rng, params.contrast),
        brightness=_symmetric(rng, params.brightness),
    )


def _equalise(image: Image, params: PerturbParams, rng: np.random.Generator) -> Image:
    return change.equalize(image) if params.equalize else image


def _coarsen(image: Image, params: PerturbParams, rng: np.random.Generator) -> Image:
    return change.downscale(image, rng.uniform(1 - params.downscale, 1))


def _noise(image: Image, params: PerturbParams, rng: np.random.Generator) -> Image:
    return change.add_noise(image, rng, rng.uniform(0, params.noise))


def _frame(image: Image, params: PerturbParams, rng: np.random.Generator) -> Image:
    top, bottom, left, right = rng.uniform(0, params.border, 4) * (rng.random(4) < 0.5)
    return change.border(image, (top, bottom, left, right), int(rng.integers(0, 25)))


def _write(image: Image, params: PerturbParams, rng: np.random.Generator) -> Image:
    return change.text_overlay(image, rng, int(rng.integers(0, params.text_overlay + 1)))


def _compress(image: Image, params: PerturbParams, rng: np.random.Generator) -> Image:
    return change.compress(image, int(rng.integers(params.jpeg_quality, 101)))


def _cut_out(image: Image, params: PerturbParams, rng: np.random.Generator) -> Image:
    return change.random_erasing(image, rng, params.random_erasing)
