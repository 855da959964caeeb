"""Data leakage: patients or duplicates in several splits, duplicates with conflicting labels.

Identical images are found by SHA-256, near-duplicates (recompressed, downscaled, brighter,
stretched) by a perceptual hash (Zauner 2010). A test on the Kaggle set at 256 pixels shows that
`MAX_HASH_DISTANCE` separates near-duplicates from images of other patients.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr.errors import CxrError, shortened

MAX_HASH_DISTANCE = 25  # of near-duplicates, in bits of 256
BLOCK = 256  # images compared with all others at a time: 1 KB per other image
MAX_LISTED = 10  # rows of a message
KINDS = ("patient", "identical", "near_identical", "label_conflict")
COLUMNS = ["kind", "path", "split", "label", "other_path", "other_split", "other_label"]
# Of two images in different splits, the one with the higher rank is dropped.
SPLIT_ORDER = {"test": 0, "val": 1, "train": 2}

Rows = NDArray[np.int64]


def find(manifest: pd.DataFrame, assigned: pd.Series, group_by: str) -> pd.DataFrame:
    """Find images that leak information between splits.

    Args:
        manifest: from `manifest.verify`.
        assigned: split of each row.
        group_by: as `split.group_by`; with `image`, a patient may be in several splits.

    Returns:
        Columns `COLUMNS`, sorted; one row per leaking image and counterpart. The image is the one
        to drop. Kinds: patient (the patient is also in a split closer to test), identical and
        near_identical (a duplicate is in such a split), label_conflict (a duplicate has the other
        label; both images are listed).
    """
    table = manifest.assign(split=assigned).reset_index(drop=True)
    pairs = [_duplicates(table, *rows, group_by) for rows in near_duplicates(table["phash"])]
    if group_by == "patient":
        pairs.append(_split_patients(table))
    found = pd.concat(pairs, ignore_index=True)
    places = table[["path", "split", "label"]]
    images = places.iloc[found["image"]].reset_index(drop=True)
    others = places.iloc[found["other"]].reset_index(drop=True).add_prefix("other_")
    leaks = pd.concat([found["kind"], images, others], axis=1)
    return leaks.sort_values(COLUMNS, ignore_index=True)


def _duplicates(table: pd.DataFrame, one: Rows, other: Rows, group_by: str) -> pd.DataFrame:
    """Pairs of duplicates in different splits or with different labels: columns kind, and the row
    numbers image (to drop) and other. Pairs with different labels are listed in both directions.
    """
    differs = {
        key: table[key].to_numpy()[one] != table[key].to_numpy()[other]
        for key in ("split", "label", "patient", "sha256")
    }
    leaks = differs["split"] & (differs["patient"] | (group_by == "patient"))
    kinds = np.select(
        [differs["label"], ~differs["sha256"]], ["label_conflict", "identical"], "near_identical"
    )
    ranks = table["split"].map(SPLIT_ORDER).to_numpy()
    is_further = ranks[one] > ranks[other]
    images, others = np.where(is_further, (one, other), (other, one))
    pairs = pd.DataFrame({"kind": kinds, "image": images, "other": others})
    conflicts = pairs[differs["label"]].rename(columns={"image": "other", "other": "image"})
    return pd.concat([pairs[leaks | differs["label"]], conflicts])


def _split_patients(table: pd.DataFrame) -> pd.DataFrame:
    """Images of patients in several splits, each with an image of the patient in the split closest
    to test; columns as in `_duplicates`.
    """
    ranks = table["split"].map(SPLIT_ORDER)
    by_patient = ranks.groupby(table["patient"])
    is_leak = ranks > by_patient.transform("min")
    first = by_patient.transform("idxmin")
    return pd.DataFrame({"kind": "patient", "image": table.index[is_leak], "other": first[is_leak]})


def near_duplicates(hashes: pd.Series) -> Iterator[tuple[Rows, Rows]]:
    """Find pairs of images whose hexadecimal hashes differ in at most `MAX_HASH_DISTANCE` bits.

    Yields:
        For each block of images, the row numbers of both images of each pair, int64 (pairs,).
    """
    signs = _signs(hashes)
    for start in range(0, len(signs), BLOCK):
        # The dot product of sign vectors is the number of equal bits minus that of different bits.
        products = signs[start : start + BLOCK] @ signs[start:].T
        distances = (signs.shape[1] - products) / 2
        one, other = np.nonzero(distances <= MAX_HASH_DISTANCE)
        later = one < other
        yield start + one[later], start + other[later]


def _signs(hashes: pd.Series) -> NDArray[np.float32]:
    """Hexadecimal hashes as vectors of -1 and 1, float32 (N, bits)."""
    packed = np.array([list(bytes.fromhex(value)) for value in hashes], np.uint8)
    return np.unpackbits(packed, axis=1).astype(np.float32) * 2 - 1


def guard(found: pd.DataFrame, on_leak: str, group_by: str) -> dict[str, int | None]:
    """Report data leakage that `find` found with `group_by`, as `data.on_leak` asks.

    Returns:
        Number of images by kind, and `dropped`. `patient` is None if patients were not compared
        (`group_by: image`).

    Raises:
        CxrError: with `error`, if there is any leakage; names the first images.
    """
    counts = {kind: int(found.loc[found["kind"] == kind, "path"].nunique()) for kind in KINDS}
    images = found["path"].nunique()
    if images:
        message = (
            f"Data leakage: {images} images appear in more than one split or with conflicting "
            f"labels ({', '.join(f'{kind} {count}' for kind, count in counts.items() if count)}):\n"
            f"{_listed(found)}"
        )
        if on_leak == "error":
            raise CxrError(
                f"{message}\n  Remove or move them, or set data.on_leak to drop or warn."
            )
        print(f"WARNING: {message}\n  {'dropped' if on_leak == 'drop' else 'kept'}")
    not_compared = {"patient": None} if group_by == "image" else {}
    return counts | not_compared | {"dropped": images if on_leak == "drop" else 0}


def _listed(found: pd.DataFrame) -> str:
    lines = (
        f"{row.path} ({row.split}): {row.kind} with {row.other_path} ({row.other_split})"
        for row in found.itertuples()
    )
    return "\n".join(f"  {x}" for x in shortened(lines, MAX_LISTED, "more, in data/leaks.csv"))
