"""Compile and fit, which all variants share, and the whole training of the small CNN."""

import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pandas as pd

from cxr import paths
from cxr.common import saving
from cxr.common.files import remove, write_csv
from cxr.errors import CxrError
from cxr.models import networks
from cxr.params import FitSection, ModelParams
from cxr.progress import Meter, epoch_line
from cxr.training import distribution
from cxr.training.batches import ShuffledIndices, class_weights, training_images
from cxr.training.checkpoint import TrainingCheckpoint
from cxr.training.fast_layers import OneKernelAdam, for_training

SHOWN = ("loss", "accuracy", "val_loss", "val_accuracy", "seconds")  # of an epoch
HISTORY_COLUMNS = ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "seconds", "kept"]


class EpochSeconds(keras.callbacks.Callback):
    """Adds the seconds that an epoch took, validation included, to what Keras records of it."""

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if logs is not None:
            logs["seconds"] = round(time.perf_counter() - self.started, 1)


class ShowEpochs(keras.callbacks.Callback):
    """Prints a line for each finished epoch; on a terminal also shows how far it is.

    Args:
        variant: of the training.
        epochs: the most there can be.
        finished: of an earlier run.
        batches: in an epoch.
    """

    def __init__(self, variant: str, epochs: int, finished: int, batches: int) -> None:
        super().__init__()
        self.variant, self.epochs, self.finished = variant, epochs, finished
        self.total = (epochs - finished) * batches

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self.started = time.perf_counter()
        self.meter = Meter(self.variant, self.total, "batches", lines=False)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.meter.advance()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        done = epoch + 1
        each = (time.perf_counter() - self.started) / (done - self.finished)
        figures = {name: logs[name] for name in SHOWN if name in logs} if logs else {}
        self.meter.say(epoch_line(done, self.epochs, figures, each * (self.epochs - done)))

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        self.meter.close()


def train(
    variant: str,
    model: keras.Model,
    batches: ShuffledIndices,
    val: ShuffledIndices,
    params: FitSection,
    class_weight: dict[int, float] | None = None,
    resume: bool = False,
) -> None:
    """Train on cross-entropy and write the history, one row per epoch.

    The history's columns: epoch (from 1), loss (weighted) and accuracy as seen while training,
    val_loss (unweighted) and val_accuracy after the epoch, seconds, and kept: 1 for the epoch whose
    weights the model ends with, else 0. That is the last one, or with early stopping the one of the
    lowest val_loss.

    Args:
        variant: name of the history file.
        model: gives the probability of PNEUMONIA (N, 1) or of K classes (N, K); trained in place.
        batches: shuffled training batches; they may carry a weight for each image.
        val: validation batches.
        params: how to train.
        class_weight: weight of each class in the loss.
        resume: save a checkpoint of each finished epoch until `save`, and resume from the one that
            an interrupted training of the same data, code and parameters left.

    Raises:
        CxrError: the loss became NaN or infinite; a file that the training's stage depends on is
            missing.
    """
    crossentropy = (
        keras.losses.BinaryCrossentropy
        if model.output_shape[-1] == 1
        else keras.losses.CategoricalCrossentropy
    )
    model.compile(
        optimizer=optimizer(params, len(batches) * params.epochs),
        loss=crossentropy(label_smoothing=params.label_smoothing),
        metrics=["accuracy"],
    )
    stopping = _early_stopping(params) if params.early_stopping else None
    checkpoint = TrainingCheckpoint(variant, resume, batches, stopping)
    finished = checkpoint.restore(model)
    if checkpoint.stopped:
        finished = params.epochs
    shown = ShowEpochs(variant, params.epochs, finished, len(batches))
    model.fit(
        batches,
        validation_data=val,
        initial_epoch=finished,
        epochs=params.epochs,
        class_weight=class_weight,
        callbacks=[*_callbacks(params), *filter(None, [stopping]), checkpoint, shown],
        shuffle=False,  # the batches shuffle themselves, by seed
        verbose=0,
    )
    table = pd.DataFrame(checkpoint.rows)
    table["epoch"] = np.arange(1, len(table) + 1)
    if not np.isfinite(table).all(axis=None):
        raise CxrError(
            f"{variant}: the loss became NaN or infinite in epoch {len(table)}; "
            f"use a smaller learning_rate than {params.learning_rate}"
        )
    kept = table["val_loss"].idxmin() if params.early_stopping else len(table) - 1
    table["kept"] = (table.index == kept).astype(int)
    if distribution.is_first():
        write_csv(paths.history(variant), table[HISTORY_COLUMNS])


def optimizer(params: FitSection, steps: int) -> keras.Optimizer:
    """Adam (Kingma 2015), with weight decay AdamW (Loshchilov 2019); with `ema_decay` an
    exponential moving average of the weights (Polyak 1992) is what the model ends with.
    """
    rate = params.learning_rate
    if params.schedule == "cosine":
        rate = _cosine(rate, steps)
    average: dict[str, Any] = (
        {"use_ema": True, "ema_momentum": params.ema_decay} if params.ema_decay else {}
    )
    return OneKernelAdam(rate, weight_decay=params.weight_decay or None, **average)


def _cosine(largest: float, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Steps that rise for a tenth of the training and then fall by half a cosine to nothing."""
    warmup = max(1, steps // 10)
    return keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warmup), warmup_target=largest, warmup_steps=warmup
    )


def _callbacks(params: FitSection) -> list[keras.callbacks.Callback]:
    callbacks = [EpochSeconds(), keras.callbacks.TerminateOnNaN()]
    if params.ema_decay:
        callbacks.append(keras.callbacks.SwapEMAWeights())  # validation judges the average
    return callbacks


def _early_stopping(params: FitSection) -> keras.callbacks.EarlyStopping:
    return keras.callbacks.EarlyStopping(
        monitor="val_loss", mode="min", patience=params.early_stopping, restore_best_weights=True
    )


def train_small_cnn(
    variant: str,
    params: ModelParams,
    seed: int,
    augmentation: Sequence[keras.Layer] = (),
    resume: bool = False,
) -> None:
    """Train the small CNN on the cached images; save it without what serves training alone.

    Args:
        variant: name of the model and of its history.
        params: of the network and of its training.
        seed: of the order of the images.
        augmentation: layers that change the images of training batches.
        resume: as `train` takes it.

    Raises:
        CxrError: as `train` raises it.
    """
    image, batches, val = training_images(params.batch_size, seed)
    network = networks.small_cnn(params)
    model = keras.Model(image, networks.apply(network, image))
    stack = [*augmentation, *for_training(network)]  # shares the weights of `model`
    learner = keras.Model(image, networks.apply(stack, image))
    weights = class_weights(batches.labels, params.class_weights)
    train(variant, learner, batches, val, params, weights, resume=resume)
    save(variant, model)


def save(variant: str, model: keras.Model) -> None:
    """Save a trained model and remove the checkpoint of its training."""
    if distribution.is_first():
        saving.save_model(model, paths.model(variant))
        remove(paths.resume(variant))
