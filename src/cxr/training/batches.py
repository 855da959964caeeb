"""Arrays -> batches for Keras, and class weights."""

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
    """Batches of row numbers, each row once per epoch.

    Where a training is spread over several devices (`distribution`), shuffled batches are split
    evenly, and up to one row less than there are devices is left out of an epoch. By `multihost`,
    others go to each device as a whole, so that their mean loss is exact.

    Args:
        count: rows.
        batch_size: rows per batch, of all processes together; the last batch may be smaller.
        shuffle_seed: None keeps the order; else every epoch of `fit` has an order of its own that
            depends only on this seed and the epoch's number.

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
                "use a multiple of their number"
            )
        self.batch_size, self.shuffle_seed = batch_size, shuffle_seed
        self.used = count if shuffle_seed is None else count - count % devices
        self.order = np.arange(count)
        self.epoch = -1  # of the end that `fit` tells before the first epoch

    def on_epoch_end(self) -> None:
        """Draw the order of the next epoch.

        Not at its begin: Keras ends one epoch before the first on every backend, whereas how many
        it begins depends on the backend.
        """
        self.epoch += 1
        if self.shuffle_seed is not None:
            drawn = np.random.default_rng([self.shuffle_seed, self.epoch])
            self.order = drawn.permutation(len(self.order))

    def skip_epochs(self, epochs: int) -> None:
        """Begin after `epochs` epochs, those of a resumed training; call it before `fit`."""
        self.epoch = epochs - 1

    def __len__(self) -> int:
        return math.ceil(self.used / self.batch_size)

    def batch_indices(self, number: int) -> NDArray[np.int64]:
        """Row numbers int64 (n,) of the part of a batch that this process takes."""
        start = number * self.batch_size
        rows = self.order[start : min(start + self.batch_size, self.used)]
        if self.shuffle_seed is None:
            return np.tile(rows, self.process.local_devices)
        return np.split(rows, self.process.count)[self.process.index]


class ArrayDataset(ShuffledIndices):
    """Batches of a (memory-mapped) array and its labels.

    Args:
        rows: images uint8 (N, H, W), given to the network as (n, H, W, 1), or features
            float32 (N, ...), given as they are.
        labels: class numbers (N,).
        batch_size: as `ShuffledIndices`.
        shuffle_seed: as `ShuffledIndices`.
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
