"""Stress validation: the validation images as other machines and people might have made them.

Plain validation comes from the same pool as training, so it rewards whatever tells the classes
there, also what is no disease: shapes, borders, markers, exposure (shortcuts, Geirhos 2020). Each
condition here changes such a thing for both classes and leaves the disease as it is. It is made of
validation images alone; the test split has no part in it.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image as Pillow

from cxr.augment import perturbations as change
from cxr.common.names import LABELS
from cxr.data.images import decode, read_file, to_gray
from cxr.data.transforms import prepare
from cxr.params import ImageParams
from cxr.progress import track

Image = NDArray[np.uint8]
Condition = Callable[[Image, np.random.Generator], Image]

SHAPE = "other_shape"  # its index has other aspect ratios
EDGE = (0.1, 0.1, 0.1, 0.1)


def _other_machine(image: Image, rng: np.random.Generator) -> Image:
    return change.text_overlay(change.border(change.exposure(image, gamma=1.4), EDGE), rng, 5)


CONDITIONS: dict[str, Condition] = {
    SHAPE: lambda image, rng: image,
    "smaller": lambda image, rng: change.affine(image, zoom=0.8),
    "larger": lambda image, rng: change.affine(image, zoom=1.25),
    "dark": lambda image, rng: change.exposure(image, gamma=1.6),
    "bright": lambda image, rng: change.exposure(image, gamma=0.6),
    "equalized": lambda image, rng: change.equalize(image),
    "borders": lambda image, rng: change.border(image, EDGE),
    "markers": lambda image, rng: change.text_overlay(image, rng, 5),
    "low_quality": lambda image, rng: change.compress(change.downscale(image, 0.5), 25),
    "other_machine": _other_machine,
}


def stress_index(index: pd.DataFrame) -> pd.DataFrame:
    """The validation index once for each condition, named in the column `condition`, with the
    aspect ratio (width / height) that the image gets in the column `aspect_ratio`.

    Args:
        index: of validation, with the columns label, width, height (pixels).
    """
    table = index.assign(aspect_ratio=index["width"].astype(float) / index["height"].astype(float))
    other = swapped_aspect_ratios(table["aspect_ratio"], table["label"])
    return pd.concat(
        [
            table.assign(condition=name, aspect_ratio=other)
            if name == SHAPE
            else table.assign(condition=name)
            for name in CONDITIONS
        ],
        ignore_index=True,
    )


def swapped_aspect_ratios(ratios: pd.Series, labels: pd.Series) -> pd.Series:
    """Give each image the aspect ratio of the same rank in the other class."""
    swapped = ratios.copy()
    for mine, other in (LABELS, LABELS[::-1]):
        ranks = ratios[labels == mine].rank(pct=True)
        swapped[labels == mine] = np.quantile(ratios[labels == other], ranks)
    return swapped


def stress_images(
    raw: Path, index: pd.DataFrame, hashes: Mapping[str, str], params: ImageParams
) -> Iterator[Image]:
    """Images uint8 (S, S) in the order of `stress_index`; the same in every run.

    A condition acts on the image of the file, before it is prepared as every image is.

    Args:
        raw: folder to which the paths of the index are relative.
        index: as `stress_index` gives it.
        hashes: SHA-256 that each file has to have, by its path.
        params: how images are prepared.

    Raises:
        ImageError: a file changed or became unreadable since it was verified.
    """
    rows = list(zip(index["path"], index["condition"], index["aspect_ratio"], strict=True))
    for number, (path, condition, ratio) in enumerate(track(rows, "stress")):
        content = read_file(raw / path, hashes[path])
        image = to_gray(decode(content, raw / path))
        if condition == SHAPE:
            image = cut_to_aspect_ratio(image, ratio)
        changed = CONDITIONS[condition](np.asarray(image), np.random.default_rng(number))
        yield prepare(Pillow.fromarray(changed), params)


def cut_to_aspect_ratio(image: Pillow.Image, ratio: float) -> Pillow.Image:
    """The largest centred part of an image whose width is `ratio` times its height."""
    width = min(image.width, max(1, round(image.height * ratio)))
    height = min(image.height, max(1, round(image.width / ratio)))
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
