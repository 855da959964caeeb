"""Shortcuts: metadata features that predict the label (Geirhos 2020).

If a single feature such as the aspect ratio, exposure, a border or a marker predicts the label, a
network may learn it in place of the disease, and test results from the same source do not show it.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from cxr.common.arrays import Split
from cxr.errors import CxrError

MAX_AUC = 0.75  # ROC AUC above which a feature counts as a shortcut: see docs/reliability.md
BORDER_FRACTION = 1 / 16  # width of the border, of the image width
CORNER_FRACTION = 1 / 8  # width of the corner squares, where most markers are
SHARPNESS_PERCENTILE = 98  # of the differences between adjacent pixels: letters have sharp edges


def sizes(index: pd.DataFrame) -> pd.DataFrame:
    """Measure the sizes of image files from their columns width and height.

    Returns:
        float64, rows as in `index`: width, height, shorter (the smaller of both) and size (square
        root of width times height) in pixels, and aspect_ratio (width / height).
    """
    pixels = index[["width", "height"]].astype(np.float64)
    return pixels.assign(
        shorter=pixels.min(axis=1),
        size=np.sqrt(pixels["width"] * pixels["height"]),
        aspect_ratio=pixels["width"] / pixels["height"],
    )


def metadata_features(split: Split) -> pd.DataFrame:
    """Compute features that do not depend on the disease, one row per image.

    Returns:
        Of the file: aspect_ratio (width / height), width and height (pixels), file_size (bytes). Of
        the square image: mean_brightness and border_brightness (0 to 255), and the edge strength
        in each corner, where markers are (edges_top_left etc., 0 to 510).
    """
    input_size = split.images.shape[1]
    border = np.ones((input_size, input_size), bool)
    width = max(1, round(input_size * BORDER_FRACTION))
    border[width:-width, width:-width] = False
    features = sizes(split.index)[["aspect_ratio", "width", "height"]].assign(
        file_size=split.index["bytes"].astype(np.float64),
        mean_brightness=[image.mean() for image in split.images],
        border_brightness=[image[border].mean() for image in split.images],
    )
    corner = max(2, round(input_size * CORNER_FRACTION))
    for vertical, rows in (("top", slice(corner)), ("bottom", slice(-corner, None))):
        for horizontal, columns in (("left", slice(corner)), ("right", slice(-corner, None))):
            features[f"edges_{vertical}_{horizontal}"] = [
                _edge_strength(image[rows, columns]) for image in split.images
            ]
    return features


def _edge_strength(pixels: NDArray[np.uint8]) -> float:
    """Sum of a high percentile of the vertical and of the horizontal gradients."""
    levels = pixels.astype(np.int16)
    gradients = [np.abs(np.diff(levels, axis=axis)) for axis in (0, 1)]
    return float(sum(np.percentile(part, SHARPNESS_PERCENTILE) for part in gradients))


def single_feature_auc(splits: dict[str, Split]) -> dict[str, dict[str, float]]:
    """Compute the ROC AUC of each metadata feature for PNEUMONIA, by feature and split.

    The sign of each feature is chosen on train, where the AUC is at least 0.5.

    Args:
        splits: `train`, and any others.
    """
    features = {name: metadata_features(split) for name, split in splits.items()}
    result: dict[str, dict[str, float]] = {}
    for column in features["train"]:
        aucs = {n: float(roc_auc_score(s.labels, features[n][column])) for n, s in splits.items()}
        result[column] = aucs if aucs["train"] >= 0.5 else {n: 1 - a for n, a in aucs.items()}
    return result


def guard(train: Split, on_shortcut: str) -> dict[str, float]:
    """Report metadata features that predict the label of training images.

    Returns:
        ROC AUC of each feature, 0.5 to 1.

    Raises:
        CxrError: a ROC AUC exceeds `MAX_AUC`, and `on_shortcut` is `error`; names each.
    """
    by_feature = single_feature_auc({"train": train})
    train_aucs = {name: aucs["train"] for name, aucs in by_feature.items()}
    if shortcuts := {name: auc for name, auc in train_aucs.items() if auc > MAX_AUC}:
        listed = "\n".join(f"  {name}: {auc:.3f}" for name, auc in shortcuts.items())
        message = (
            f"{len(shortcuts)} metadata feature(s) predict the training labels with a ROC AUC "
            f"above {MAX_AUC}:\n{listed}\n"
            "  A network may learn such a shortcut in place of the disease. Remove the difference "
            "between the classes (image.resize, other files)"
        )
        if on_shortcut == "error":
            raise CxrError(f"{message}, or set data.on_shortcut to warn.")
        print(f"WARNING: {message}; see docs/findings.md for the effect.")
    return train_aucs
