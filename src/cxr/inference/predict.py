"""Inference with the exported models.

Keras and TensorFlow are not imported, so the first prediction of a process takes OpenVINO about a
second.
"""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Literal, NoReturn, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from cxr.compute.runtimes import open_network
from cxr.data.dataset_folder import IMAGE_SUFFIXES, printable
from cxr.data.images import ImageError
from cxr.data.transforms import prepare
from cxr.errors import CxrError
from cxr.evaluation.calibration import calibrate, mean_of_calibrated
from cxr.export.settings import FILE, Settings
from cxr.inference import radiograph
from cxr.inference.radiograph import Radiograph
from cxr.paths import FEATURE_NETWORK
from cxr.prediction import ood

T = TypeVar("T")

BATCH = 8  # images: larger batches are not faster on two cores
# A file in a folder with one of these suffixes is read even if its first bytes are damaged.
SUFFIXES = frozenset({*IMAGE_SUFFIXES, ".dcm", ".dicom", ".dic", ".ima"})
HEATMAP_SUFFIX = ".explained.png"  # of the files that `cxr predict --explain` writes


class Prediction(BaseModel, frozen=True):
    """Prediction for one radiograph. Not for clinical use."""

    probability: float = Field(ge=0, le=1, description="Network output for PNEUMONIA.")
    decision: Literal["NORMAL", "PNEUMONIA"] = Field(
        description="PNEUMONIA if the probability is at least the threshold."
    )
    confidence: float = Field(
        ge=0,
        le=1,
        description="Calibrated probability that the decision is right, at the prevalence of "
        "validation.",
    )
    ood_score: float = Field(
        ge=0,
        description="Out-of-distribution score: distance from the training images relative to its "
        "threshold; above 1 there is a warning.",
    )
    warnings: tuple[str, ...] = Field(description="Reasons not to trust the prediction.")
    variant: str = Field(description="Name of the model.")
    threshold: float = Field(ge=0, le=1, description="Operating point of the variant.")


