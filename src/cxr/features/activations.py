"""The backbone in two parts, of which the first stays frozen and runs once for each image.

image -> `frozen` -> activations, kept on disk -> `tuned`, trained -> probability. With
`finetune.trainable_from: input` the frozen part only brings the image to its side, and the whole
backbone is trained. Training images have activations of perturbed copies, the others of views from
nearer and farther, over which probabilities are averaged.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from cxr.augment.augmentation import augment
from cxr.common.arrays import Split, batches, write_rows
from cxr.compute.engines import run_over
from cxr.models.split_backbone import rescale_view
from cxr.params import PerturbParams
from cxr.progress import track

BATCH_SIZE = 16  # images; of no influence on the activations


def perturbed(split: Split, copy: int, params: PerturbParams) -> Iterator[NDArray[np.uint8]]:
    """Images uint8 (S, S) of one copy: 0 is the images themselves, the others are perturbed. The
    same in every run, whatever `seed` is, so that seeds share the activations.
    """
    for row, image in enumerate(split.images):
        rng = np.random.default_rng([copy, row])
        yield augment(np.asarray(image), params, rng) if copy else image


def in_batches(images: Iterable[NDArray[np.uint8]], count: int) -> Iterator[NDArray[np.uint8]]:
    """Batches uint8 (n, S, S, 1) of `count` images."""
    for batch in batches(track(images, "activations", count), BATCH_SIZE):
        yield np.stack(batch)[..., np.newaxis]


def write_augmented(
    path: Path,
    frozen: keras.Model,
    engine: str,
    split: Split,
    copies: int,
    params: PerturbParams,
    scheduler: str = "",
) -> None:
    """Write the activations of images and of perturbed copies, float16 (1 + copies, N, h, w, c),
    the images' own first.

    Args:
        path: .npy file.
        frozen: images uint8 of any size (N, S, S, 1) -> float32 (N, h, w, c).
        engine: that runs it, as `transfer.inference_backend`.
        split: the images.
        copies: perturbed ones of each image.
        params: how they are perturbed.
        scheduler: as `preprocess.dask_scheduler`; copies are made on this machine.
    """
    images = chain.from_iterable(perturbed(split, copy, params) for copy in range(1 + copies))
    stacked = in_batches(images, (1 + copies) * len(split.images))
    rows = run_over(frozen, engine, stacked, scheduler)
    write_rows(path, rows, _shape(1 + copies, split, frozen), "float16")


def write_views(
    path: Path,
    frozen: keras.Model,
    engine: str,
    split: Split,
    zooms: tuple[float, ...],
    scheduler: str = "",
) -> None:
    """Write the activations of images seen at each zoom, float16 (len(zooms), N, h, w, c).

    Args:
        path: .npy file.
        frozen: images uint8 of any size (N, S, S, 1) -> float32 (N, h, w, c).
        engine: that runs it, as `transfer.inference_backend`.
        split: the images.
        zooms: as `look` takes them.
        scheduler: as `preprocess.dask_scheduler`.
    """
    views = (
        np.asarray(rescale_view(batch, zoom))
        for zoom in zooms
        for batch in in_batches(split.images, len(split.images))
    )
    rows = run_over(frozen, engine, views, scheduler)
    write_rows(path, rows, _shape(len(zooms), split, frozen), "float16")


def _shape(blocks: int, split: Split, frozen: keras.Model) -> tuple[int, ...]:
    return (blocks, len(split.images), *frozen.output_shape[1:])
