"""Verify the images of a folder and list them in the manifest, one row per image."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import imagehash
import pandas as pd

from cxr.common.names import LABELS, SPLITS
from cxr.data.dataset_folder import (
    EXPECTED_LAYOUT,
    NOTHING_LEFT_OUT,
    FolderContents,
    printable,
    refuse_unplaced,
    scan,
    unplaced_by_folder,
    unreadable_reason,
)
from cxr.data.images import ImageError, decode, read_file, to_gray, uses_little_range
from cxr.data.known_sets import KNOWN_SETS
from cxr.errors import CxrError, shortened
from cxr.progress import track

COLUMNS = [
    *("path", "split", "label", "patient", "pathogen"),
    *("width", "height", "mode", "bytes", "sha256", "phash"),
]

# Published file names contain the patient, also with prefixes or suffixes, such as
# `train_person1_virus_6 (1)_resized.png`. In the first two versions, each name series numbers its
# patients independently, so the series is part of the patient key. In the third version, the number
# alone identifies the patient, whatever the disease.
PUBLISHED_NAME = re.compile(
    r"(?<![a-z0-9])person(?P<person>[0-9]+)[-_ ](?P<pathogen>bacteria|virus)[-_ ][0-9]"
    r"|(?<![a-z0-9-])(?P<series>normal2-)?im-(?P<number>[0-9]+)-[0-9]"
    r"|(?<![a-z0-9])(?P<kind>normal|bacteria|virus)-(?P<patient>[0-9]+)-[0-9]{4}(?![0-9])",
    re.IGNORECASE | re.ASCII,
)
PATHOGEN_FOLDER = re.compile(r"(?P<bacteria>bacteria)|(?P<virus>virus|viral)", re.IGNORECASE)
MAX_NAMED = 5  # images in a message

HASH_SIZE = 16  # of the perceptual hash, which has HASH_SIZE**2 bits, four per digit
PHASH = re.compile(rf"[0-9a-f]{{{HASH_SIZE**2 // 4}}}")


@dataclass(frozen=True)
class Verified:
    """Result of verifying a folder.

    Attributes:
        images: one row per readable image, with `COLUMNS`, sorted by path.
        rejects: columns path, reason; one row per unreadable image.
        contents: all files of the folder, by kind.
        little_range: paths of images that use less than an eighth of the gray range.
    """

    images: pd.DataFrame
    rejects: pd.DataFrame
    contents: FolderContents
    little_range: tuple[str, ...] = ()


def verify(
    folder: Path, on_bad_image: str, on_unplaced: str = "error", patients: Path | None = None
) -> Verified:
    """Decode every image below `folder` and list its properties.

    Args:
        folder: contains train|test|val/NORMAL|PNEUMONIA, at any depth.
        on_bad_image: `error` or `skip`.
        on_unplaced: `error` or `skip`, for images and links outside the expected layout.
        patients: table for `read_patients`; None or without rows: patients come from file names.

    Raises:
        CxrError: no images, an empty class, a table that does not match the images, or, with
            `error`, unreadable images or images outside the expected layout.
        OSError: a folder cannot be read.
    """
    contents = scan(folder)
    refuse_unplaced(str(folder), contents, on_unplaced)
    patient_by_path = read_patients(patients, contents.images) if patients else {}
    with ThreadPoolExecutor() as pool:
        examined = pool.map(
            lambda path: _examine(folder, path, *contents.images[path]), contents.images
        )
        rows = list(track(examined, "verify", len(contents.images)))
    rejects = [row for row in rows if "reason" in row]
    if rejects and on_bad_image == "error":
        listed = "\n".join(f"  {reject['path']}: {reject['reason']}" for reject in rejects)
        raise CxrError(
            f"{len(rejects)} file(s) in {folder} are not readable images:\n{listed}\n"
            "  Replace or remove them, or set data.on_bad_image to skip to leave them out."
        )
    images = pd.DataFrame([row for row in rows if "reason" not in row], columns=COLUMNS)
    images["patient"] = images["path"].map(patient_by_path).fillna(images["patient"])
    for label in LABELS:
        if not (images["label"] == label).any():
            found = ", ".join([f"{len(images)} readable images", *unplaced_by_folder(contents)])
            raise CxrError(
                f"{folder} contains no readable {label} image. Found: {found}. {EXPECTED_LAYOUT}."
            )
    little_range = tuple(row["path"] for row in rows if row.get("little_range"))
    rejected = pd.DataFrame(rejects, columns=["path", "reason"])
    return Verified(images, rejected, contents, little_range)


def read_patients(
    file: Path, images: Iterable[PurePosixPath], column: str = "path"
) -> dict[str, str]:
    """Read the patient of each image from a table.

    Args:
        file: CSV with the columns `column` and patient.
        images: paths relative to the folder of images.
        column: name of the column of paths.

    Returns:
        Patient by `printable` path; empty if the table has no rows.

    Raises:
        CxrError: no such file or column, an image without a row, a row without an image or a
            patient, or a duplicate row.
    """
    try:
        # utf-8-sig: spreadsheets write a byte order mark.
        table = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        paths = table[column].map(lambda path: printable(PurePosixPath(path)))
        patients = table["patient"].str.strip()
    except KeyError as error:
        raise CxrError(
            f"{file} has no column {error}; it needs the columns {column} and patient, "
            "separated by commas"
        ) from error
    except (OSError, ValueError) as error:
        raise CxrError(f"{file} cannot be read: {error}") from error
    if table.empty:
        return {}
    expected = pd.Series(map(printable, images), dtype=str)
    affected = {
        "duplicate rows": paths[paths.duplicated()].unique(),
        "not an image of the folder": paths[~paths.isin(expected)],
        "an image without a row": expected[~expected.isin(paths)],
        "a row without a patient": paths[patients == ""],
    }
    if problems := [
        f"  {problem}: {first_names(names)}" for problem, names in affected.items() if len(names)
    ]:
        remedy = f"  Give one row per image, with its {column} relative to the folder"
        raise CxrError("\n".join([f"{file} does not match the images:", *problems, remedy]))
    return dict(zip(paths, patients, strict=True))


def first_names(names: Iterable[str]) -> str:
    """List the first few names, and how many more there are, for a message."""
    return ", ".join(shortened(names, MAX_NAMED))


def read(path: Path) -> pd.DataFrame:
    """Read a manifest: width, height and bytes are int64, other columns text.

    Raises:
        CxrError: the file is missing or damaged, or lacks columns.
    """
    try:
        numbers = {"width": int, "height": int, "bytes": int}
        text = {column: str for column in COLUMNS if column not in numbers}
        table = pd.read_csv(path, dtype=text | numbers, usecols=COLUMNS, keep_default_na=False)
        if not (table["label"].isin(LABELS) & table["split"].isin(SPLITS)).all():
            raise ValueError("a row has an unknown split or label")
        if not table["phash"].str.fullmatch(PHASH).all():
            raise ValueError("a row is truncated")
    except (OSError, ValueError, OverflowError) as error:
        raise CxrError(f"{path} cannot be read ({error}); run `dvc repro fetch`") from error
    return table


def _examine(folder: Path, path: PurePosixPath, split: str, label: str) -> dict[str, Any]:
    """Row of an image: of the manifest, with `little_range`, or of the rejects."""
    try:
        if reason := unreadable_reason(folder, path):
            raise ImageError(reason)
        content = read_file(folder / path)  # once, so that the hash is of the decoded bytes
        image = decode(content, folder / path)
    except ImageError as error:
        reason = str(error).removeprefix(f"{folder / path}: ")
        return {"path": printable(path), "reason": reason}
    gray = to_gray(image)
    patient, pathogen = identify(path, label)
    return {
        "path": str(path),
        "split": split,
        "label": label,
        "patient": patient,
        "pathogen": pathogen,
        "width": image.width,
        "height": image.height,
        "mode": image.mode,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "phash": str(imagehash.phash(gray, HASH_SIZE)),
        "little_range": uses_little_range(gray),
    }


def identify(path: PurePosixPath, label: str) -> tuple[str, str]:
    """Derive the patient and the pathogen (bacteria, virus, none) from a file name.

    The pathogen of PNEUMONIA may also come from a folder, such as PNEUMONIA/virus/. If the name has
    none of the published patterns, the path is the patient.
    """
    match = PUBLISHED_NAME.search(path.name)
    if label != "PNEUMONIA":
        pathogen = "none"
    elif match and (kind := match["pathogen"] or match["kind"]) and kind.lower() != "normal":
        pathogen = kind.lower()
    else:
        pathogen = _pathogen_of_folder(path, label)
    if not match:
        return str(path), pathogen
    if match["person"]:
        return f"person{match['person']}_{match['pathogen'].lower()}", pathogen
    if match["number"]:
        return f"{match['series'] or ''}IM-{match['number']}".upper(), pathogen
    return f"patient{match['patient']}", pathogen


def _pathogen_of_folder(path: PurePosixPath, label: str) -> str:
    """Pathogen named by the innermost folder below the label's folder."""
    folders = path.parts[:-1]
    below = folders[folders.index(label) + 1 :] if label in folders else ()
    matches = filter(None, map(PATHOGEN_FOLDER.search, reversed(below)))
    return next((match.lastgroup or "none" for match in matches), "none")


