"""Which image is for training, validation and test: by patient, stratified by class, seeded."""

import hashlib

import pandas as pd

from cxr.common.names import LABELS, SPLITS
from cxr.data.manifest import is_unknown
from cxr.errors import CxrError
from cxr.params import SplitParams

# Share of images of unknown patient up to which there is a split by patient. Each of them counts
# as a patient of its own, so that no guard notices images of one child in two splits. A hundredth
# leaves room for single files of other origin; more of them is no accident.
MOST_UNKNOWN = 0.01


def assign(manifest: pd.DataFrame, params: SplitParams) -> pd.Series:
    """Split of each image of the manifest: train, val or test.

    The data set's own `val` goes into the training pool (Kaggle's 16 images came out of it), and a
    validation split of `val_fraction` is drawn from the pool. `test: redrawn` first draws a new
    test split of `test_fraction` from all images.

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
        test = draw(groups, manifest["label"], params.test_fraction, f"test-{params.seed}")
    pool = ~test
    val = pool & draw(
        groups[pool], manifest.loc[pool, "label"], params.val_fraction, f"val-{params.seed}"
    ).reindex(manifest.index, fill_value=False)
    assigned = pd.Series("train", index=manifest.index, name="split")
    assigned[test] = "test"
    assigned[val] = "val"
    _check(assigned, manifest["label"], params)
    return assigned


def _require_patients(manifest: pd.DataFrame) -> None:
    unknown = manifest.loc[is_unknown(manifest), "path"]
    if len(unknown) <= MOST_UNKNOWN * len(manifest):
        return
    raise CxrError(
        f"split.group_by is patient, but nothing tells the patient of {len(unknown)} of "
        f"{len(manifest)} images, as {unknown.iloc[0]} (allowed: {MOST_UNKNOWN:.0%}). Images of "
        "one child could be in training and in validation or test, and no guard would notice.\n"
        "  Name a CSV with the columns path and patient as data.patients (data/manifest.csv has "
        "both, to start from), or set split.group_by to image if each image is another patient's "
        "or scores may be too good."
    )


def leave_out(
    paths: pd.Series, manifest: pd.DataFrame, assigned: pd.Series, params: SplitParams
) -> tuple[pd.DataFrame, pd.Series]:
    """The manifest and `assign`'s splits without some images.

    Raises:
        CxrError: a split would lack a class.
    """
    kept = ~manifest["path"].isin(paths)
    _check(assigned[kept], manifest.loc[kept, "label"], params)
    return manifest[kept], assigned[kept]


def draw(groups: pd.Series, labels: pd.Series, fraction: float, key: str) -> pd.Series:
    """Draw about `fraction` of the images of each class, whole groups only.

    Groups are taken in the order of a hash of their name, so that the draw does not depend on the
    order of files or on a library's version, and new images move few old ones. A group with images
    of both classes counts as PNEUMONIA. The last group is taken where most of it fits.

    Returns:
        bool (N,), aligned with `groups`: drawn or not.
    """
    sizes = groups.value_counts()
    ill = (labels == "PNEUMONIA").groupby(groups).any()
    drawn: set[str] = set()
    for stratum in (True, False):
        names = sorted(ill.index[ill == stratum], key=lambda name: _hash(key, name))
        ordered = sizes.reindex(names)
        middle = ordered.cumsum() - ordered / 2
        drawn.update(ordered.index[middle <= fraction * ordered.sum()])
    return groups.isin(drawn)


def _hash(key: str, name: str) -> str:
    return hashlib.sha256(f"{key}:{name}".encode()).hexdigest()


def _check(assigned: pd.Series, labels: pd.Series, params: SplitParams) -> None:
    counts = pd.crosstab(assigned, labels).reindex(index=SPLITS, columns=LABELS, fill_value=0)
    lacking = [f"{split}/{label}" for label in LABELS for split in counts.index[counts[label] == 0]]
    if lacking:
        raise CxrError(
            f"the split leaves no image for {', '.join(lacking)}. Each class needs several "
            f"{params.group_by}s (split.group_by); without a test folder use split.test: redrawn. "
            f"Counts:\n{counts.to_string()}"
        )
