"""Features of the frozen backbone: computed once for each image, whatever head is trained."""

from pathlib import Path

import keras
import numpy as np

from cxr.common.arrays import Split, batches, write_rows
from cxr.compute.engines import run_over
from cxr.progress import track

BATCH_SIZE = 32  # images; of no influence on the result


def extract(
    extractor: keras.Model, engine: str, split: Split, path: Path, scheduler: str = ""
) -> None:
    """Write the features of a split.

    Args:
        extractor: uint8 (N, S, S, 1) -> float32 (N, D).
        engine: that runs it, as `transfer.inference_backend`.
        split: the images.
        path: .npy file, float32 (N, D), rows as in the split's index.
        scheduler: as `preprocess.dask_scheduler`.
    """
    images = track(split.images[..., np.newaxis], f"features of {path.stem}")
    stacked = map(np.stack, batches(images, BATCH_SIZE))
    rows = run_over(extractor, engine, stacked, scheduler)
    write_rows(path, rows, (len(split.images), extractor.output_shape[1]), "float32")
