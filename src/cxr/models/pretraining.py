"""Pretraining of the backbone `tiny` on phantoms, so that the demo needs no download.

The phantoms have their own random state: none is in the data set. Half of them are perturbed like
the stress-test set, so that the features do not depend on exposure or borders.
"""

from pathlib import Path

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray
from PIL import Image

from cxr.augment import perturbations
from cxr.common.determinism import make_deterministic
from cxr.data import phantom
from cxr.data.images import to_square
from cxr.models.backbones import BACKBONES, write_weights

IMAGES = 800
INPUT_SIZE = 64  # pixels
EPOCHS = 18
BATCH_SIZE = 32  # images
LEARNING_RATE = 0.004  # of Adam, with cosine decay
_STATE = (2**40, 1)  # beyond every `data.phantom.seed`: other patients
_CLASSES = (0, 1, 0, 2)  # repeated, indices of phantom.PATHOGENS: as many positives as negatives

Gray = NDArray[np.uint8]


def write_phantom_weights(path: Path, name: str) -> None:
    """Train a backbone to classify phantoms by pathogen and write its weights, without the top.

    Deterministic on one type of CPU.

    Args:
        path: .weights.h5 file.
        name: key of `BACKBONES`.
    """
    make_deterministic(0)
    images, labels = training_data(IMAGES)
    entry = BACKBONES[name]
    backbone = entry.build(weights=None, include_top=False)
    gray = keras.Input((INPUT_SIZE, INPUT_SIZE, 1), dtype="uint8")
    rgb = layers.Concatenate()([gray, gray, gray])
    maps = backbone(layers.Rescaling(*entry.scaling)(rgb))
    pooled = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(maps))
    classes = layers.Dense(len(phantom.PATHOGENS), activation="softmax")(pooled)
    learner = keras.Model(gray, classes)
    steps = EPOCHS * -(-len(images) // BATCH_SIZE)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    learner.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    rng = np.random.default_rng(_STATE)
    for _ in range(EPOCHS):  # takes two thirds of the time of `fit`
        order = rng.permutation(len(images))
        for rows in np.split(order, range(BATCH_SIZE, len(order), BATCH_SIZE)):
            learner.train_on_batch(images[rows], labels[rows])
    write_weights(path, backbone)
    print(f"{name}: pretrained on {IMAGES} phantoms that are not in the data set")


def training_data(count: int) -> tuple[Gray, NDArray[np.int64]]:
    """Phantoms, first without and then with perturbations.

    Returns:
        Images uint8 (2 * count, INPUT_SIZE, INPUT_SIZE, 1), and their labels int64 (2 * count,),
        indices of `phantom.PATHOGENS`.
    """
    rng = np.random.default_rng(_STATE)
    labels = np.resize(_CLASSES, count)
    pathogens = [phantom.PATHOGENS[label] for label in labels]
    clean = [
        _square(phantom.generate_image(rng, name, short_side=INPUT_SIZE)) for name in pathogens
    ]
    perturbed = [_perturb(image, rng) for image in clean]
    return np.stack(clean + perturbed)[..., np.newaxis], np.tile(labels, 2)


def _square(image: Gray) -> Gray:
    return np.asarray(to_square(Image.fromarray(image), INPUT_SIZE, "crop"))


def _perturb(image: Gray, rng: np.random.Generator) -> Gray:
    image = perturbations.exposure(image, gamma=float(np.exp(rng.uniform(-0.5, 0.5))))
    if rng.random() < 0.3:
        top, bottom, left, right = rng.uniform(0, 0.12, 4)
        image = perturbations.border(image, (top, bottom, left, right))
    if rng.random() < 0.3:
        image = perturbations.text_overlay(image, rng, 5)
    if rng.random() < 0.3:
        image = perturbations.affine(image, zoom=float(np.exp(rng.uniform(-0.25, 0.25))))
    return perturbations.equalize(image) if rng.random() < 0.15 else image
