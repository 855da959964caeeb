"""Layers of the small CNN, the classifier head and the augmentation; input of all models."""

from collections.abc import Sequence

import keras
from keras import layers

from cxr.common.arrays import Split
from cxr.params import AugmentParams, ModelParams, TransferParams


def small_cnn(params: ModelParams) -> list[keras.Layer]:
    """Layers of the small CNN: gray values 0-255 -> probability of PNEUMONIA (N, 1).

    With the default parameters the function of the notebook's CNN. ReLU follows max pooling: the
    two commute, and ReLU has a quarter of the values left.
    """
    stack: list[keras.Layer] = [layers.Rescaling(1 / 255, name="rescale")]
    for number, filters in enumerate(params.filters, start=1):
        stack += [
            layers.Conv2D(filters, params.kernel_size, name=f"conv{number}"),
            *([_batch_norm(f"norm{number}")] if params.batch_norm else []),
            layers.MaxPooling2D(params.pool_size, name=f"pool{number}"),
            layers.ReLU(name=f"relu{number}"),
            layers.Dropout(params.conv_dropout, name=f"dropout{number}"),
        ]
    pooling = {"flatten": layers.Flatten, "avg": layers.GlobalAveragePooling2D}
    stack.append(pooling[params.pooling](name=params.pooling))
    return stack + classifier(params.dense_units, params.dense_dropout)


def _batch_norm(name: str) -> keras.Layer:
    """Batch normalization whose moving averages converge within an epoch of a hundred steps; with
    Keras's default of 0.99 they lag behind the weights, and validation metrics are wrong.
    """
    return layers.BatchNormalization(momentum=0.9, name=name)


def classifier(dense_units: int, dropout: float) -> list[keras.Layer]:
    """Dense layer, dropout, and a sigmoid unit for the probability of PNEUMONIA."""
    return [
        layers.Dense(dense_units, activation="relu", name="dense"),
        layers.Dropout(dropout, name="dense_dropout"),
        layers.Dense(1, activation="sigmoid", name="probability"),
    ]


def augmentation(params: AugmentParams, seed: int) -> list[keras.Layer]:
    """Random flip, rotation and zoom, with reflection padding; active in training only."""
    stack: list[keras.Layer] = []
    if params.flip != "none":
        stack.append(layers.RandomFlip(params.flip, seed=seed, name="flip"))
    if params.rotation:
        stack.append(layers.RandomRotation(params.rotation, seed=seed + 1, name="rotation"))
    if params.zoom:
        stack.append(layers.RandomZoom(params.zoom, seed=seed + 2, name="zoom"))
    return stack


def transfer_head(feature_shape: Sequence[int], params: TransferParams) -> keras.Model:
    """Trained part of the variant transfer: features float32 (N, D) -> probability (N, 1)."""
    features = keras.Input(tuple(feature_shape), name="features")
    stack: list[keras.Layer] = classifier(params.dense_units, params.dropout)
    return keras.Model(features, apply(stack, features), name="head")


def apply(stack: Sequence[keras.Layer], tensor: keras.KerasTensor) -> keras.KerasTensor:
    """Apply layers in sequence."""
    for layer in stack:
        tensor = layer(tensor)
    return tensor


def image_input(split: Split) -> keras.KerasTensor:
    """Symbolic input of every saved model: gray uint8 (N, H, W, 1), 0 black to 255 white."""
    return keras.Input((*split.images.shape[1:], 1), dtype="uint8", name="image")
