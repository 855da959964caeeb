"""Verify the images of a folder and list them: one row per image."""

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import imagehash
import pandas as pd

from cxr.errors import CxrError
from cxr.images import ImageError, decode, read_file, to_grey
from cxr.labels import LABELS, SPLITS
from cxr.layout import Selection, list_files, obstacle, select_images, shown
from cxr.progress import track

COLUMNS = [
    *("path", "split", "label", "patient", "pathogen"),
    *("width", "height", "mode", "bytes", "sha256", "phash"),
]

# The data set's file names carry the patient. Its four series are numbered independently, so the
# series is part of the patient's name.
PNEUMONIA_NAME = re.compile(r"person(\d+)_(bacteria|virus)_\d+(?:_\d+)*")
NORMAL_NAME = re.compile(r"((?:NORMAL2-)?IM-\d+)-\d+(?:-\d+)*")

HASH_SIDE = 16  # of the perceptual hash: it has the square of it as bits, four to a digit
PHASH = re.compile(rf"[0-9a-f]{{{HASH_SIDE**2 // 4}}}")

# Images of each split as published, to tell a whole copy from a part.
KNOWN_COUNTS = {
    "kaggle": {"train": 5216, "val": 16, "test": 624},
    "mendeley": {"train": 5232, "val": 0, "test": 624},
}


@dataclass(frozen=True)
class Verified:
    """What was found in a folder.

    Attributes:
        images: one row per readable image, with `COLUMNS`, sorted by path.
        rejects: columns path, reason; one row per file that is not a readable image.
        selection: all files of the folder, sorted into images and others.
        links: symbolic links that lead out of the folder; they are not followed.
    """

    images: pd.DataFrame
    rejects: pd.DataFrame
    selection: Selection
    links: int


def verify(folder: Path, on_bad_image: str) -> Verified:
    """Open every image below `folder` and list what it is.

    Args:
        folder: holds train|test|val/NORMAL|PNEUMONIA, perhaps some folders down.
        on_bad_image: `error` or `skip`.

    Raises:
        CxrError: no images, an empty class, a folder that cannot be read, or (with `error`) every
            unreadable file by name.
    """
    try:
        files, links = list_files(folder)
    except OSError as error:
        raise CxrError(f"{error.filename} cannot be read: {error.strerror}") from error
    selection = select_images(files)
    rows, rejects = _examine_all(folder, selection)
    if rejects and on_bad_image == "error":
        listed = "\n".join(f"  {reject['path']}: {reject['reason']}" for reject in rejects)
        raise CxrError(
            f"{len(rejects)} file(s) in {folder} are not readable images:\n{listed}\n"
            "  Replace or remove them, or set data.on_bad_image to skip to leave them out."
        )
    images = pd.DataFrame(rows, columns=COLUMNS)
    for label in LABELS:
        if not (images["label"] == label).any():
            raise CxrError(
                f"{folder} holds no readable {label} image; "
                f"wanted: {folder}/train|test|val/NORMAL|PNEUMONIA/*.jpeg"
            )
    table = pd.DataFrame(rejects, columns=["path", "reason"])
    return Verified(images, table, selection, links)


def read(path: Path) -> pd.DataFrame:
    """Read the manifest that `verify` made; text columns stay text.

    Raises:
        CxrError: the file is missing, damaged or lacks columns.
    """
    try:
        numbers = {"width": int, "height": int, "bytes": int}
        text = {column: str for column in COLUMNS if column not in numbers}
        table = pd.read_csv(path, dtype=text | numbers, usecols=COLUMNS, keep_default_na=False)
        if not (table["label"].isin(LABELS) & table["split"].isin(SPLITS)).all():
            raise ValueError("a row has no known split and label")
        if not table["phash"].str.fullmatch(PHASH).all():
            raise ValueError("a row ends early")
    except (OSError, ValueError, OverflowError) as error:
        raise CxrError(f"{path} cannot be read ({error}); run `dvc repro fetch`") from error
    return table