class Predictor:
    """One exported variant.

    Args:
        folder: exported models, as written by the stage `export`.
        variant: name; empty: the recommended variant.

    Raises:
        CxrError: the folder is incomplete or damaged, or has no such variant.
    """

    def __init__(self, folder: Path, variant: str = "") -> None:
        self.settings = Settings.read(folder / FILE)
        variants = self.settings.variants
        self.variant = variant or self.settings.recommended
        if self.variant not in variants:
            raise CxrError(f"no variant {self.variant}; available: {', '.join(variants)}")
        self.image = self.settings.image
        self.threshold = variants[self.variant].threshold
        self.members = tuple(variants[self.variant].members) or (self.variant,)
        self.trained = folder.resolve().parent  # folder of the Keras models
        self.networks = {name: open_network(folder / f"{name}.xml") for name in self.members}
        self.features = open_network(folder / FEATURE_NETWORK)
        self.reference = ood.load(folder / ood.FILE)

    def read(self, path: Path) -> Radiograph:
        """Read a file, decoded no larger than needed; raises as `radiograph.read` does."""
        return radiograph.read(path, self.image.decode_size)

    def decode(self, content: bytes, path: Path) -> Radiograph:
        """Like `read`, from the bytes of a file; errors name `path`."""
        return radiograph.from_bytes(content, path, self.image.decode_size)

    def preprocess(self, one: Radiograph) -> NDArray[np.uint8]:
        """Network input for one radiograph, uint8 (S, S)."""
        return prepare(one.image, self.image)

    def preprocess_batch(self, radiographs: list[Radiograph]) -> NDArray[np.uint8]:
        """Network input, uint8 (N, S, S, 1)."""
        return np.stack([self.preprocess(one) for one in radiographs])[..., np.newaxis]

    def predict_batch(self, radiographs: list[Radiograph]) -> list[Prediction]:
        """Predict one or more radiographs in a single batch, in order."""
        images = self.preprocess_batch(radiographs)
        probabilities = self.probabilities(images)
        calibrated = calibrate(probabilities, self.settings.variants[self.variant].scale)
        ood_scores = self.ood_scores(images)
        return [
            self._prediction(*row)
            for row in zip(radiographs, probabilities, calibrated, ood_scores, strict=True)
        ]

    def ood_scores(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """`Prediction.ood_score` (N,) of network inputs, uint8 (N, S, S, 1)."""
        return ood.distances(self.reference, self.features(images)) / self.settings.ood.threshold

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Probability of PNEUMONIA (N,) of network inputs, uint8 (N, S, S, 1)."""
        alone = {
            name: self.networks[name](images)[:, 0].astype(np.float64) for name in self.members
        }
        scales = self.settings.variants[self.variant].members
        return mean_of_calibrated(alone, scales) if scales else alone[self.variant]

    def _prediction(
        self, one: Radiograph, probability: float, calibrated: float, ood_score: float
    ) -> Prediction:
        is_positive = probability >= self.threshold
        return Prediction(
            probability=float(probability),
            decision="PNEUMONIA" if is_positive else "NORMAL",
            confidence=float(calibrated if is_positive else 1 - calibrated),
            ood_score=float(ood_score),
            warnings=tuple(self.warnings(one, ood_score)),
            variant=self.variant,
            threshold=self.threshold,
        )

    def warnings(self, one: Radiograph, ood_score: float) -> Iterator[str]:
        """Reasons not to trust a prediction; the same for every variant."""
        failed = self.settings.failed_checks(
            ood_score, min(one.width, one.height), one.width / one.height
        )
        if failed["ood"]:
            yield "out of distribution: unlike the chest radiographs of the training set"
        if one.has_color:
            yield "contains colors, unlike a radiograph"
        if failed["small"]:
            yield f"smaller than the network input ({self.image.input_size} pixels)"
        if failed["aspect_ratio"]:
            low, high = self.settings.trained_on.aspect_ratio
            yield f"width / height is outside the training range, {low:.2f} to {high:.2f}"
        yield from one.notes


class BatchPredictor(Protocol[T]):
    """Reads files and returns one result for each, such as `Predictor`."""

    def read(self, path: Path) -> Radiograph: ...

    def predict_batch(self, radiographs: list[Radiograph]) -> list[T]: ...


def predict(predictor: BatchPredictor[T], files: Iterable[Path]) -> Iterator[tuple[Path, T | str]]:
    """Each file with its prediction, or with the error message if it cannot be read, in order."""

    def read(file: Path) -> Radiograph | str:
        try:
            return predictor.read(file)
        except ImageError as error:
            return error_message(error, file)

    waiting = iter(files)
    with ThreadPoolExecutor() as pool:
        while batch := list(islice(waiting, BATCH)):
            found = list(pool.map(read, batch))
            readable = [one for one in found if isinstance(one, Radiograph)]
            predictions = iter(predictor.predict_batch(readable) if readable else [])
            for file, one in zip(batch, found, strict=True):
                yield file, (one if isinstance(one, str) else next(predictions))


def error_message(error: ImageError, file: Path) -> str:
    """Message of an error with the file name made printable."""
    return str(error).replace(str(file), printable(PurePosixPath(file)))


@dataclass(frozen=True)
class Listing:
    """Files found at the paths given to a command.

    Attributes:
        files: files to read, in order.
        skipped: path -> reason, of other files in the folders and of folders not entered.
    """

    files: list[Path]
    skipped: dict[Path, str]


def list_radiographs(paths: Iterable[Path]) -> Listing:
    """List the given files and, recursively, the radiographs of the given folders.

    A file in a folder is listed if its first bytes are those of JPEG, PNG or DICOM, or if it has
    one of `SUFFIXES`, so that damaged radiographs are reported when they are read.

    Raises:
        CxrError: a folder cannot be read.
    """
    found = Listing([], {})
    for path in paths:
        for file, reason in _search(path) if path.is_dir() else [(path, "")]:
            if reason:
                found.skipped[file] = reason
            else:
                found.files.append(file)
    return found


def _search(folder: Path) -> list[tuple[Path, str]]:
    """Files, and folders that are not entered, with the reason to skip them; empty: none."""
    reasons: dict[Path, str] = {}
    for base, folders, names in os.walk(folder, onerror=_raise):
        below = {Path(base, name): _folder_skip_reason(Path(base, name)) for name in folders}
        folders[:] = [path.name for path, reason in below.items() if not reason]
        reasons |= {path: reason for path, reason in below.items() if reason}
        reasons |= {Path(base, name): _file_skip_reason(Path(base, name)) for name in names}
    return sorted(reasons.items())


def _folder_skip_reason(folder: Path) -> str:
    """Reason; empty: the folder is entered."""
    if folder.name.startswith("."):
        return "hidden folder"
    return "link to a folder" if folder.is_symlink() else ""


def _file_skip_reason(file: Path) -> str:
    """Reason; empty: the file may be a radiograph."""
    if file.name.startswith("."):
        return "hidden"
    if file.name.endswith(HEATMAP_SUFFIX):
        return "heatmap of --explain"
    if file.name.upper() == "DICOMDIR":
        return "index of a DICOM medium"
    if file.suffix.lower() in SUFFIXES or radiograph.may_be_radiograph(file):
        return ""
    return "not a JPEG, PNG or DICOM file"


def _raise(error: OSError) -> NoReturn:
    # os.walk ignores such folders silently, so images would be lost unnoticed.
    raise CxrError(f"{error.filename} cannot be read: {error.strerror}") from error
