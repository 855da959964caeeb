"""List labeled images in folders NORMAL and PNEUMONIA, with their patients."""

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
    """Labeled images of a folder.

    Attributes:
        folder: the searched folder.
        images: columns path (PurePosixPath, relative to the folder), file (the same as printable
            text), label, patient; sorted by path.
        patient_source: name of the file that identifies the patients; empty: the image names do.
        unknown_patients: number of images whose patient is unknown; each counts as a patient.
        duplicates: number of images that are identical to an earlier one.
        skipped: columns file (as in `images`), reason; other files in the class folders.
        elsewhere: columns file, reason; images and other files outside the class folders.
    """

    folder: Path
    images: pd.DataFrame
    patient_source: str
    unknown_patients: int
    duplicates: int
    skipped: pd.DataFrame
    elsewhere: pd.DataFrame


def find(folder: Path, patients: Path | None = None) -> LabeledImages:
    """List the images in NORMAL and PNEUMONIA of a folder, without decoding them.

    Args:
        folder: folder with the images in NORMAL and PNEUMONIA (case-insensitive) or in subfolders
            of these.
        patients: CSV with the columns file (relative to `folder`) and patient, a row for each
            image. Without it, file names in the form of the published data set identify the
            patient, and any other image counts as a patient.

    Raises:
        CxrError: the folder is missing, a class has no images, a file is in both classes, or the
            rows do not match the images.
    """
    if not folder.is_dir():
        raise CxrError(f"{folder} is not a directory")
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
                f"{folder} contains no {label} image: put JPEG, PNG or DICOM files into "
                f"{folder}/NORMAL and {folder}/PNEUMONIA{_found_instead(skipped, elsewhere)}"
            )
    if patients is None:
        # `identify` returns the path if a name does not identify the patient.
        images["patient"] = [
            identify(PurePosixPath(file), label)[0]
            for file, label in zip(images["file"], images["label"], strict=True)
        ]
        unknown = int((images["patient"] == images["file"]).sum())
    else:
        patient_of = read_patients(patients, images["path"], "file")
        if not patient_of:
            raise CxrError(f"{patients} has no rows: it needs one for each image of {folder}")
        images["patient"] = images["file"].map(patient_of)
        unknown = 0
    return LabeledImages(
        folder,
        images,
        patient_source=patients.name if patients else "",
        unknown_patients=unknown,
        duplicates=_count_duplicates(folder, images),
        skipped=skipped,
        elsewhere=elsewhere.replace({"reason": {"": "not in a class folder"}}),
    )


def _found_instead(*tables: pd.DataFrame) -> str:
    """Other files in the folder, for an error; empty if there are none."""
    found = pd.concat(tables)
    named = [f"{row.file} ({row.reason})" if row.reason else row.file for row in found.itertuples()]
    return f". Found instead: {first_names(named)}" if named else ""


def _count_duplicates(folder: Path, images: pd.DataFrame) -> int:
    """Number of images that are identical to an earlier one.

    Raises:
        CxrError: identical images are in both classes.
    """
    with ThreadPoolExecutor() as pool:
        digests = pd.Series(list(pool.map(lambda path: _digest(folder / path), images["path"])))
    labels = images["label"].groupby(digests).transform("nunique")
    if (labels > 1).any():
        pairs = images["file"][labels > 1].groupby(digests).agg(" = ".join)
        raise CxrError(
            f"{folder} contains identical images as NORMAL and PNEUMONIA: {first_names(pairs)}. "
            "Remove the wrong ones."
        )
    return int(digests.duplicated().sum())


def _digest(path: Path) -> str:
    """Equal for identical files; the path of an unreadable or empty file, which is reported when it
    is decoded.
    """
    try:
        found = bytes_of(path)
    except ImageError:
        found = b""
    return hashlib.sha256(found).hexdigest() if found else str(path)
