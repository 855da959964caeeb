"""Fine-tuning: train the last layers of the backbone on cached activations of the frozen ones."""

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

N_CLASSES = {"label": 2, "pathogen": 3}


class AugmentedActivations(ShuffledIndices):
    """Batches of activations; each epoch uses the next augmented version of each image.

    Args:
        activations: float16 (augmented versions, N, h, w, c), memory-mapped.
        targets: one-hot (N, K).
        weights: weight of each image in the loss (N,).
        batch_size: number of images.
        seed: of the order and of the first augmented version of each image; None uses version 0 in
            order, for validation.
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
        self.first_version = None
        if seed is not None:
            rng = np.random.default_rng(seed)
            self.first_version = rng.integers(0, len(activations), len(targets))

    def __getitem__(self, number: int) -> tuple[Any, Any, Any]:
        rows = self.batch_indices(number)
        version: Any = 0
        if self.first_version is not None:
            version = (self.first_version[rows] + self.epoch) % len(self.activations)
        batch = self.activations[version, rows].astype(np.float32)
        return batch, self.targets[rows], self.weights[rows]


def targets(index: pd.DataFrame, classes: str) -> NDArray[np.float32]:
    """One-hot targets float32 (N, K): NORMAL first, then PNEUMONIA or (`pathogen`) bacteria, virus.

    A PNEUMONIA image whose file name has no pathogen has a target of 0.5 for each.

    Args:
        index: with the columns `label` and `pathogen`.
        classes: as `finetune.classes`.
    """
    is_positive = (index["label"] == "PNEUMONIA").to_numpy()
    if classes == "label":
        return np.column_stack([~is_positive, is_positive]).astype(np.float32)
    virus = index["pathogen"].map({"bacteria": 0.0, "virus": 1.0}).fillna(0.5).to_numpy()
    columns = [~is_positive, is_positive * (1 - virus), is_positive * virus]
    return np.column_stack(columns).astype(np.float32)


def batches(
    name: str, split: Split, params: FinetuneParams, seed: int | None = None
) -> AugmentedActivations:
    """Batches of the cached activations of a split, shuffled if there is a seed.

    Raises:
        CxrError: the activations are missing, or their number of images is not that of the split.
    """
    path = paths.activations(name)
    activations = open_rows(path)
    if activations.shape[1] != len(split.index):
        raise CxrError(
            f"{path} has {activations.shape[1]} images, the split has {len(split.index)}: "
            "run `dvc repro`"
        )
    weights = image_weights(split.labels, params.class_weights if seed is not None else "none")
    return AugmentedActivations(
        activations, targets(split.index, params.classes), weights, params.batch_size, seed
    )


def image_weights(labels: NDArray[np.int64], mode: str) -> NDArray[np.float32]:
    """Weight of each image in the loss, float32 (N,); `mode` as `finetune.class_weights`."""
    by_class = class_weights(labels, mode) or {0: 1.0, 1: 1.0}
    return np.array([by_class[label] for label in labels], np.float32)


def with_outputs(tuned: keras.Model, params: FinetuneParams) -> keras.Model:
    """Add pooling and a softmax: activations -> probabilities of the classes (N, K)."""
    pooled = layers.GlobalAveragePooling2D(name="pooling")(tuned.output)
    dropped = layers.Dropout(params.dropout, name="dropout")(pooled)
    classes = layers.Dense(N_CLASSES[params.classes], activation="softmax", name="classes")
    return keras.Model(tuned.input, classes(dropped), name="learner")


def whole_model(
    image: keras.KerasTensor,
    frozen: keras.Model,
    training_model: keras.Model,
    tta_scales: tuple[float, ...],
) -> keras.Model:
    """Join the frozen and the tuned part: gray uint8 (N, S, S, 1) -> probability (N, 1).

    The probability is one minus that of NORMAL, averaged over the image at each scale (test-time
    augmentation, Krizhevsky 2012).
    """
    not_normal = layers.Dense(1, name="probability", trainable=False)
    head = keras.Model(training_model.input, not_normal(training_model.output), name="tuned")
    kernel = np.zeros((training_model.output_shape[1], 1), np.float32)
    kernel[0] = -1
    not_normal.set_weights([kernel, np.ones(1, np.float32)])
    views = [head(frozen(rescale_view(image, scale))) for scale in tta_scales]
    averaged = layers.Average(name="views")(views) if len(views) > 1 else views[0]
    return keras.Model(image, averaged, name="finetuned")
