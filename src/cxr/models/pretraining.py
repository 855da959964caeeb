"""Weights of the backbone `tiny`: trained on phantoms, so that the demo needs no download.

The phantoms are others than those of the data source. They are drawn from a random state of their
own, and half of them are changed as the stress validation changes images, so that the features do
not hang on exposure or borders.
"""

from pathlib import Path

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray
from PIL import Image

from cxr.augment import perturbations as change
from cxr.common.determinism import make_deterministic
from cxr.data import phantom
from cxr.data.images import to_square
from cxr.models.backbones import BACKBONES, write_weights

IMAGES = 800
SIDE = 64  # pixels
EPOCHS = 18
BATCH_SIZE = 32  # images
LEARNING_RATE = 0.004  # of Adam, falling by half a cosine
_STATE = (2**40, 1)  # beyond every `data.phantom.seed`: no patient is drawn twice
_KINDS = (0, 1, 0, 2)  # of each new image, as numbers of phantom.PATHOGENS: both classes alike

Grey = NDArray[np.uint8]


def write_phantom_weights(path: Path, name: str) -> None:
    """Train a backbone without its top to tell the pathogens of phantoms, and write its weights;
    equal in every run on one kind of processor.

    Args:
        path: .weights.h5 file.
        name: key of `BACKBONES`.
    """
    make_deterministic(0)
    images, kinds = drawn(IMAGES)
    entry = BACKBONES[name]
    backbone = entry.build(weights=None, include_top=False)
    grey = keras.Input((SIDE, SIDE, 1), dtype="uint8")
    rgb = layers.Concatenate()([grey, grey, grey])
    maps = backbone(layers.Rescaling(*entry.scaling)(rgb))
    pooled = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(maps))
    classes = layers.Dense(len(phantom.PATHOGENS), activation="softmax")(pooled)
    learner = keras.Model(grey, classes)
    steps = EPOCHS * -(-len(images) // BATCH_SIZE)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    learner.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    rng = np.random.default_rng(_STATE)
    for _ in range(EPOCHS):  # a third less time than `fit`, whose data sets take longer than a step
        order = rng.permutation(len(images))
        for rows in np.split(order, range(BATCH_SIZE, len(order), BATCH_SIZE)):
            learner.train_on_batch(images[rows], kinds[rows])
    write_weights(path, backbone)
    print(f"{name}: trained on {IMAGES} phantoms that are not in the data set")


def drawn(count: int) -> tuple[Grey, NDArray[np.int64]]:
    """Phantoms as they are and changed: uint8 (2 * count, SIDE, SIDE, 1), and their pathogens
    int64 (2 * count,), numbers of `phantom.PATHOGENS`.
    """
    rng = np.random.default_rng(_STATE)
    kinds = np.resize(_KINDS, count)
    plain = [
        _square(phantom.generate_image(rng, phantom.PATHOGENS[kind], short_side=SIDE))
        for kind in kinds
    ]
    changed = [_changed(image, rng) for image in plain]
    return np.stack(plain + changed)[..., np.newaxis], np.tile(kinds, 2)


def _square(image: Grey) -> Grey:
    return np.asarray(to_square(Image.fromarray(image), SIDE, "crop"))


def _changed(image: Grey, rng: np.random.Generator) -> Grey:
    image = change.exposure(image, gamma=float(np.exp(rng.uniform(-0.5, 0.5))))
    if rng.random() < 0.3:
        top, bottom, left, right = rng.uniform(0, 0.12, 4)
        image = change.border(image, (top, bottom, left, right))
    if rng.random() < 0.3:
        image = change.text_overlay(image, rng, 5)
    if rng.random() < 0.3:
        image = change.affine(image, zoom=float(np.exp(rng.uniform(-0.25, 0.25))))
    return change.equalize(image) if rng.random() < 0.15 else image
