"""Features of the frozen backbone, the input of every trained head."""

from pathlib import Path

import keras
import numpy as np

from cxr.common.arrays import Split, batches, write_rows
from cxr.compute.engines import run_over
from cxr.progress import track

BATCH_SIZE = 32  # images; does not affect the result


def extract(
    extractor: keras.Model,
    inference_backend: str,
    split: Split,
    path: Path,
    dask_scheduler: str = "",
) -> None:
    """Write the features of a split.

    Args:
        extractor: uint8 (N, S, S, 1) -> float32 (N, D).
        inference_backend: as `transfer.inference_backend`.
        split: images.
        path: .npy file, float32 (N, D), rows in the order of the split's index.
        dask_scheduler: as `preprocess.dask_scheduler`.

    Raises:
        CxrError: the backend or the cluster cannot be used.
    """
    images = track(split.images[..., np.newaxis], f"features of {path.stem}")
    stacked = map(np.stack, batches(images, BATCH_SIZE))
    rows = run_over(extractor, inference_backend, stacked, dask_scheduler)
    write_rows(path, rows, (len(split.images), extractor.output_shape[1]), "float32")
