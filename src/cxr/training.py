"""Compile and fit: the part that all variants share."""

import sys
import time
from typing import Protocol

import keras
import numpy as np
import pandas as pd

from cxr import paths
from cxr.datasets import Batches, class_weights
from cxr.errors import CxrError
from cxr.files import write_csv

HISTORY_COLUMNS = ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "seconds", "kept"]


class FitParams(Protocol):
    """What `train` needs of a section of params.yaml."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def epochs(self) -> int: ...
    @property
    def early_stopping(self) -> int: ...
    @property
    def class_weights(self) -> str: ...


class EpochSeconds(keras.callbacks.Callback):
    """Adds the seconds that an epoch took, validation included, to what Keras records of it."""

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if logs is not None:
            logs["seconds"] = round(time.perf_counter() - self.started, 1)


def train(
    variant: str, model: keras.Model, train: Batches, val: Batches, params: FitParams
) -> None:
    """Train with Adam on binary cross-entropy and write the history, one row per epoch.

    The history's columns: epoch (from 1), loss (class-weighted) and accuracy as seen while
    training, val_loss (unweighted) and val_accuracy after the epoch, seconds, and kept: 1 for the
    epoch whose weights the model ends with, else 0. That is the last one, or with early stopping
    the one of the lowest val_loss.

    Args:
        variant: name of the history file.
        model: gives the probability of PNEUMONIA (N, 1); trained in place.
        train: shuffled training batches.
        val: validation batches.
        params: learning rate, epochs, early stopping (epochs to wait, 0 for none), class weights.

    Raises:
        CxrError: the loss became NaN or infinite.
    """
    model.compile(
        optimizer=keras.optimizers.Adam(params.learning_rate),
        loss="binary_crossentropy",
        metrics=["accuracy"],
    )
    callbacks = [EpochSeconds(), keras.callbacks.TerminateOnNaN()]
    if params.early_stopping:
        callbacks.append(
            keras.callbacks.EarlyStopping(
                monitor="val_loss", patience=params.early_stopping, restore_best_weights=True
            )
        )
    history = model.fit(
        train,
        validation_data=val,
        epochs=params.epochs,
        class_weight=class_weights(train.labels, params.class_weights),
        callbacks=callbacks,
        shuffle=False,  # the batches shuffle themselves, by seed
        verbose="auto" if sys.stdout.isatty() else 2,
    )
    table = pd.DataFrame(history.history).assign(epoch=[epoch + 1 for epoch in history.epoch])
    if not np.isfinite(table).all(axis=None):
        raise CxrError(
            f"{variant}: the loss became NaN or infinite in epoch {len(table)}; "
            f"use a smaller learning_rate than {params.learning_rate}"
        )
    kept = table["val_loss"].idxmin() if params.early_stopping else len(table) - 1
    table["kept"] = (table.index == kept).astype(int)
    write_csv(paths.history(variant), table[HISTORY_COLUMNS])
