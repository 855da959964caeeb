"""Training augmentation: random perturbations, bounded by section `perturb` of params.yaml.

They mimic differences between scanners. Both classes get the same distribution of perturbations, so
none of them can become a shortcut.
"""

import numpy as np

from cxr.augment import perturbations
from cxr.augment.perturbations import Image
from cxr.params import PerturbParams


def augment(image: Image, params: PerturbParams, rng: np.random.Generator) -> Image:
    """Generate one augmented version of an image.

    Geometry and exposure always change; each other perturbation applies with probability
    `params.p`.

    Args:
        image: uint8 (S, S).
        params: maximum strength of each perturbation; 0 disables it.
        rng: random generator; equal states give equal images.

    Returns:
        uint8 (S, S).
    """
    image = _affine(image, params, rng)
    image = _exposure(image, params, rng)
    optional = (_equalize, _downscale, _noise, _border, _text_overlay, _compress, _random_erasing)
    for perturb in optional:
        if rng.random() < params.p:
            image = perturb(image, params, rng)
    return image


def _symmetric(rng: np.random.Generator, limit: float) -> float:
    return float(rng.uniform(-limit, limit))


def _factor(rng: np.random.Generator, limit: float) -> float:
    """Sample a log-uniform factor from 1 / (1 + limit) to 1 + limit."""
    return float(np.exp(_symmetric(rng, np.log1p(limit))))


def _affine(image: Image, params: PerturbParams, rng: np.random.Generator) -> Image:
    if params.flip and rng.random() < 0.5:
        image = np.ascontiguousarray(image[:, ::-1])
    return perturbations.affine(
        image,
        rotation=_symmetric(rng, params.rotation),
        shift=(_symmetric(rng, params.shift), _symmetric(rng, params.shift)),
        zoom=_factor(rng, params.zoom),
        aspect=_factor(rng, params.aspect),
    )


def _exposure(image: Image, params: PerturbParams, rng: np.random.Generator) -> Image:
    return perturbations.exposure(
        image,
        gamma=_factor(rng, params.gamma),
        contrast=_factor(rng, params.contrast),
        brightness=_symmetric(rng, params.brightness),
    )


def _equalize(image: Image, params: PerturbParams, rng: np.random.Generator) -> Image:
    return perturbations.equalize(image) if params.equalize else image


def _downscale(image: Image, params: PerturbParams, rng: np.random.Generator) -> Image:
    return perturbations.downscale(image, rng.uniform(1 - params.downscale, 1))


def _noise(image: Image, params: PerturbParams, rng: np.random.Generator) -> Image:
    return perturbations.add_noise(image, rng, rng.uniform(0, params.noise))


def _border(image: Image, params: PerturbParams, rng: np.random.Generator) -> Image:
    top, bottom, left, right = rng.uniform(0, params.border, 4) * (rng.random(4) < 0.5)
    return perturbations.border(image, (top, bottom, left, right), int(rng.integers(0, 25)))


def _text_overlay(image: Image, params: PerturbParams, rng: np.random.Generator) -> Image:
    return perturbations.text_overlay(image, rng, int(rng.integers(0, params.text_overlay + 1)))


def _compress(image: Image, params: PerturbParams, rng: np.random.Generator) -> Image:
    return perturbations.compress(image, int(rng.integers(params.jpeg_quality, 101)))


def _random_erasing(image: Image, params: PerturbParams, rng: np.random.Generator) -> Image:
    return perturbations.random_erasing(image, rng, params.random_erasing)
