"""Batches for Keras from cached arrays, and class weights."""

import math
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from cxr import paths
from cxr.common.arrays import Split, open_split
from cxr.errors import CxrError
from cxr.models.networks import image_input
from cxr.training import distribution

Batch = tuple[NDArray[Any], NDArray[np.float32]]


class ShuffledIndices(keras.utils.PyDataset):
    """Batches of row indices, each row once per epoch.

    With several devices (`distribution`), shuffled batches are split evenly, and each epoch skips
    up to one row less than there are devices. With `multihost`, each device gets the whole of an
    unshuffled batch, so that its mean loss is exact.

    Args:
        count: number of rows.
        batch_size: rows per batch over all processes; the last batch may be smaller.
        shuffle_seed: None keeps the order; otherwise the order of each epoch of `fit` depends only
            on this seed and the number of the epoch.

    Raises:
        CxrError: a batch cannot be split evenly.
    """

    def __init__(self, count: int, batch_size: int, shuffle_seed: int | None) -> None:
        super().__init__()
        self.process = distribution.process_info()
        devices = distribution.devices()
        if batch_size % devices:
            raise CxrError(
                f"batch_size {batch_size} cannot be split over {devices} devices; "
                f"use a multiple of {devices}"
            )
        self.batch_size, self.shuffle_seed = batch_size, shuffle_seed
        self.used = count if shuffle_seed is None else count - count % devices
        self.order = np.arange(count)
        self.epoch = -1  # Keras calls `on_epoch_end` once before the first epoch

    def on_epoch_end(self) -> None:
        """Draw the order of the next epoch.

        Not `on_epoch_begin`: how often Keras calls that depends on the backend, whereas every
        backend calls this once before the first epoch.
        """
        self.epoch += 1
        if self.shuffle_seed is not None:
            rng = np.random.default_rng([self.shuffle_seed, self.epoch])
            self.order = rng.permutation(len(self.order))

    def skip_epochs(self, epochs: int) -> None:
        """Start after the completed epochs of a resumed training; call it before `fit`."""
        self.epoch = epochs - 1

    def __len__(self) -> int:
        return math.ceil(self.used / self.batch_size)

    def batch_indices(self, number: int) -> NDArray[np.int64]:
        """Row indices int64 (n,) of the part of a batch that belongs to this process."""
        start = number * self.batch_size
        rows = self.order[start : min(start + self.batch_size, self.used)]
        if self.shuffle_seed is None:
            return np.tile(rows, self.process.local_devices)
        return np.split(rows, self.process.count)[self.process.index]


class ArrayDataset(ShuffledIndices):
    """Batches of a (memory-mapped) array and its labels.

    Args:
        rows: images uint8 (N, H, W), passed to the network as (n, H, W, 1), or features
            float32 (N, ...), passed unchanged.
        labels: class indices (N,).
        batch_size: as in `ShuffledIndices`.
        shuffle_seed: as in `ShuffledIndices`.
    """

    def __init__(
        self,
        rows: NDArray[Any],
        labels: NDArray[np.int64],
        batch_size: int,
        shuffle_seed: int | None = None,
    ) -> None:
        super().__init__(len(rows), batch_size, shuffle_seed)
        self.rows = rows[..., np.newaxis] if rows.ndim == 3 and rows.dtype == np.uint8 else rows
        self.labels = labels

    def __getitem__(self, number: int) -> Batch:
        indices = self.batch_indices(number)
        return self.rows[indices], self.labels[indices, np.newaxis].astype(np.float32)


def training_images(
    batch_size: int, seed: int
) -> tuple[keras.KerasTensor, ArrayDataset, ArrayDataset]:
    """Symbolic input, shuffled training batches and validation batches of the cached images."""
    train, val = open_split(paths.ARRAYS / "train"), open_split(paths.ARRAYS / "val")
    batches = image_batches(train, batch_size, seed), image_batches(val, batch_size)
    return image_input(train), *batches


def image_batches(split: Split, batch_size: int, shuffle_seed: int | None = None) -> ArrayDataset:
    """Batches of a split's images."""
    return ArrayDataset(split.images, split.labels, batch_size, shuffle_seed)


def class_weights(labels: NDArray[np.int64], mode: str) -> dict[int, float] | None:
    """Weight of each class in the loss: total / (2 x count) for `balanced`, None for `none`."""
    if mode == "none":
        return None
    counts = np.bincount(labels, minlength=2)
    return {label: len(labels) / (2 * int(count)) for label, count in enumerate(counts)}
