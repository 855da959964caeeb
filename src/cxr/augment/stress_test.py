"""The stress-test set: validation images perturbed to mimic other scanners.

Validation comes from the same pool as training, so it rewards shortcuts such as shapes, borders,
markers and exposure (Geirhos 2020). Each condition perturbs one of these in both classes and leaves
the disease unchanged. Only validation images are used, never test images.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image as Pillow

from cxr.augment import perturbations
from cxr.common.names import LABELS
from cxr.data.images import decode, read_file, to_gray
from cxr.data.transforms import prepare
from cxr.params import ImageParams
from cxr.progress import track

Image = NDArray[np.uint8]
Condition = Callable[[Image, np.random.Generator], Image]

SHAPE = "other_shape"  # the condition that swaps the aspect ratios of the classes
BORDER_WIDTHS = (0.1, 0.1, 0.1, 0.1)


def _other_machine(image: Image, rng: np.random.Generator) -> Image:
    bordered = perturbations.border(perturbations.exposure(image, gamma=1.4), BORDER_WIDTHS)
    return perturbations.text_overlay(bordered, rng, 5)


CONDITIONS: dict[str, Condition] = {
    SHAPE: lambda image, rng: image,
    "smaller": lambda image, rng: perturbations.affine(image, zoom=0.8),
    "larger": lambda image, rng: perturbations.affine(image, zoom=1.25),
    "dark": lambda image, rng: perturbations.exposure(image, gamma=1.6),
    "bright": lambda image, rng: perturbations.exposure(image, gamma=0.6),
    "equalized": lambda image, rng: perturbations.equalize(image),
    "borders": lambda image, rng: perturbations.border(image, BORDER_WIDTHS),
    "markers": lambda image, rng: perturbations.text_overlay(image, rng, 5),
    "low_quality": lambda image, rng: perturbations.compress(
        perturbations.downscale(image, 0.5), 25
    ),
    "other_machine": _other_machine,
}


def stress_index(index: pd.DataFrame) -> pd.DataFrame:
    """Repeat the index of the validation images for each condition.

    Returns:
        The index with the columns condition (name) and aspect_ratio (width / height, after the
        perturbation); N * `len(CONDITIONS)` rows.
    """
    table = index.assign(aspect_ratio=index["width"].astype(float) / index["height"].astype(float))
    swapped = swapped_aspect_ratios(table["aspect_ratio"], table["label"])
    by_condition = dict.fromkeys(CONDITIONS, table) | {SHAPE: table.assign(aspect_ratio=swapped)}
    return pd.concat(
        [part.assign(condition=name) for name, part in by_condition.items()], ignore_index=True
    )


def swapped_aspect_ratios(ratios: pd.Series, labels: pd.Series) -> pd.Series:
    """Map each aspect ratio to the same quantile of the other class."""
    swapped = ratios.copy()
    for own, other in (LABELS, LABELS[::-1]):
        ranks = ratios[labels == own].rank(pct=True)
        swapped[labels == own] = np.quantile(ratios[labels == other], ranks)
    return swapped


def stress_images(
    raw: Path, index: pd.DataFrame, hashes: Mapping[str, str], params: ImageParams
) -> Iterator[Image]:
    """Generate the images of the stress-test set, uint8 (S, S), in the order of `index`.

    Conditions perturb the decoded image before it is resized. Each row has its own seed, so that
    the images are reproducible.

    Args:
        raw: folder to which the paths of the index are relative.
        index: from `stress_index`.
        hashes: expected SHA-256 of each file, by path.
        params: section `image` of params.yaml.

    Raises:
        ImageError: a file changed or became unreadable since it was verified.
    """
    rows = list(zip(index["path"], index["condition"], index["aspect_ratio"], strict=True))
    for number, (path, condition, ratio) in enumerate(track(rows, "stress")):
        content = read_file(raw / path, hashes[path])
        image = to_gray(decode(content, raw / path))
        if condition == SHAPE:
            image = crop_to_aspect_ratio(image, ratio)
        perturbed = CONDITIONS[condition](np.asarray(image), np.random.default_rng(number))
        yield prepare(Pillow.fromarray(perturbed), params)


def crop_to_aspect_ratio(image: Pillow.Image, ratio: float) -> Pillow.Image:
    """Take the largest center crop of an aspect ratio (width / height)."""
    width = min(image.width, max(1, round(image.height * ratio)))
    height = min(image.height, max(1, round(image.width / ratio)))
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
