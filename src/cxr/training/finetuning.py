"""Fine-tuning: train the last layers of the backbone on the cached activations of the others."""

from typing import Any

import keras
import numpy as np
import pandas as pd
from keras import layers
from numpy.typing import NDArray

from cxr import paths
from cxr.common.arrays import Split, open_rows
from cxr.errors import CxrError
from cxr.models.split_backbone import rescale_view
from cxr.params import FinetuneParams
from cxr.training.batches import ShuffledIndices, class_weights

CLASSES = {"label": 2, "pathogen": 3}


class AugmentedActivations(ShuffledIndices):
    """Batches of activations, each image in the next of its copies in each epoch.

    Args:
        activations: float16 (C, N, h, w, c), memory-mapped.
        targets: one-hot (N, K).
        weights: of each image in the loss (N,).
        batch_size: images.
        seed: of the order and of the copy that an image begins with; None gives the images
            themselves, in order.
    """

    def __init__(
        self,
        activations: NDArray[np.float16],
        targets: NDArray[np.float32],
        weights: NDArray[np.float32],
        batch_size: int,
        seed: int | None = None,
    ) -> None:
        super().__init__(len(targets), batch_size, seed)
        self.activations, self.targets, self.weights = activations, targets, weights
        self.first = None
        if seed is not None:
            self.first = np.random.default_rng(seed).integers(0, len(activations), len(targets))

    def __getitem__(self, number: int) -> tuple[Any, Any, Any]:
        rows = self.batch_indices(number)
        copies: Any = 0
        if self.first is not None:
            copies = (self.first[rows] + self.epoch) % len(self.activations)
        batch = self.activations[copies, rows].astype(np.float32)
        return batch, self.targets[rows], self.weights[rows]


def targets(index: pd.DataFrame, kind: str) -> NDArray[np.float32]:
    """One-hot float32 (N, K): NORMAL first, then PNEUMONIA or (`pathogen`) bacteria and virus.

    An image of PNEUMONIA whose file name tells no pathogen counts half for each.
    """
    ill = (index["label"] == "PNEUMONIA").to_numpy()
    if kind == "label":
        return np.column_stack([~ill, ill]).astype(np.float32)
    virus = index["pathogen"].map({"bacteria": 0.0, "virus": 1.0}).fillna(0.5).to_numpy()
    return np.column_stack([~ill, ill * (1 - virus), ill * virus]).astype(np.float32)


def batches(
    name: str, split: Split, params: FinetuneParams, seed: int | None = None
) -> AugmentedActivations:
    """Batches of the cached activations of a split; shuffled where there is a seed.

    Raises:
        CxrError: the activations are missing or belong to other images.
    """
    path = paths.activations(name)
    activations = open_rows(path)
    if activations.shape[1] != len(split.index):
        raise CxrError(f"{path} holds {activations.shape[1]} images, not {len(split.index)}")
    weights = image_weights(split.labels, params.class_weights if seed is not None else "none")
    return AugmentedActivations(
        activations, targets(split.index, params.classes), weights, params.batch_size, seed
    )


def image_weights(labels: NDArray[np.int64], mode: str) -> NDArray[np.float32]:
    """Weight of each training image in the loss, float32 (N,), by `finetune.class_weights`."""
    by_class = class_weights(labels, mode) or {0: 1.0, 1: 1.0}
    return np.array([by_class[label] for label in labels], np.float32)


def with_outputs(tuned: keras.Model, params: FinetuneParams) -> keras.Model:
    """Activations -> maps -> their means -> probabilities of the classes (N, K)."""
    pooled = layers.GlobalAveragePooling2D(name="pooling")(tuned.output)
    dropped = layers.Dropout(params.dropout, name="dropout")(pooled)
    classes = layers.Dense(CLASSES[params.classes], activation="softmax", name="classes")
    return keras.Model(tuned.input, classes(dropped), name="learner")


def whole_model(
    image: keras.KerasTensor, frozen: keras.Model, learner: keras.Model, zooms: tuple[float, ...]
) -> keras.Model:
    """Frozen and tuned part as one model: uint8 grey (N, S, S, 1) -> probability (N, 1), which is
    one minus that of NORMAL, averaged over the image seen at each zoom (test-time augmentation,
    Krizhevsky 2012).
    """
    not_normal = layers.Dense(1, name="probability", trainable=False)
    head = keras.Model(learner.input, not_normal(learner.output), name="tuned")
    kernel = np.zeros((learner.output_shape[1], 1), np.float32)
    kernel[0] = -1
    not_normal.set_weights([kernel, np.ones(1, np.float32)])
    views = [head(frozen(rescale_view(image, zoom))) for zoom in zooms]
    averaged = layers.Average(name="views")(views) if len(views) > 1 else views[0]
    return keras.Model(image, averaged, name="finetuned")
