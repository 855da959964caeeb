"""Compile and fit any variant; train the small CNN."""

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

EPOCH_METRICS = ("loss", "accuracy", "val_loss", "val_accuracy", "seconds")  # as printed
HISTORY_COLUMNS = ["epoch", *EPOCH_METRICS, "kept"]


class EpochSeconds(keras.callbacks.Callback):
    """Add the duration of an epoch in seconds, validation included, to its logs."""

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if logs is not None:
            logs["seconds"] = round(time.perf_counter() - self.started, 1)


class ShowEpochs(keras.callbacks.Callback):
    """Print a line for each completed epoch; on a terminal, show the progress too.

    Args:
        variant: name of the variant.
        epochs: maximum number of epochs.
        finished: number of epochs that an earlier run completed.
        batches: number of batches of an epoch.
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
        duration = (time.perf_counter() - self.started) / (done - self.finished)
        metrics = {name: logs[name] for name in EPOCH_METRICS if name in logs} if logs else {}
        self.meter.say(epoch_line(done, self.epochs, metrics, duration * (self.epochs - done)))

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

    Columns of the history: epoch (from 1), loss (weighted) and accuracy during training, val_loss
    (unweighted) and val_accuracy after the epoch, seconds, and kept: 1 for the epoch whose weights
    the model keeps, otherwise 0. That is the last epoch or, with early stopping, the one with the
    lowest val_loss.

    Args:
        variant: name of the history file.
        model: its output is the probability of PNEUMONIA (N, 1) or of K classes (N, K); trained in
            place.
        batches: shuffled training batches; they may have a weight for each image.
        val: validation batches.
        params: hyperparameters of the training.
        class_weight: weight of each class in the loss.
        resume: save a checkpoint after each epoch, which `save` removes, and resume from that of an
            interrupted training with the same data, code, parameters and libraries.

    Raises:
        CxrError: the loss became NaN or infinite; a dependency of the stage is missing.
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
    progress = ShowEpochs(variant, params.epochs, finished, len(batches))
    model.fit(
        batches,
        validation_data=val,
        initial_epoch=finished,
        epochs=params.epochs,
        class_weight=class_weight,
        callbacks=[*_callbacks(params), *filter(None, [stopping]), checkpoint, progress],
        shuffle=False,  # the batches are shuffled by their seed
        verbose=0,
    )
    table = pd.DataFrame(checkpoint.rows)
    table["epoch"] = np.arange(1, len(table) + 1)
    if not np.isfinite(table).all(axis=None):
        raise CxrError(
            f"{variant}: the loss became NaN or infinite in epoch {len(table)}; "
            f"lower learning_rate ({params.learning_rate})"
        )
    kept = table["val_loss"].idxmin() if params.early_stopping else len(table) - 1
    table["kept"] = (table.index == kept).astype(int)
    if distribution.is_first():
        write_csv(paths.history(variant), table[HISTORY_COLUMNS])


def optimizer(params: FitSection, steps: int) -> keras.Optimizer:
    """Adam (Kingma 2015), with weight decay AdamW (Loshchilov 2019); with `ema_decay`, the final
    weights are their exponential moving average (Polyak 1992).
    """
    rate = params.learning_rate
    if params.schedule == "cosine":
        rate = _cosine(rate, steps)
    ema: dict[str, Any] = (
        {"use_ema": True, "ema_momentum": params.ema_decay} if params.ema_decay else {}
    )
    return OneKernelAdam(rate, weight_decay=params.weight_decay or None, **ema)


def _cosine(peak: float, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Linear warm-up to the peak over a tenth of the steps, then cosine decay to 0."""
    warmup = max(1, steps // 10)
    return keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warmup), warmup_target=peak, warmup_steps=warmup
    )


def _callbacks(params: FitSection) -> list[keras.callbacks.Callback]:
    callbacks = [EpochSeconds(), keras.callbacks.TerminateOnNaN()]
    if params.ema_decay:
        callbacks.append(keras.callbacks.SwapEMAWeights())  # validate the averaged weights
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
    """Train the small CNN on the cached images; save it without its training-only layers.

    Args:
        variant: name of the model and of its history.
        params: hyperparameters of the network and of its training.
        seed: of the order of the images.
        augmentation: layers that augment the training batches.
        resume: as in `train`.

    Raises:
        CxrError: as in `train`.
    """
    image, batches, val = training_images(params.batch_size, seed)
    network = networks.small_cnn(params)
    model = keras.Model(image, networks.apply(network, image))
    stack = [*augmentation, *for_training(network)]  # shares the weights of `model`
    training_model = keras.Model(image, networks.apply(stack, image))
    weights = class_weights(batches.labels, params.class_weights)
    train(variant, training_model, batches, val, params, weights, resume=resume)
    save(variant, model)


def save(variant: str, model: keras.Model) -> None:
    """Save a trained model and remove the checkpoint of its training."""
    if distribution.is_first():
        saving.save_model(model, paths.model(variant))
        remove(paths.resume(variant))
