"""Checks of the images to be predicted, the same for one image and for columns of a table."""

from collections.abc import Sequence
from typing import Any


def failed_checks(
    ood_score: Any,
    shorter_side: Any,
    aspect_ratio: Any,
    input_size: int,
    training_range: Sequence[float],
) -> dict[str, Any]:
    """Which checks an image fails; each number may be a column, and the results are then columns.

    Args:
        ood_score: distance from the training images, relative to its threshold.
        shorter_side: of the file, in pixels.
        aspect_ratio: width / height of the file.
        input_size: width of the network input in pixels.
        training_range: lowest and highest aspect ratio of the training files.

    Returns:
        `ood`, `small` and `aspect_ratio`: true where the check fails.
    """
    low, high = training_range
    return {
        "ood": ood_score > 1,
        "small": shorter_side < input_size,
        "aspect_ratio": (aspect_ratio < low) | (aspect_ratio > high),
    }
