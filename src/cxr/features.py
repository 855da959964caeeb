"""Features of the frozen backbone: computed once for each image, whatever head is trained."""

from pathlib import Path

import keras

from cxr.arrays import Split, write_rows
from cxr.datasets import image_batches
from cxr.engines import run_over
from cxr.progress import track

BATCH_SIZE = 32  # images; of no influence on the result


def extract(
    extractor: keras.Model, engine: str, split: Split, path: Path, scheduler: str = ""
) -> None:
    """Write the features of a split.

    Args:
        extractor: uint8 (N, S, S, 1) -> float32 (N, D).
        engine: that runs it, as `transfer.engine`.
        split: the images.
        path: .npy file, float32 (N, D), rows as in the split's index.
        scheduler: as `preprocess.scheduler`.
    """
    batches = image_batches(split, BATCH_SIZE)
    numbers = track(range(len(batches)), f"features of {path.stem}", unit="batches")
    images = (batches[number][0] for number in numbers)
    rows = run_over(extractor, engine, images, scheduler)
    write_rows(path, rows, (len(split.images), extractor.output_shape[1]), "float32")