def _examine_all(
    folder: Path, selection: Selection
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    rows: list[dict[str, Any]] = []
    rejects: list[dict[str, str]] = []
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda path: _examine(folder, path), selection.images)
        progress = track(found, "verify", len(selection.images))
        for (path, (split, label)), result in zip(selection.images.items(), progress, strict=True):
            if isinstance(result, ImageError):
                reason = str(result).removeprefix(f"{folder / path}: ")
                rejects.append({"path": shown(path), "reason": reason})
            else:
                patient, pathogen = identify(path, label)
                named = {"split": split, "label": label, "patient": patient, "pathogen": pathogen}
                rows.append({"path": str(path), **named, **result})
    return rows, rejects


def _examine(folder: Path, path: PurePosixPath) -> dict[str, Any] | ImageError:
    if reason := obstacle(folder, path):
        return ImageError(reason)
    try:
        content = read_file(folder / path)  # once: what is decoded is what the hash belongs to
        image = decode(content, folder / path)
    except ImageError as error:
        return error
    return {
        "width": image.width,
        "height": image.height,
        "mode": image.mode,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "phash": str(imagehash.phash(to_grey(image), HASH_SIDE)),
    }


def identify(path: PurePosixPath, label: str) -> tuple[str, str]:
    """Patient and pathogen (bacteria, virus, none) that a file name tells.

    A name without the data set's pattern stands for a patient of its own, named by the whole path,
    of unknown pathogen (none).
    """
    if label == "PNEUMONIA" and (match := PNEUMONIA_NAME.fullmatch(path.stem)):
        return f"person{match[1]}_{match[2]}", match[2]
    if label == "NORMAL" and (match := NORMAL_NAME.fullmatch(path.stem)):
        return match[1], "none"
    return str(path), "none"


def summarise(verified: Verified, source: str) -> dict[str, Any]:
    """Counts for metrics/data.json: images, patients, rejects, duplicates, leaks."""
    images = verified.images
    counts = pd.crosstab(images["split"], images["label"])
    counts = counts.reindex(index=SPLITS, columns=LABELS, fill_value=0)
    splits_of_patient = images.groupby("patient")["split"].nunique()
    summary: dict[str, Any] = {
        "images": len(images),
        "patients": int(images["patient"].nunique()),
        "patients_in_several_splits": int((splits_of_patient > 1).sum()),
        "duplicates": int(images["sha256"].duplicated().sum()),
        "rejects": len(verified.rejects),
        "left_out": {
            "stray": verified.selection.stray,
            "nested": verified.selection.nested,
            "other": verified.selection.other,
            "links": verified.links,
        },
    }
    for split in SPLITS:
        of_split = images[images["split"] == split]
        summary[split] = {
            "images": len(of_split),
            **{label: int(counts.loc[split, label]) for label in LABELS},
            "patients": int(of_split["patient"].nunique()),
        }
        if len(of_split):
            summary[split]["positive_share"] = float((of_split["label"] == "PNEUMONIA").mean())
        if known := KNOWN_COUNTS.get(source):
            summary[split]["published"] = known[split]
    return summary


def describe(summary: dict[str, Any]) -> str:
    """The counts of `summarise` in a few lines, differences from the published ones included."""
    lines = []
    for split in SPLITS:
        counts = summary[split]
        classes = ", ".join(f"{counts[label]} {label}" for label in LABELS)
        line = f"{split}: {counts['images']} images ({classes}), {counts['patients']} patients"
        if counts.get("published", counts["images"]) != counts["images"]:
            line += f"; NOTE: {counts['published']} images are published"
        lines.append(line)
    notes = [f"{name} {summary[name]}" for name in ("duplicates", "rejects")]
    notes += [f"{name} files left out {count}" for name, count in summary["left_out"].items()]
    leaks = f"patients in several splits {summary['patients_in_several_splits']}"
    return "\n".join([*lines, ", ".join([leaks, *notes])])
