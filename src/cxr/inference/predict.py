"""Files in, answers out, by the networks that the stage `export` wrote.

Neither Keras nor TensorFlow is imported: OpenVINO gives the first answer within seconds.
"""

import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from cxr.common.names import LABELS
from cxr.compute.runtimes import open_network
from cxr.data.dataset_folder import IMAGE_SUFFIXES, printable
from cxr.data.images import ImageError
from cxr.data.transforms import prepare
from cxr.errors import CxrError
from cxr.evaluation.calibration import Scale, calibrate, mean_of_calibrated
from cxr.export import ood
from cxr.export.input_checks import failed_checks
from cxr.inference import radiograph
from cxr.inference.radiograph import Radiograph
from cxr.params import ImageParams

Told = TypeVar("Told")

SETTINGS = "settings.json"  # beside the exported networks
BATCH = 8  # images: on two cores larger ones are no faster
# Files in a folder that have one are taken even where their first bytes are damaged.
SUFFIXES = frozenset({*IMAGE_SUFFIXES, ".jfif", ".jpe", ".dcm", ".dicom", ".dic", ".ima"})
EXPLAINED = ".explained.png"  # how the pictures end that `cxr predict --explain` writes


@dataclass(frozen=True)
class ImagePrediction:
    """What is said of one radiograph.

    Attributes:
        probability: of PNEUMONIA, as the network gives it, 0 to 1.
        decision: NORMAL or PNEUMONIA, at the operating point that was chosen on validation.
        confidence: calibrated probability that the decision is right, 0 to 1, where as many
            patients are ill as in validation.
        unfamiliarity: distance from the training images, as a share of the distance at which the
            warning begins.
        warnings: why not to trust the answer; empty where nothing is odd.
    """

    probability: float
    decision: str
    confidence: float
    unfamiliarity: float
    warnings: tuple[str, ...]


