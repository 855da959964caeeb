"""What tells the label without any disease: shortcut features (Geirhos 2020).

A network takes whatever tells the classes of its training images apart. Where a plain number does
so (the shape of files, exposure, borders, a marker that one class carries), results on images of
the same origin say little about the disease.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from cxr.common.arrays import Split
from cxr.errors import CxrError

MAX_AUC = 0.75  # ROC AUC above which a number tells the label: docs/reliability.md says why
FRAME = 1 / 16  # of the image's side: width of its border
CORNER = 1 / 8  # of the image's side: side of the squares in which side markers mostly stand
SHARP = 98  # percentile of the steps between neighbouring pixels: letters have sharp edges

Number = NDArray[np.float64]


def sizes(index: pd.DataFrame) -> pd.DataFrame:
    """Sizes of the image files, from a split's index: float64 columns width, height, shorter (the
    shorter side), size (square root of width times height), all in pixels, and aspect_ratio (width
    / height). Rows as in `index`.
    """
    found = index[["width", "height"]].astype(np.float64)
    return found.assign(
        shorter=found.min(axis=1),
        size=np.sqrt(found["width"] * found["height"]),
        aspect_ratio=found["width"] / found["height"],
    )


def metadata_features(split: Split) -> pd.DataFrame:
    """One row per image. Of its file: aspect_ratio (width / height), width and height (pixels) and
    file_size (bytes). Of the square image that networks see: mean_brightness and border_brightness
    (0 to 255), and for each corner how sharp its edges are, as those of a side marker
    (edges_top_left and so on, 0 to 510).
    """
    measured = sizes(split.index)
    side = split.images.shape[1]
    frame = np.ones((side, side), bool)
    width = max(1, round(side * FRAME))
    frame[width:-width, width:-width] = False
    return pd.DataFrame(
        {
            "aspect_ratio": measured["aspect_ratio"],
            "width": measured["width"],
            "height": measured["height"],
            "file_size": split.index["bytes"].astype(np.float64),
            "mean_brightness": [image.mean() for image in split.images],
            "border_brightness": [image[frame].mean() for image in split.images],
        }
        | {
            f"edges_{name}": [_sharpness(image[corner]) for image in split.images]
            for name, corner in _corners(side).items()
        }
    )


def _corners(side: int) -> dict[str, tuple[slice, slice]]:
    width = max(2, round(side * CORNER))
    top, bottom = slice(None, width), slice(-width, None)
    return {
        "top_left": (top, top),
        "top_right": (top, bottom),
        "bottom_left": (bottom, top),
        "bottom_right": (bottom, bottom),
    }


def _sharpness(pixels: NDArray[np.uint8]) -> float:
    """Large steps between neighbours, across and down together."""
    levels = pixels.astype(np.int16)
    steps = [np.abs(np.diff(levels, axis=axis)) for axis in (0, 1)]
    return float(sum(np.percentile(step, SHARP) for step in steps))


def single_feature_auc(splits: dict[str, Split]) -> dict[str, dict[str, float]]:
    """How well one plain number tells PNEUMONIA: `{number: {split: ROC AUC}}`.

    Each number is read in the direction (more or less means ill) that fits train.

    Args:
        splits: train, and any others.
    """
    numbers = {name: metadata_features(split) for name, split in splits.items()}
    result: dict[str, dict[str, float]] = {}
    for column in numbers["train"]:
        aucs = {n: float(roc_auc_score(s.labels, numbers[n][column])) for n, s in splits.items()}
        result[column] = aucs if aucs["train"] >= 0.5 else {n: 1 - a for n, a in aucs.items()}
    return result


def guard(train: Split, on_shortcut: str) -> dict[str, float]:
    """Tell of the plain numbers that tell the label of training images too well.

    Args:
        train: the training images.
        on_shortcut: `error` or `warn`.

    Returns:
        ROC AUC of each number, 0.5 to 1.

    Raises:
        CxrError: with `error`, every number whose ROC AUC is above `BOUND`.
    """
    found = {name: aucs["train"] for name, aucs in single_feature_auc({"train": train}).items()}
    if beyond := {name: auc for name, auc in found.items() if auc > MAX_AUC}:
        listed = "\n".join(f"  {name}: {auc:.3f}" for name, auc in beyond.items())
        message = (
            f"{len(beyond)} plain number(s) tell the label of training images with a ROC AUC above "
            f"{MAX_AUC}:\n{listed}\n"
            "  A network may take that for the disease. Make the classes alike (image.resize, "
            "other files)"
        )
        if on_shortcut == "error":
            raise CxrError(f"{message}, or set data.on_shortcut to warn.")
        print(f"WARNING: {message}; docs/findings.md tells what it costs.")
    return found
