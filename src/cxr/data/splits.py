"""Patient-level, stratified, seeded split into train, val and test."""

import hashlib

import pandas as pd

from cxr.common.names import LABELS, SPLITS
from cxr.data.manifest import has_unknown_patient
from cxr.errors import CxrError
from cxr.params import SplitParams

# Maximum fraction of images of unknown patients in a split by patient. Each counts as a patient of
# its own, so leakage between them is not detected. 1 % allows for single files of other origin.
MAX_UNKNOWN_FRACTION = 0.01


def assign(manifest: pd.DataFrame, params: SplitParams) -> pd.Series:
    """Assign each image of the manifest to train, val or test.

    The published `val` joins the training pool (Kaggle's 16 images came from it), of which
    `val_fraction` is sampled for validation. `test: redrawn` first samples `test_fraction` of all
    images for a new test split.

    Returns:
        Split of each row, with the index of the manifest.

    Raises:
        CxrError: a split would lack a class, or too many patients are unknown for a split by
            patient.
    """
    if params.group_by == "patient":
        _require_patients(manifest)
    groups = manifest["patient" if params.group_by == "patient" else "path"]
    if params.test == "official":
        test = manifest["split"] == "test"
    else:
        test = sample_groups(groups, manifest["label"], params.test_fraction, f"test-{params.seed}")
    pool = ~test
    val = pool & sample_groups(
        groups[pool], manifest.loc[pool, "label"], params.val_fraction, f"val-{params.seed}"
    ).reindex(manifest.index, fill_value=False)
    assigned = pd.Series("train", index=manifest.index, name="split")
    assigned[test] = "test"
    assigned[val] = "val"
    _check(assigned, manifest["label"], params)
    return assigned


def _require_patients(manifest: pd.DataFrame) -> None:
    unknown = manifest.loc[has_unknown_patient(manifest), "path"]
    if len(unknown) <= MAX_UNKNOWN_FRACTION * len(manifest):
        return
    raise CxrError(
        f"split.group_by is patient, but the patient of {len(unknown)} of {len(manifest)} images "
        f"is unknown, such as {unknown.iloc[0]} (allowed: {MAX_UNKNOWN_FRACTION:.0%}). Images of "
        "one patient could be in several splits without being detected.\n"
        "  Set data.patients to a CSV with the columns path and patient (data/manifest.csv is a "
        "template), or set split.group_by to image if every image is of another patient or "
        "optimistic scores are acceptable."
    )


def leave_out(
    paths: pd.Series, manifest: pd.DataFrame, assigned: pd.Series, params: SplitParams
) -> tuple[pd.DataFrame, pd.Series]:
    """Drop images from the manifest and the splits of `assign`.

    Raises:
        CxrError: a split would lack a class.
    """
    kept = ~manifest["path"].isin(paths)
    _check(assigned[kept], manifest.loc[kept, "label"], params)
    return manifest[kept], assigned[kept]


def sample_groups(groups: pd.Series, labels: pd.Series, fraction: float, key: str) -> pd.Series:
    """Sample about `fraction` of the images of each class, in whole groups.

    Groups are taken in the order of a hash of their name, so that the sample depends neither on the
    order of files nor on a library's version, and new images move few others. A group with images
    of both classes counts as PNEUMONIA. The last group is taken if at least half of it fits.

    Args:
        groups: group of each image (N,), such as its patient.
        labels: NORMAL or PNEUMONIA (N,).
        fraction: 0 to 1.
        key: seed of the hash.

    Returns:
        bool (N,), with the index of `groups`.
    """
    sizes = groups.value_counts()
    is_positive = (labels == "PNEUMONIA").groupby(groups).any()
    sampled: set[str] = set()
    for stratum in (True, False):
        in_stratum = is_positive.index[is_positive == stratum]
        ordered = sizes.reindex(sorted(in_stratum, key=lambda name: _hash(key, name)))
        middle = ordered.cumsum() - ordered / 2
        sampled.update(ordered.index[middle <= fraction * ordered.sum()])
    return groups.isin(sampled)


def _hash(key: str, name: str) -> str:
    return hashlib.sha256(f"{key}:{name}".encode()).hexdigest()


def _check(assigned: pd.Series, labels: pd.Series, params: SplitParams) -> None:
    counts = split_counts(assigned, labels)
    lacking = [f"{split}/{label}" for label in LABELS for split in counts.index[counts[label] == 0]]
    if lacking:
        raise CxrError(
            f"the split leaves no image for {', '.join(lacking)}. Each class needs several "
            f"{params.group_by}s (split.group_by); without a test folder use split.test: redrawn. "
            f"Counts:\n{counts.to_string()}"
        )


def split_counts(assigned: pd.Series, labels: pd.Series) -> pd.DataFrame:
    """Number of images by split (rows `SPLITS`) and label (columns `LABELS`), int64 (3, 2)."""
    return pd.crosstab(assigned, labels).reindex(index=SPLITS, columns=LABELS, fill_value=0)