def has_unknown_patient(images: pd.DataFrame) -> pd.Series:
    """Whether each image counts as a patient of its own, whose identity is unknown: bool (N,)."""
    return images["patient"] == images["path"]


def summarize(
    verified: Verified, source: str, left_out: Mapping[str, int] = NOTHING_LEFT_OUT
) -> dict[str, Any]:
    """Count images, patients, rejects and duplicates for metrics/data.json.

    `left_out`, from `download.left_out`, is added to what the folder itself contains.
    """
    images = verified.images
    splits_of_patient = images.groupby("patient")["split"].nunique()
    summary: dict[str, Any] = {
        "images": len(images),
        "patients": int(images["patient"].nunique()),
        "patients_in_several_splits": int((splits_of_patient > 1).sum()),
        "duplicates": int(images["sha256"].duplicated().sum()),
        "rejects": len(verified.rejects),
        "unknown_patients": int(has_unknown_patient(images).sum()),
        "unknown_pathogens": int(_lacks_pathogen(images).sum()),
        "little_range": len(verified.little_range),
        "left_out": {
            name: count + left_out[name] for name, count in verified.contents.left_out.items()
        },
    }
    for split in SPLITS:
        rows = images[images["split"] == split]
        summary[split] = {
            "images": len(rows),
            **{label: int((rows["label"] == label).sum()) for label in LABELS},
            "patients": int(rows["patient"].nunique()),
        }
        if len(rows):
            summary[split]["positive_share"] = float((rows["label"] == "PNEUMONIA").mean())
        if known := KNOWN_SETS.get(source):
            summary[split]["published"] = known.counts[split]
    return summary


