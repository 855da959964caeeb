"""Activations of the frozen layers, the input of fine-tuning.

Of training images and their augmented versions; of other images at each scale of test-time
augmentation.
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

BATCH_SIZE = 16  # images; does not affect the result


def augmented_images(
    split: Split, version: int, params: PerturbParams
) -> Iterator[NDArray[np.uint8]]:
    """Yield one augmented version of each image, uint8 (S, S); version 0 is the original.

    Independent of the parameter `seed`, so that runs with different seeds share the activations.
    """
    for row, image in enumerate(split.images):
        rng = np.random.default_rng([version, row])
        yield augment(np.asarray(image), params, rng) if version else image


def image_batches(images: Iterable[NDArray[np.uint8]], count: int) -> Iterator[NDArray[np.uint8]]:
    """Yield `count` images uint8 (S, S) in batches uint8 (n, S, S, 1), with a progress bar."""
    for batch in batches(track(images, "activations", count), BATCH_SIZE):
        yield np.stack(batch)[..., np.newaxis]


def write_augmented(
    path: Path,
    frozen: keras.Model,
    inference_backend: str,
    split: Split,
    n_augmentations: int,
    params: PerturbParams,
    dask_scheduler: str = "",
) -> None:
    """Write the activations of the images, then of each of their augmented versions.

    Args:
        path: .npy file, float16 (1 + n_augmentations, N, h, w, c).
        frozen: images uint8 (N, S, S, 1) of any size -> float32 (N, h, w, c).
        inference_backend: as `transfer.inference_backend`.
        split: images.
        n_augmentations: augmented versions per image.
        params: perturbations of the augmented versions.
        dask_scheduler: as `preprocess.dask_scheduler`; images are perturbed on this machine.

    Raises:
        CxrError: the backend or the cluster cannot be used.
    """
    versions = range(1 + n_augmentations)
    images = chain.from_iterable(augmented_images(split, version, params) for version in versions)
    batched = image_batches(images, len(versions) * len(split.images))
    rows = run_over(frozen, inference_backend, batched, dask_scheduler)
    write_rows(path, rows, _shape(len(versions), split, frozen), "float16")


def write_views(
    path: Path,
    frozen: keras.Model,
    inference_backend: str,
    split: Split,
    tta_scales: tuple[float, ...],
    dask_scheduler: str = "",
) -> None:
    """Write the activations of the images at each scale of test-time augmentation.

    Args:
        path: .npy file, float16 (len(tta_scales), N, h, w, c).
        frozen: images uint8 (N, S, S, 1) of any size -> float32 (N, h, w, c).
        inference_backend: as `transfer.inference_backend`.
        split: images.
        tta_scales: as for `rescale_view`.
        dask_scheduler: as `preprocess.dask_scheduler`.

    Raises:
        CxrError: the backend or the cluster cannot be used.
    """
    views = (
        np.asarray(rescale_view(batch, scale))
        for scale in tta_scales
        for batch in image_batches(split.images, len(split.images))
    )
    rows = run_over(frozen, inference_backend, views, dask_scheduler)
    write_rows(path, rows, _shape(len(tta_scales), split, frozen), "float16")


def _shape(blocks: int, split: Split, frozen: keras.Model) -> tuple[int, ...]:
    return (blocks, len(split.images), *frozen.output_shape[1:])
