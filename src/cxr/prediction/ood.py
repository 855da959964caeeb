"""Out-of-distribution detection by the residual outside a subspace of the training features.

Features of the frozen backbone, scaled to length 1, lie near a subspace of few dimensions. The OOD
score of an image is the length of its residual outside of that subspace, from a principal component
analysis, as in ViM (Wang 2022, 10.1109/CVPR52688.2022.00487): the best of 96 scores compared on
validation and synthetic outliers.

Without TensorFlow, so that inference starts at once.
"""

import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr.compute.runtimes import Run, run_all
from cxr.errors import CxrError

FALSE_POSITIVE_RATE = 0.01  # fraction of in-distribution images with a warning
MAX_COMPONENTS = 128  # more would also explain images that are not radiographs
IMAGES_PER_COMPONENT = 4  # with fewer images, components are noise
BLOCK_ROWS = 4096  # in memory at once

FILE = "ood_reference.npz"  # of `save`, in the folder of exported networks
# Faults that the detector should detect: images uint8 (N, S, S) -> uint8 (N, S, S).
ALTERATIONS: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    "upside down": lambda images: images[:, ::-1],
    "rotated 90 degrees": lambda images: np.rot90(images, axes=(1, 2)),
    "negative": lambda images: 255 - images,
    "shuffled rows": lambda images: np.random.default_rng(0).permutation(images, axis=1),
}

Distances = NDArray[np.float64]


@dataclass(frozen=True)
class FeatureSubspace:
    """Principal components of the training features, scaled to length 1.

    Attributes:
        mean: float32 (D,).
        components: float32 (K, D), orthonormal, by decreasing variance.
    """

    mean: NDArray[np.float32]
    components: NDArray[np.float32]


def fit(features: NDArray[np.float32]) -> FeatureSubspace:
    """Fit to the features (N, D) of the training images, read block by block."""
    count, width = features.shape
    mean = sum(rows.sum(axis=0) for rows in _unit_rows(features)) / count
    covariance = np.zeros((width, width))
    for rows in _unit_rows(features):
        covariance += (rows - mean).T @ (rows - mean)
    vectors = np.linalg.eigh(covariance)[1][:, ::-1].T  # by decreasing variance
    kept = min(MAX_COMPONENTS, count // IMAGES_PER_COMPONENT)
    return FeatureSubspace(mean.astype(np.float32), vectors[:kept].astype(np.float32))


def distances(reference: FeatureSubspace, features: NDArray[np.float32]) -> Distances:
    """OOD score (N,), 0 or more, of images with features (N, D)."""
    return np.concatenate([_residual(reference, rows) for rows in _unit_rows(features)])


def ood_threshold(scores: Distances, false_positive_rate: float = FALSE_POSITIVE_RATE) -> float:
    """OOD score above which an image is out-of-distribution: a conformal quantile.

    Args:
        scores: of in-distribution images (N,) that were not trained on. Another such image exceeds
            the threshold with probability `false_positive_rate` at most, if N is at least
            1 / `false_positive_rate`.
        false_positive_rate: 0 to 1.
    """
    rank = math.ceil((len(scores) + 1) * (1 - false_positive_rate))
    return float(np.sort(scores)[min(rank, len(scores)) - 1])


def measure(
    reference: FeatureSubspace,
    features: Mapping[str, NDArray[np.float32]],
    run: Run,
    images: NDArray[np.uint8],
) -> dict[str, Any]:
    """Threshold of the detector, and how often it warns.

    Args:
        reference: fitted on the training images.
        features: (N, D) of the frozen backbone for `val` and `test`.
        run: the network of the frozen backbone.
        images: of validation, uint8 (N, S, S), which are altered to measure the detection rate.

    Returns:
        `threshold`, the OOD score (distance) above which an image gets a warning, chosen on `val`;
        `false_positive_rate`: fraction of `val` and `test` images above it; `detection_rate`:
        fraction of the images above it after each of `ALTERATIONS`.
    """
    scores = {name: distances(reference, features[name]) for name in ("val", "test")}
    altered = {
        name: distances(reference, run_all(run, alter(images)))
        for name, alter in ALTERATIONS.items()
    }
    threshold = ood_threshold(scores["val"])
    return {
        "threshold": threshold,
        "false_positive_rate": _fractions_above(threshold, scores),
        "detection_rate": _fractions_above(threshold, altered),
    }


def _fractions_above(threshold: float, scores: Mapping[str, Distances]) -> dict[str, float]:
    return {name: float((values > threshold).mean()) for name, values in scores.items()}


def save(reference: FeatureSubspace, path: Path) -> None:
    """Write to an .npz file."""
    np.savez(path, mean=reference.mean, components=reference.components)


def load(path: Path) -> FeatureSubspace:
    """Read the file that `save` wrote.

    Raises:
        CxrError: the file is missing or damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return FeatureSubspace(arrays["mean"], arrays["components"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CxrError(f"{path} cannot be read: run `dvc repro export` ({error})") from error


def _unit_rows(features: NDArray[np.float32]) -> Iterator[NDArray[np.float64]]:
    for first in range(0, len(features), BLOCK_ROWS):
        rows = features[first : first + BLOCK_ROWS].astype(np.float64)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        yield rows / np.maximum(lengths, np.finfo(float).tiny)


def _residual(reference: FeatureSubspace, rows: NDArray[np.float64]) -> Distances:
    centered = rows - reference.mean
    explained = centered @ reference.components.T @ reference.components
    return np.linalg.norm(centered - explained, axis=1)