def _lacks_pathogen(images: pd.DataFrame) -> pd.Series:
    return (images["label"] == "PNEUMONIA") & (images["pathogen"] == "none")


def notes(verified: Verified) -> Iterator[str]:
    """Name images of unknown patient or pathogen, and images with little contrast."""
    images = verified.images
    if len(unknown := images.loc[has_unknown_patient(images), "path"]):
        yield (
            f"NOTE: the patient of {len(unknown)} of {len(images)} images is unknown "
            f"({first_names(unknown)}). Each counts as a patient of its own, so images of one "
            "patient can be in several splits; data.patients may name a table of patients."
        )
    if len(unknown := images.loc[_lacks_pathogen(images), "path"]):
        yield (
            f"NOTE: the pathogen of {len(unknown)} PNEUMONIA image(s) is unknown "
            f"({first_names(unknown)})."
        )
    if little := verified.little_range:
        yield (
            f"WARNING: {len(little)} of {len(images)} images use less than an eighth of the gray "
            f"range ({first_names(little)}), so they have almost no contrast. Scale 12-bit values "
            "in 16-bit files to 0 to 65535, or add an sBIT chunk of 12."
        )


def describe(summary: dict[str, Any]) -> str:
    """Print the counts of `summarize`, with differences from the published counts."""
    lines = []
    for split in SPLITS:
        counts = summary[split]
        classes = ", ".join(f"{counts[label]} {label}" for label in LABELS)
        line = f"{split}: {counts['images']} images ({classes}), {counts['patients']} patients"
        if counts.get("published", counts["images"]) != counts["images"]:
            line += f"; NOTE: {counts['published']} images are published"
        lines.append(line)
    totals = [f"patients in several splits {summary['patients_in_several_splits']}"]
    totals += [f"{name} {summary[name]}" for name in ("duplicates", "rejects")]
    totals += [f"{name} files left out {count}" for name, count in summary["left_out"].items()]
    return "\n".join([*lines, ", ".join(totals)])
