"""Small splits of noise in which brightness and size predict the label."""

import numpy as np
import pandas as pd

from cxr.common.arrays import Split

COUNTS = {"train": 120, "val": 40, "test": 60}


def split_of(name: str, images: int, seed: int) -> Split:
    """Half PNEUMONIA, two images per patient; PNEUMONIA images are wider and brighter."""
    rng = np.random.default_rng(seed)
    is_positive = np.arange(images) % 4 >= 2
    brightness = np.where(is_positive, 140, 100)[:, None, None]
    pixels = np.clip(rng.normal(brightness, 5, (images, 32, 32)), 0, 255).astype(np.uint8)
    index = pd.DataFrame(
        {
            "path": [f"{name}/{number}.png" for number in range(images)],
            "label": np.where(is_positive, "PNEUMONIA", "NORMAL"),
            "patient": [f"{name}{number // 2}" for number in range(images)],
            "width": np.where(is_positive, 500, 400) + rng.integers(0, 50, images),
            "height": 400,
            "bytes": rng.integers(1000, 2000, images),
        }
    ).astype(str)
    return Split(pixels, index)