class Predictor:
    """One variant, ready to answer.

    Args:
        folder: that the stage `export` wrote.
        variant: name; empty: the recommended one.

    Raises:
        CxrError: the folder is not complete, damaged, or has no such variant.
    """

    def __init__(self, folder: Path, variant: str = "") -> None:
        settings = read_settings(folder)
        try:
            self._take(settings, variant)
        except (KeyError, TypeError, ValueError) as error:
            raise damaged_error(folder) from error
        self.trained = folder.resolve().parent  # where the Keras models are that were exported
        self.networks = {name: open_network(folder / f"{name}.xml") for name in self.members}
        self.features = open_network(folder / "features.xml")
        self.reference = ood.load(folder / "familiar.npz")

    def _take(self, settings: dict[str, Any], variant: str) -> None:
        """All that is needed of the settings."""
        variants = settings["variants"]
        self.variant = variant or settings["recommended"]
        if self.variant not in variants:
            raise CxrError(f"no variant {self.variant}; there are {', '.join(variants)}")
        self.image = ImageParams(**settings["image"])
        chosen = variants[self.variant]
        self.threshold: float = chosen["threshold"]
        self.scale: Scale = chosen["scale"]
        self.members: dict[str, Scale | None] = chosen.get("members", {self.variant: None})
        known = settings["familiarity"]
        self.limit: float = known["limit"]  # of the distance from the training images
        self.false_alarms: dict[str, float] = known["false_alarms"]
        self.trained_on: dict[str, list[float]] = {
            name: settings["trained_on"][name] for name in ("shorter_side", "aspect_ratio")
        }
        self.settings = settings

    def read(self, path: Path) -> Radiograph:
        """A file, decoded no larger than needed; raises as `radiograph.read` does."""
        return radiograph.read(path, self.image.decode_size)

    def decoded(self, content: bytes, path: Path) -> Radiograph:
        """As `read`, from a file's bytes; the path names it in errors."""
        return radiograph.from_bytes(content, path, self.image.decode_size)

    def prepared(self, one: Radiograph) -> NDArray[np.uint8]:
        """As the networks see it: uint8 (S, S)."""
        return prepare(one.image, self.image)

    def answers(self, radiographs: list[Radiograph]) -> list[ImagePrediction]:
        """An answer for each of some radiographs, which are seen at once."""
        images = self.stacked(radiographs)
        probabilities = self.probabilities(images)
        calibrated = calibrate(probabilities, self.scale)
        unfamiliarities = self.unfamiliarities(images)
        return [
            self._answer(*row)
            for row in zip(radiographs, probabilities, calibrated, unfamiliarities, strict=True)
        ]

    def stacked(self, radiographs: list[Radiograph]) -> NDArray[np.uint8]:
        """As the networks see them: (N, S, S, 1)."""
        return np.stack([self.prepared(one) for one in radiographs])[..., np.newaxis]

    def unfamiliarities(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(N,) for images (N, S, S, 1), each as `Answer` has it."""
        distances = ood.distances(self.reference, self.features(images))
        return distances / self.limit

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Of PNEUMONIA (N,) for images (N, S, S, 1) as the networks see them."""
        alone = {
            name: self.networks[name](images)[:, 0].astype(np.float64) for name in self.members
        }
        scales = {name: scale for name, scale in self.members.items() if scale is not None}
        return mean_of_calibrated(alone, scales) if scales else alone[self.variant]

    def _answer(
        self, one: Radiograph, probability: float, calibrated: float, unfamiliarity: float
    ) -> ImagePrediction:
        is_ill = probability >= self.threshold
        return ImagePrediction(
            probability=float(probability),
            decision=LABELS[int(is_ill)],
            confidence=float(calibrated if is_ill else 1 - calibrated),
            unfamiliarity=float(unfamiliarity),
            warnings=tuple(self.warnings(one, unfamiliarity)),
        )

    def warnings(self, one: Radiograph, unfamiliarity: float) -> Iterator[str]:
        """Why not to trust an answer; the same for every variant."""
        failed = failed_checks(
            unfamiliarity,
            min(one.width, one.height),
            one.width / one.height,
            self.image.input_size,
            self.trained_on["aspect_ratio"],
        )
        if failed["ood"]:
            yield "does not look like the chest radiographs that the network was trained on"
        if one.coloured:
            yield "has colours, a radiograph has none"
        if failed["small"]:
            yield f"smaller than the {self.image.input_size} pixels that the network sees"
        if failed["aspect_ratio"]:
            low, high = self.trained_on["aspect_ratio"]
            yield f"width / height is outside of {low:.2f} to {high:.2f}, as in training"
        yield from one.notes


class BatchPredictor(Protocol[Told]):
    """Reads files and tells something of each, as a `Predictor` does."""

    def read(self, path: Path) -> Radiograph: ...

    def answers(self, radiographs: list[Radiograph]) -> list[Told]: ...


def predict(
    predictor: BatchPredictor[Told], files: Iterable[Path]
) -> Iterator[tuple[Path, Told | str]]:
    """Each file with its answer, or with the error for which there is none, in order."""
    for batch in read_batches(predictor, files):
        good = [found for _, found in batch if isinstance(found, Radiograph)]
        answers = iter(predictor.answers(good) if good else [])
        for file, found in batch:
            yield file, (found if isinstance(found, str) else next(answers))


def read_batches(
    predictor: BatchPredictor[Any], files: Iterable[Path]
) -> Iterator[list[tuple[Path, Radiograph | str]]]:
    """Each file with what was read, or with the error, in order, as many as are seen at once."""
    waiting = iter(files)
    with ThreadPoolExecutor() as pool:
        while chunk := [file for _, file in zip(range(BATCH), waiting, strict=False)]:
            read = pool.map(lambda file: _read_or_error(predictor, file), chunk)
            yield list(zip(chunk, read, strict=True))


def _read_or_error(predictor: BatchPredictor[Any], file: Path) -> Radiograph | str:
    try:
        return predictor.read(file)
    except ImageError as error:
        return error_message(error, file)


def error_message(error: ImageError, file: Path) -> str:
    """The error of a file, safe to print whatever the file is called."""
    return str(error).replace(str(file), printable(PurePosixPath(file)))


@dataclass(frozen=True)
class Listing:
    """What the paths of a command name.

    Attributes:
        files: to be read, in order.
        skipped: path -> reason, of what folders hold besides; a folder that is not entered is one.
    """

    files: list[Path]
    skipped: dict[Path, str]


def list_radiographs(paths: Iterable[Path]) -> Listing:
    """Files as they are named, and of folders all that may be radiographs, also in folders below.

    A file in a folder is taken if it begins as JPEG, PNG or DICOM, whatever its name, or if its
    suffix is one of `SUFFIXES`: a damaged radiograph is reported by whoever reads it.

    Raises:
        CxrError: a folder cannot be read.
    """
    found = Listing([], {})
    for path in paths:
        if path.is_dir():
            _list_below(path, found)
        else:
            found.files.append(path)
    return found


def _list_below(folder: Path, found: Listing) -> None:
    reasons: dict[Path, str] = {}
    for base, folders, names in os.walk(folder, onerror=_raise):
        closed = {Path(base, name): _why_not_entered(Path(base, name)) for name in folders}
        folders[:] = [path.name for path, reason in closed.items() if not reason]
        reasons |= {path: reason for path, reason in closed.items() if reason}
        reasons |= {Path(base, name): _why_skipped(Path(base, name)) for name in names}
    for path in sorted(reasons):
        if reasons[path]:
            found.skipped[path] = reasons[path]
        else:
            found.files.append(path)


def _why_not_entered(folder: Path) -> str:
    """Empty: it is."""
    if folder.name.startswith("."):
        return "hidden folder"
    return "link to a folder" if folder.is_symlink() else ""


def _why_skipped(file: Path) -> str:
    """Empty: it may be a radiograph."""
    if file.name.startswith("."):
        return "hidden"
    if file.name.endswith(EXPLAINED):
        return "picture of --explain"
    if file.name.upper() == "DICOMDIR":
        return "table of contents of a DICOM medium"
    if file.suffix.lower() in SUFFIXES or radiograph.may_be_radiograph(file):
        return ""
    return "not a JPEG, PNG or DICOM file"


def _raise(error: OSError) -> NoReturn:
    # os.walk passes over such folders in silence, which would lose images unnoticed.
    raise CxrError(f"{error.filename} cannot be read: {error.strerror}") from error


def damaged_error(folder: Path) -> CxrError:
    """That the settings in a folder of exported networks are not as they should be."""
    return CxrError(f"{folder / SETTINGS} is damaged or of another version: run `dvc repro export`")


def read_settings(folder: Path) -> dict[str, Any]:
    """What the stage `export` noted about its networks.

    Raises:
        CxrError: there is none, or it is damaged.
    """
    file = folder / SETTINGS
    try:
        settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CxrError(
            f"{file} is missing: run `dvc repro export` in the project (`dvc pull export` where it "
            "has a DVC remote), or name the folder of exported networks with --models, as "
            "--models demo/models/exported after `make demo`"
        ) from error
    except (OSError, ValueError) as error:
        raise CxrError(f"{file} cannot be read: {error}") from error
    return settings
