"""The images of a folder that holds NORMAL and PNEUMONIA, and whose they are."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from cxr.common.names import LABELS
from cxr.data.dataset_folder import printable
from cxr.data.images import ImageError
from cxr.data.manifest import first_names, identify, read_patients
from cxr.errors import CxrError
from cxr.inference.predict import list_radiographs
from cxr.inference.radiograph import bytes_of


@dataclass(frozen=True)
class LabeledImages:
    """What lies in a folder.

    Attributes:
        folder: that was searched.
        images: columns path (PurePosixPath, relative to the folder), file (the same as text that is
            safe to print), label, patient; sorted by path.
        told_by: who tells the patients: a file's name, or empty: the names of the images.
        untold: number of images that count as a patient of their own, as nothing tells whose.
        copies: number of images that are the same file as another one.
        skipped: columns file (as in `images`), reason; what the classes' folders hold besides.
        elsewhere: columns file, reason; images and skipped files in neither class's folder.
    """

    folder: Path
    images: pd.DataFrame
    told_by: str
    untold: int
    copies: int
    skipped: pd.DataFrame
    elsewhere: pd.DataFrame


def find(folder: Path, patients: Path | None = None) -> LabeledImages:
    """List the images below NORMAL and PNEUMONIA of a folder; none is decoded yet.

    Args:
        folder: the images lie in its folders NORMAL and PNEUMONIA (in any case of letters), or in
            folders below these.
        patients: CSV with the columns file (relative to `folder`) and patient, a row for each
            image. Without it, names in the published data set's form tell the patient, and any
            other image counts as a patient of its own.

    Raises:
        CxrError: no folder, a class without images, a file in both classes, or rows that do not
            fit the images.
    """
    if not folder.is_dir():
        raise CxrError(f"{folder} is not a folder")
    listing = list_radiographs([folder])
    reasons = dict.fromkeys(listing.files, "") | listing.skipped
    below = pd.DataFrame({"path": list(reasons), "reason": list(reasons.values())}, dtype=object)
    below["path"] = [PurePosixPath(file.relative_to(folder).as_posix()) for file in below["path"]]
    below["file"] = below["path"].map(printable)
    below["label"] = [path.parts[0].upper() for path in below["path"]]
    is_inside = below["label"].isin(LABELS) & (below["path"].map(lambda path: len(path.parts)) > 1)
    inside, elsewhere = below[is_inside], below[~is_inside][["file", "reason"]]
    is_skipped = inside["reason"] != ""
    images = inside[~is_skipped][["path", "file", "label"]].reset_index(drop=True)
    skipped = inside[is_skipped][["file", "reason"]].reset_index(drop=True)
    for label in LABELS:
        if not (images["label"] == label).any():
            raise CxrError(
                f"{folder} holds no {label} image: put JPEG, PNG or DICOM files into "
                f"{folder}/NORMAL and {folder}/PNEUMONIA{_found_instead(skipped, elsewhere)}"
            )
    if patients is None:
        # A name that tells none gives its path.
        images["patient"] = [
            identify(PurePosixPath(file), label)[0]
            for file, label in zip(images["file"], images["label"], strict=True)
        ]
        untold = int((images["patient"] == images["file"]).sum())
    else:
        patient_of = read_patients(patients, images["path"], "file")
        if not patient_of:
            raise CxrError(f"{patients} has no rows: it needs one for each image of {folder}")
        images["patient"] = images["file"].map(patient_of)
        untold = 0
    return LabeledImages(
        folder,
        images,
        told_by=patients.name if patients else "",
        untold=untold,
        copies=_count_copies(folder, images),
        skipped=skipped,
        elsewhere=elsewhere.replace({"reason": {"": "in neither class's folder"}}),
    )


def _found_instead(*tables: pd.DataFrame) -> str:
    """For an error: what is there; empty: nothing."""
    found = pd.concat(tables)
    named = [f"{row.file} ({row.reason})" if row.reason else row.file for row in found.itertuples()]
    return f". Found instead: {first_names(named)}" if named else ""


def _count_copies(folder: Path, images: pd.DataFrame) -> int:
    """Number of images that are the same file as one before.

    Raises:
        CxrError: some are in both classes.
    """
    with ThreadPoolExecutor() as pool:
        digests = pd.Series(list(pool.map(lambda path: _digest(folder / path), images["path"])))
    labels = images["label"].groupby(digests).transform("nunique")
    if (labels > 1).any():
        pairs = images["file"][labels > 1].groupby(digests).agg(" = ".join)
        raise CxrError(
            f"{folder} holds the same file as NORMAL and as PNEUMONIA: {first_names(pairs)}. "
            "Remove the one that is wrong."
        )
    return int(digests.duplicated().sum())


def _digest(path: Path) -> str:
    """Equal for equal files; of one that cannot be read or is empty its path, which is no image's
    digest: it is told of where it is decoded.
    """
    try:
        found = bytes_of(path)
    except ImageError:
        found = b""
    return hashlib.sha256(found).hexdigest() if found else str(path)
