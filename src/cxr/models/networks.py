"""The networks that are trained here. Each saved model: uint8 grey (N, H, W, 1) -> probability."""

from collections.abc import Sequence

import keras
from keras import layers

from cxr.common.arrays import Split
from cxr.params import AugmentParams, ModelParams, TransferParams


def small_cnn(params: ModelParams) -> list[keras.Layer]:
    """Layers from grey values 0-255 to the probability of PNEUMONIA; by default the notebook's.

    ReLU stands after the max-pooling: the maximum of clipped values is the clipped maximum, so the
    function is the notebook's, and ReLU works on a quarter of the values.
    """
    stack: list[keras.Layer] = [layers.Rescaling(1 / 255, name="rescale")]
    for number, filters in enumerate(params.filters, start=1):
        stack += [
            layers.Conv2D(filters, params.kernel_size, name=f"conv{number}"),
            *([_normalisation(f"norm{number}")] if params.batch_norm else []),
            layers.MaxPooling2D(params.pool_size, name=f"pool{number}"),
            layers.ReLU(name=f"relu{number}"),
            layers.Dropout(params.conv_dropout, name=f"dropout{number}"),
        ]
    pooling = {"flatten": layers.Flatten, "avg": layers.GlobalAveragePooling2D}
    stack.append(pooling[params.pooling](name=params.pooling))
    return stack + classifier(params.dense_units, params.dense_dropout)


def _normalisation(name: str) -> keras.Layer:
    """Batch normalisation whose averages follow within an epoch of a hundred steps: with Keras's
    0.99 they trail the weights, and validation sees another network than training.
    """
    return layers.BatchNormalization(momentum=0.9, name=name)


def classifier(dense_units: int, dropout: float) -> list[keras.Layer]:
    """Dense layer, dropout, and the sigmoid unit that gives the probability of PNEUMONIA."""
    return [
        layers.Dense(dense_units, activation="relu", name="dense"),
        layers.Dropout(dropout, name="dense_dropout"),
        layers.Dense(1, activation="sigmoid", name="probability"),
    ]


def augmentation(params: AugmentParams, seed: int) -> list[keras.Layer]:
    """Random flip, rotation and zoom; what comes in from outside the image is its reflection."""
    stack: list[keras.Layer] = []
    if params.flip != "none":
        stack.append(layers.RandomFlip(params.flip, seed=seed, name="flip"))
    if params.rotation:
        stack.append(layers.RandomRotation(params.rotation, seed=seed + 1, name="rotation"))
    if params.zoom:
        stack.append(layers.RandomZoom(params.zoom, seed=seed + 2, name="zoom"))
    return stack


def transfer_head(feature_shape: Sequence[int], params: TransferParams) -> keras.Model:
    """The trained part of the transfer variant: features float32 (N, ...) -> (N, 1)."""
    features = keras.Input(tuple(feature_shape), name="features")
    stack: list[keras.Layer] = classifier(params.dense_units, params.dropout)
    return keras.Model(features, apply(stack, features), name="head")


def apply(stack: Sequence[keras.Layer], tensor: keras.KerasTensor) -> keras.KerasTensor:
    """Apply layers one after the other."""
    for layer in stack:
        tensor = layer(tensor)
    return tensor


def image_input(split: Split) -> keras.KerasTensor:
    """The input that every saved model has: uint8 grey (N, H, W, 1)."""
    return keras.Input((*split.images.shape[1:], 1), dtype="uint8", name="image")
