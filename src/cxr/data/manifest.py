"""Verify the images of a folder and list them: one row per image."""

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
    FolderContents,
    describe_folders,
    head_in,
    list_files,
    lost_links,
    printable,
    refuse_unplaced,
    select_images,
    size_in,
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

# The data set's file names carry the patient, also with an editor's or exporter's words before or
# behind, as `train_person1_virus_6 (1)_resized.png`. The series of the first two versions are
# numbered independently, so the series is part of the patient's name. In the third version the
# number alone is the patient's, whatever the disease.
PUBLISHED_NAME = re.compile(
    r"(?<![a-z0-9])person(?P<person>[0-9]+)[-_ ](?P<pathogen>bacteria|virus)[-_ ][0-9]"
    r"|(?<![a-z0-9-])(?P<series>normal2-)?im-(?P<number>[0-9]+)-[0-9]"
    r"|(?<![a-z0-9])(?P<kind>normal|bacteria|virus)-(?P<patient>[0-9]+)-[0-9]{4}(?![0-9])",
    re.IGNORECASE | re.ASCII,
)
PATHOGEN_FOLDER = re.compile(r"(?P<bacteria>bacteria)|(?P<virus>virus|viral)", re.IGNORECASE)
NAMED = 5  # at most, of the images that a message is about

HASH_SIDE = 16  # of the perceptual hash: it has the square of it as bits, four to a digit
PHASH = re.compile(rf"[0-9a-f]{{{HASH_SIDE**2 // 4}}}")

NO_FILES: Mapping[str, int] = {}  # was left out when a folder was filled


@dataclass(frozen=True)
class Verified:
    """What was found in a folder.

    Attributes:
        images: one row per readable image, with `COLUMNS`, sorted by path.
        rejects: columns path, reason; one row per file that is not a readable image.
        selection: all files of the folder, sorted into images and others.
        links: number of symbolic links that lead out of the folder; they are not followed.
        little_range: paths of the images that use little of their range of values.
    """

    images: pd.DataFrame
    rejects: pd.DataFrame
    selection: FolderContents
    links: int
    little_range: tuple[str, ...] = ()


def verify(
    folder: Path, on_bad_image: str, on_unplaced: str = "error", patients: Path | None = None
) -> Verified:
    """Open every image below `folder` and list what it is.

    Args:
        folder: holds train|test|val/NORMAL|PNEUMONIA, perhaps some folders down.
        on_bad_image: `error` or `skip`.
        on_unplaced: `error` or `skip`: images and links where the layout knows none.
        patients: table as `read_patients` takes it; None, or without rows: names tell patients.

    Raises:
        CxrError: no images, an empty class, a folder that cannot be read, a table that does not fit
            the images, or (with `error`) every unreadable file by name or unplaced image by folder.
    """
    try:
        files, links = list_files(folder)
    except OSError as error:
        raise CxrError(f"{error.filename} cannot be read: {error.strerror}") from error
    selection = select_images(files, head_in(folder), size_in(folder))
    refuse_unplaced(str(folder), selection, lost_links(folder, links), on_unplaced)
    told = read_patients(patients, selection.images) if patients else {}
    rows, rejects = _examine_all(folder, selection)
    if rejects and on_bad_image == "error":
        listed = "\n".join(f"  {reject['path']}: {reject['reason']}" for reject in rejects)
        raise CxrError(
            f"{len(rejects)} file(s) in {folder} are not readable images:\n{listed}\n"
            "  Replace or remove them, or set data.on_bad_image to skip to leave them out."
        )
    images = pd.DataFrame(rows, columns=COLUMNS)
    images["patient"] = images["path"].map(told).fillna(images["patient"])
    for label in LABELS:
        if not (images["label"] == label).any():
            elsewhere = f" ({describe_folders(selection)})" if selection.unplaced else ""
            raise CxrError(
                f"{folder} holds no readable {label} image{elsewhere}. {EXPECTED_LAYOUT}."
            )
    little = tuple(row["path"] for row in rows if row["little_range"])
    table = pd.DataFrame(rejects, columns=["path", "reason"])
    return Verified(images, table, selection, len(links), little)


def read_patients(
    file: Path, images: Iterable[PurePosixPath], column: str = "path"
) -> dict[str, str]:
    """The patient of each image, from a table that fits the images row by row.

    Args:
        file: CSV with the columns `column` and patient. One without rows tells nothing.
        images: paths relative to the folder of images.
        column: name of the column that holds these paths.

    Returns:
        Patient by path, as `shown` shows it; empty where the table has no rows.

    Raises:
        CxrError: no such file or column, an image without a row, or a row without an image or
            patient, or given twice.
    """
    try:
        # utf-8-sig: spreadsheets put a mark before the first name.
        table = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        named = table[column].map(lambda path: printable(PurePosixPath(path)))
        patients = table["patient"].str.strip()
    except KeyError as error:
        raise CxrError(
            f"{file} has no column {error}: it needs {column} and patient, separated by a comma"
        ) from error
    except (OSError, ValueError) as error:
        raise CxrError(f"{file} cannot be read: {error}") from error
    if table.empty:
        return {}
    listed = pd.Series(map(printable, images), dtype=str)
    wrong = {
        "named more than once": named[named.duplicated()].unique(),
        "not an image of the folder": named[~named.isin(listed)],
        "an image without a row": listed[~listed.isin(named)],
        "a row without a patient": named[patients == ""],
    }
    if problems := [
        f"  {what}: {first_names(paths)}" for what, paths in wrong.items() if len(paths)
    ]:
        wanted = f"  Wanted: a row for each image, with its {column} relative to the folder"
        raise CxrError("\n".join([f"{file} does not fit the images:", *problems, wanted]))
    return dict(zip(named, patients, strict=True))


