"""How unlike the training images an image is: the part of its features that they do not explain.

Features of the frozen backbone, brought to length 1, lie near a subspace of few dimensions. An
image of something else has a part outside of it, whose length is the distance here: the residual
of a principal component analysis, as ViM takes it (Wang 2022, 10.1109/CVPR52688.2022.00487). It is
the one of 96 scores compared on validation and drawn outliers that marks most of these.

NumPy alone, so that prediction starts at once.
"""

import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxr.errors import CxrError

FALSE_POSITIVE_RATE = 0.01  # share of images like those of training that are warned of
COMPONENTS = 128  # at most; more explain also what is not a radiograph
IMAGES_PER_COMPONENT = 4  # of fewer, components are noise
ROWS = 4096  # that are in memory at once

Distances = NDArray[np.float64]


@dataclass(frozen=True)
class FeatureSubspace:
    """Where the training images' features lie.

    Attributes:
        mean: float32 (D,) of features of length 1.
        components: float32 (K, D), orthonormal: the directions in which they differ most.
    """

    mean: NDArray[np.float32]
    components: NDArray[np.float32]


def fit(features: NDArray[np.float32]) -> FeatureSubspace:
    """Learn from the features (N, D) of the training images, of which a part is read at a time."""
    count, width = features.shape
    mean = sum(rows.sum(axis=0) for rows in _of_length_1(features)) / count
    covariance = np.zeros((width, width))
    for rows in _of_length_1(features):
        covariance += (rows - mean).T @ (rows - mean)
    vectors = np.linalg.eigh(covariance)[1][:, ::-1].T  # the largest first
    kept = min(COMPONENTS, count // IMAGES_PER_COMPONENT)
    return FeatureSubspace(mean.astype(np.float32), vectors[:kept].astype(np.float32))


def distances(reference: FeatureSubspace, features: NDArray[np.float32]) -> Distances:
    """Of each image (N,), 0 or more, from its features (N, D)."""
    return np.concatenate([_residual(reference, rows) for rows in _of_length_1(features)])


def ood_threshold(known: Distances, false_alarms: float = FALSE_POSITIVE_RATE) -> float:
    """The distance above which an image counts as unfamiliar.

    Args:
        known: of images (N,) like those of training that were not trained on. Of another one the
            chance to be above is `false_alarms` at most, if N is at least 1 / `false_alarms`
            (a conformal quantile).
        false_alarms: share, 0 to 1.
    """
    place = math.ceil((len(known) + 1) * (1 - false_alarms))
    return float(np.sort(known)[min(place, len(known)) - 1])


def save(reference: FeatureSubspace, path: Path) -> None:
    """Write an .npz file."""
    np.savez(path, mean=reference.mean, components=reference.components)


def load(path: Path) -> FeatureSubspace:
    """Read what `save` wrote.

    Raises:
        CxrError: the file is missing or damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return FeatureSubspace(arrays["mean"], arrays["components"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CxrError(f"{path} cannot be read: run `dvc repro export` ({error})") from error


def _of_length_1(features: NDArray[np.float32]) -> Iterator[NDArray[np.float64]]:
    for first in range(0, len(features), ROWS):
        rows = features[first : first + ROWS].astype(np.float64)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        yield rows / np.maximum(lengths, np.finfo(float).tiny)


def _residual(reference: FeatureSubspace, rows: NDArray[np.float64]) -> Distances:
    centred = rows - reference.mean
    explained = centred @ reference.components.T @ reference.components
    return np.linalg.norm(centred - explained, axis=1)
