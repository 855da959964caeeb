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

    def applies() -> bool:
        return rng.random() < params.p

    if params.flip and rng.random() < 0.5:
        image = np.ascontiguousarray(image[:, ::-1])
    image = perturbations.affine(
        image,
        rotation=_symmetric(rng, params.rotation),
        shift=(_symmetric(rng, params.shift), _symmetric(rng, params.shift)),
        zoom=_factor(rng, params.zoom),
        aspect=_factor(rng, params.aspect),
    )
    image = perturbations.exposure(
        image,
        gamma=_factor(rng, params.gamma),
        contrast=_factor(rng, params.contrast),
        brightness=_symmetric(rng, params.brightness),
    )
    if applies() and params.equalize:
        image = perturbations.equalize(image)
    if applies():
        image = perturbations.downscale(image, rng.uniform(1 - params.downscale, 1))
    if applies():
        image = perturbations.add_noise(image, rng, rng.uniform(0, params.noise))
    if applies():
        top, bottom, left, right = rng.uniform(0, params.border, 4) * (rng.random(4) < 0.5)
        gray = int(rng.integers(0, 25))
        image = perturbations.border(image, (top, bottom, left, right), gray)
    if applies():
        count = int(rng.integers(0, params.text_overlay + 1))
        image = perturbations.text_overlay(image, rng, count)
    if applies():
        image = perturbations.compress(image, int(rng.integers(params.jpeg_quality, 101)))
    if applies():
        image = perturbations.random_erasing(image, rng, params.random_erasing)
    return image


def _symmetric(rng: np.random.Generator, limit: float) -> float:
    return float(rng.uniform(-limit, limit))


def _factor(rng: np.random.Generator, limit: float) -> float:
    """Sample a log-uniform factor from 1 / (1 + limit) to 1 + limit."""
    return float(np.exp(_symmetric(rng, np.log1p(limit))))