def first_names(names: Iterable[str]) -> str:
    """The first few, and how many more there are, for a message."""
    return ", ".join(shortened(names, NAMED))


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
    folder: Path, selection: FolderContents
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    rows: list[dict[str, Any]] = []
    rejects: list[dict[str, str]] = []
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda path: _examine(folder, path), selection.images)
        progress = track(found, "verify", len(selection.images))
        for (path, (split, label)), result in zip(selection.images.items(), progress, strict=True):
            if isinstance(result, ImageError):
                reason = str(result).removeprefix(f"{folder / path}: ")
                rejects.append({"path": printable(path), "reason": reason})
            else:
                patient, pathogen = identify(path, label)
                named = {"split": split, "label": label, "patient": patient, "pathogen": pathogen}
                rows.append({"path": str(path), **named, **result})
    return rows, rejects


def _examine(folder: Path, path: PurePosixPath) -> dict[str, Any] | ImageError:
    if reason := unreadable_reason(folder, path):
        return ImageError(reason)
    try:
        content = read_file(folder / path)  # once: what is decoded is what the hash belongs to
        image = decode(content, folder / path)
    except ImageError as error:
        return error
    grey = to_gray(image)
    return {
        "width": image.width,
        "height": image.height,
        "mode": image.mode,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "phash": str(imagehash.phash(grey, HASH_SIDE)),
        "little_range": uses_little_range(grey),
    }


def identify(path: PurePosixPath, label: str) -> tuple[str, str]:
    """Patient and pathogen (bacteria, virus, none) that a file name tells.

    The pathogen of PNEUMONIA may also be told by a folder, as PNEUMONIA/virus/. A name without one
    of the data set's patterns stands for a patient of its own, named by the whole path.
    """
    match = PUBLISHED_NAME.search(path.name)
    if label != "PNEUMONIA":
        pathogen = "none"
    elif match and (told := match["pathogen"] or match["kind"]) and told.lower() != "normal":
        pathogen = told.lower()
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
    """What the folders below the label's say, the innermost first."""
    folders = path.parts[:-1]
    below = folders[folders.index(label) + 1 :] if label in folders else ()
    matches = filter(None, map(PATHOGEN_FOLDER.search, reversed(below)))
    return next((match.lastgroup or "none" for match in matches), "none")


def has_unknown_patient(images: pd.DataFrame) -> pd.Series:
    """Whether nothing tells the patient of an image, which then counts as one of its own: bool
    (N,), for a table with the columns path and patient.
    """
    return images["patient"] == images["path"]


def summarize(
    verified: Verified, source: str, left_out: Mapping[str, int] | None = NO_FILES
) -> dict[str, Any]:
    """Counts for metrics/data.json: images, patients, rejects, duplicates, leaks.

    Args:
        verified: what is in the folder.
        source: as `data.source`.
        left_out: what was left out when the folder was filled, as `sources.left_out` gives it.
            None: not known; all counts of `left_out` are then null.
    """
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
        "unknown_patients": int(has_unknown_patient(images).sum()),
        "unknown_pathogens": int(_lacks_pathogen(images).sum()),
        "little_range": len(verified.little_range),
        "left_out": {
            name: None if left_out is None else count + left_out.get(name, 0)
            for name, count in {
                "stray": verified.selection.stray,
                "nested": verified.selection.nested,
                "other": verified.selection.other,
                "links": verified.links,
                "unplaced": len(verified.selection.unplaced),
            }.items()
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
        if known := KNOWN_SETS.get(source):
            summary[split]["published"] = known.counts[split]
    return summary


def _lacks_pathogen(images: pd.DataFrame) -> pd.Series:
    return (images["label"] == "PNEUMONIA") & (images["pathogen"] == "none")


def notes(verified: Verified) -> Iterator[str]:
    """What the counts do not say: which images nothing tells the patient or pathogen of, and which
    use little of their range.
    """
    images = verified.images
    if len(unknown := images.loc[has_unknown_patient(images), "path"]):
        yield (
            f"NOTE: nothing tells the patient of {len(unknown)} of {len(images)} images "
            f"({first_names(unknown)}). Each counts as a patient of its own, so that images of one "
            "child can be in several splits; data.patients names a table of patients."
        )
    if len(unknown := images.loc[_lacks_pathogen(images), "path"]):
        yield (
            f"NOTE: neither name nor folder tells the pathogen of {len(unknown)} PNEUMONIA "
            f"image(s) ({first_names(unknown)})."
        )
    if little := verified.little_range:
        yield (
            f"WARNING: {len(little)} of {len(images)} images use less than an eighth of the range "
            f"from black to white ({first_names(little)}): networks see next to nothing in them. "
            "Scale 12-bit values in 16-bit files to 0 to 65535, or let an sBIT chunk say 12."
        )


def describe(summary: dict[str, Any]) -> str:
    """The counts of `summarise` in a few lines, differences from the published ones included."""
    lines = []
    for split in SPLITS:
        of_split = summary[split]
        classes = ", ".join(f"{of_split[label]} {label}" for label in LABELS)
        line = f"{split}: {of_split['images']} images ({classes}), {of_split['patients']} patients"
        if of_split.get("published", of_split["images"]) != of_split["images"]:
            line += f"; NOTE: {of_split['published']} images are published"
        lines.append(line)
    counts = [f"{name} {summary[name]}" for name in ("duplicates", "rejects")]
    counts += [
        f"{name} files left out {'unknown' if count is None else count}"
        for name, count in summary["left_out"].items()
    ]
    leaks = f"patients in several splits {summary['patients_in_several_splits']}"
    return "\n".join([*lines, ", ".join([leaks, *counts])])
