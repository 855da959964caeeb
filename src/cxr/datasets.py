"""Arrays -> batches for Keras, and class weights."""

import math
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from cxr import paths
from cxr.arrays import Split, open_split

Batch = tuple[NDArray[Any], NDArray[np.float32]]


class Batches(keras.utils.PyDataset):
    """Batches of a (memory-mapped) array and its labels, each row exactly once per epoch.

    Args:
        rows: images uint8 (N, H, W), given to the network as (n, H, W, 1), or features
            float32 (N, ...), given as they are.
        labels: class numbers (N,).
        batch_size: rows per batch; the last batch may be smaller.
        shuffle_seed: None keeps the order; else every epoch has an order of its own that depends
            only on this seed and the epoch's number.
    """

    def __init__(
        self,
        rows: NDArray[Any],
        labels: NDArray[np.int64],
        batch_size: int,
        shuffle_seed: int | None = None,
    ) -> None:
        super().__init__()
        self.rows = rows[..., np.newaxis] if rows.ndim == 3 and rows.dtype == np.uint8 else rows
        self.labels = labels
        self.batch_size = batch_size
        self.shuffle_seed = shuffle_seed
        self.epoch = 0
        self.order = np.arange(len(rows))

    def on_epoch_begin(self) -> None:
        """Draw the order of the epoch that begins."""
        if self.shuffle_seed is not None:
            generator = np.random.default_rng([self.shuffle_seed, self.epoch])
            self.order = generator.permutation(len(self.rows))
        self.epoch += 1

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.batch_size)

    def __getitem__(self, number: int) -> Batch:
        chosen = self.order[number * self.batch_size : (number + 1) * self.batch_size]
        return self.rows[chosen], self.labels[chosen, np.newaxis].astype(np.float32)


def training_images(batch_size: int, seed: int) -> tuple[keras.KerasTensor, Batches, Batches]:
    """Symbolic input, shuffled training batches and validation batches of the cached images."""
    train, val = open_split(paths.ARRAYS / "train"), open_split(paths.ARRAYS / "val")
    batches = image_batches(train, batch_size, seed), image_batches(val, batch_size)
    return image_input(train), *batches


def image_batches(split: Split, batch_size: int, shuffle_seed: int | None = None) -> Batches:
    """Batches of a split's images."""
    return Batches(split.images, split.labels, batch_size, shuffle_seed)


def image_input(split: Split) -> keras.KerasTensor:
    """The input that every saved model has: uint8 grey (N, H, W, 1)."""
    return keras.Input((*split.images.shape[1:], 1), dtype="uint8", name="image")


def class_weights(labels: NDArray[np.int64], mode: str) -> dict[int, float] | None:
    """Weight of each class in the loss: total / (2 x count) for `balanced`, None for `none`."""
    if mode == "none":
        return None
    counts = np.bincount(labels, minlength=2)
    return {label: len(labels) / (2 * int(count)) for label, count in enumerate(counts)}
