"""Files in, answers out, by the networks that the stage `export` wrote.

Neither Keras nor TensorFlow is imported: OpenVINO gives the first answer within seconds.
"""

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from cxr import familiarity, radiograph
from cxr.calibration import rescaled
from cxr.cleaning import prepare
from cxr.errors import CxrError
from cxr.images import ImageError
from cxr.labels import LABELS
from cxr.layout import IMAGE_SUFFIXES
from cxr.params import ImageParams
from cxr.radiograph import Radiograph
from cxr.runtimes import open_network

Told = TypeVar("Told")

BATCH = 8  # images: on two cores larger ones are no faster
SUFFIXES = (*IMAGE_SUFFIXES, ".dcm", ".dicom", "")  # DICOM files often have none


@dataclass(frozen=True)
class Answer:
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
        self.settings = read_settings(folder)
        variants = self.settings["variants"]
        self.variant = variant or self.settings["recommended"]
        if self.variant not in variants:
            raise CxrError(f"no variant {self.variant} in {folder}; it has {', '.join(variants)}")
        self.image = ImageParams(**self.settings["image"])
        chosen = variants[self.variant]
        self.threshold: float = chosen["threshold"]
        self.scale: dict[str, float] = chosen["scale"]
        self.mirrored: bool = chosen.get("mirrored", False)
        self.members: dict[str, dict[str, float] | None] = chosen.get(
            "members", {self.variant: None}
        )
        self.networks = {name: open_network(folder / f"{name}.xml") for name in self.members}
        self.features = open_network(folder / "features.xml")
        self.reference = familiarity.load(folder / "familiar.npz")

    def read(self, path: Path) -> Radiograph:
        """A file, decoded no larger than needed; raises as `radiograph.read` does."""
        return radiograph.read(path, self._enough())

    def decoded(self, content: bytes, path: Path) -> Radiograph:
        """As `read`, from a file's bytes; the path names it in errors."""
        return radiograph.from_bytes(content, path, self._enough())

    def _enough(self) -> int:
        """Pixels of the shorter side to decode; 0: all."""
        uses_all = self.image.region == "whole" and not self.image.trim
        return self.image.size if uses_all else 0

    def prepared(self, one: Radiograph) -> NDArray[np.uint8]:
        """As the networks see it: uint8 (S, S)."""
        return prepare(one.image, self.image)

    def answers(self, radiographs: list[Radiograph]) -> list[Answer]:
        """An answer for each of some radiographs, which are seen at once."""
        images = self.stacked(radiographs)
        probabilities = self.probabilities(images)
        calibrated = rescaled(probabilities, self.scale)
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
        distances = familiarity.distances(self.reference, self.features(images))
        return distances / self.settings["familiarity"]["limit"]

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Of PNEUMONIA (N,) for images (N, S, S, 1) as the networks see them."""
        views = (images, images[:, :, ::-1]) if self.mirrored else (images,)
        found = []
        for name, scale in self.members.items():
            for view in views:
                alone = self.networks[name](view)[:, 0].astype(np.float64)
                found.append(alone if scale is None else rescaled(alone, scale))
        return np.mean(found, axis=0)

    def _answer(
        self, one: Radiograph, probability: float, calibrated: float, unfamiliarity: float
    ) -> Answer:
        is_ill = probability >= self.threshold
        return Answer(
            probability=float(probability),
            decision=LABELS[int(is_ill)],
            confidence=float(calibrated if is_ill else 1 - calibrated),
            unfamiliarity=float(unfamiliarity),
            warnings=tuple(self.warnings(one, unfamiliarity)),
        )

    def warnings(self, one: Radiograph, unfamiliarity: float) -> Iterator[str]:
        """Why not to trust an answer; the same for every variant."""
        known = self.settings["trained_on"]
        if unfamiliarity > 1:
            yield "does not look like the chest radiographs that the network was trained on"
        if one.coloured:
            yield "has colours, a radiograph has none"
        if min(one.width, one.height) < self.image.size:
            yield f"smaller than the {self.image.size} pixels that the network sees"
        low, high = known["aspect_ratio"]
        if not low <= one.width / one.height <= high:
            yield f"width / height is outside of {low:.2f} to {high:.2f}, as in training"
        yield from one.notes


class Answering(Protocol[Told]):
    """Reads files and tells something of each, as a `Predictor` does."""

    def read(self, path: Path) -> Radiograph: ...

    def answers(self, radiographs: list[Radiograph]) -> list[Told]: ...


def predict(predictor: Answering[Told], files: Iterable[Path]) -> Iterator[tuple[Path, Told | str]]:
    """Each file with its answer, or with the error for which there is none, in order."""
    for batch in read_batches(predictor, files):
        good = [found for _, found in batch if isinstance(found, Radiograph)]
        answers = iter(predictor.answers(good) if good else [])
        for file, found in batch:
            yield file, (found if isinstance(found, str) else next(answers))


def read_batches(
    predictor: Answering[Any], files: Iterable[Path]
) -> Iterator[list[tuple[Path, Radiograph | str]]]:
    """Each file with what was read, or with the error, in order, as many as are seen at once."""
    waiting = iter(files)
    with ThreadPoolExecutor() as pool:
        while chunk := [file for _, file in zip(range(BATCH), waiting, strict=False)]:
            read = pool.map(lambda file: _read_or_error(predictor, file), chunk)
            yield list(zip(chunk, read, strict=True))


def _read_or_error(predictor: Answering[Any], file: Path) -> Radiograph | str:
    try:
        return predictor.read(file)
    except ImageError as error:
        return str(error)


def files_of(paths: Iterable[Path]) -> list[Path]:
    """Files as they are named, and of folders all that may be radiographs, also in folders below.

    Hidden files and those with the suffix of something else are left out.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        below = (file for file in sorted(path.rglob("*")) if file.is_file())
        found += [
            file
            for file in below
            if file.suffix.lower() in SUFFIXES
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
        ]
    return found


def read_settings(folder: Path) -> dict[str, Any]:
    """What the stage `export` noted about its networks.

    Raises:
        CxrError: there is none, or it is damaged.
    """
    file = folder / "settings.json"
    try:
        settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CxrError(
            f"{file} is missing: run `dvc repro export` or `dvc pull export` in the project, or "
            "name the folder of exported networks with --models"
        ) from error
    except (OSError, ValueError) as error:
        raise CxrError(f"{file} cannot be read: {error}") from error
    return settings
