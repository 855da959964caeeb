"""MobileNetV2 in two parts, and images for it."""

from pathlib import Path

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr.common.arrays import Split, open_split, write_split
from cxr.models.split_backbone import SplitBackbone, split_backbone

SIZE = 64


def image_input() -> keras.KerasTensor:
    return keras.Input((SIZE, SIZE, 1), dtype="uint8", name="image")


def cut(weights: Path, trainable_from: str = "last_stage") -> SplitBackbone:
    return split_backbone("mobilenetv2", weights, "imagenet", SIZE, trainable_from)


def images(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 1)).astype(np.uint8)


def square_split(folder: Path) -> Split:
    """Twelve images: a bright square for PNEUMONIA, a dark one for NORMAL."""
    index = pd.DataFrame(
        {
            "path": [f"{n}.png" for n in range(12)],
            "label": ["NORMAL", "PNEUMONIA"] * 6,
            "pathogen": ["none", "virus", "none", "bacteria"] * 3,
        }
    )
    noise = np.random.default_rng(1).integers(0, 60, (12, SIZE, SIZE)).astype(np.uint8)
    noise[1::2, 16:48, 16:48] += 150
    write_split(folder, noise, index)
    return open_split(folder)
