"""Reimplementation of the notebook: Keras decodes the images in each epoch, layers have the
notebook's order, and the frozen backbone runs in each epoch.
"""

from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from keras import layers

from benchmarks.timing import cores

SIZE = 256  # pixels
BATCH_SIZE = 32  # images


def read(folder: Path, color_mode: str = "grayscale", shuffle: bool = True) -> tf.data.Dataset:
    """Batches of a folder with one subfolder per class, decoded again in each epoch."""
    images = keras.utils.image_dataset_from_directory(
        folder,
        label_mode="binary",
        color_mode=color_mode,
        image_size=(SIZE, SIZE),
        batch_size=BATCH_SIZE,
        shuffle=shuffle,
        seed=1,
        verbose=False,
    )
    options = tf.data.Options()
    options.threading.private_threadpool_size = cores()
    return images.with_options(options)


def small_cnn(augmented: bool = False) -> keras.Model:
    """Compiled CNN: twice convolution, ReLU, max-pooling and dropout; then a dense layer."""
    augmentation: list[keras.Layer] = [
        layers.RandomFlip("horizontal"),
        layers.RandomRotation(0.2),
        layers.RandomZoom(0.1),
    ]
    blocks = [
        [layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D(2), layers.Dropout(0.5)]
        for _ in range(2)
    ]
    head: list[keras.Layer] = [
        layers.Flatten(),
        layers.Dense(128, activation="relu"),
        layers.Dropout(0.5),
        layers.Dense(1, activation="sigmoid"),
    ]
    stack = [layers.Rescaling(1 / 255), *blocks[0], *blocks[1], *head]
    if augmented:
        stack = augmentation + stack
    return _compiled(keras.Sequential([keras.Input((SIZE, SIZE, 1)), *stack]))


def frozen_xception(weights: Path | None) -> keras.Model:
    """Compiled frozen Xception with a dense head.

    Args:
        weights: file of the backbone without its top; None for random weights.
    """
    backbone = keras.applications.Xception(
        weights=None, include_top=False, input_shape=(SIZE, SIZE, 3)
    )
    if weights:
        backbone.load_weights(weights)
    backbone.trainable = False
    stack: list[keras.Layer] = [
        layers.Flatten(),
        layers.Dense(128, activation="relu"),
        layers.Dropout(0.5),
        layers.Dense(1, activation="sigmoid"),
    ]
    return _compiled(keras.Sequential([keras.Input((SIZE, SIZE, 3)), backbone, *stack]))


def _compiled(model: keras.Model) -> keras.Model:
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    return model


def fit(model: keras.Model, folder: Path, epochs: int, color_mode: str = "grayscale") -> Any:
    """Train on `folder`/train and validate on `folder`/val."""
    train, val = (read(folder / split, color_mode) for split in ("train", "val"))
    return model.fit(train, validation_data=val, epochs=epochs, verbose=0)
