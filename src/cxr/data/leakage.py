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
    pairs = [(_kind(table, *pair), *pair) for pair in _leaking_duplicates(table, group_by)]
    if group_by == "patient":
        pairs += [("patient", *pair) for pair in _split_patients(table)]
    rows = [row for kind, *pair in pairs for row in _to_drop(table, kind, *pair)]
    found = pd.DataFrame(rows, columns=COLUMNS)
    return found.sort_values(COLUMNS, ignore_index=True)


def _leaking_duplicates(table: pd.DataFrame, group_by: str) -> Iterator[tuple[int, int]]:
    """Row numbers of duplicates in different splits or with different labels."""
    splits, labels, patients = (table[key].to_numpy() for key in ("split", "label", "patient"))
    for one, other in near_duplicates(table["phash"]):
        leaking = splits[one] != splits[other]
        if group_by != "patient":
            leaking &= patients[one] != patients[other]
        leaking |= labels[one] != labels[other]
        yield from zip(one[leaking].tolist(), other[leaking].tolist(), strict=True)


def near_duplicates(hashes: pd.Series) -> Iterator[tuple[Rows, Rows]]:
    """Find pairs of images whose hashes differ in at most `MAX_HASH_DISTANCE` bits.

    Args:
        hashes: hexadecimal perceptual hashes (N,).

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


def _kind(table: pd.DataFrame, one: int, other: int) -> str:
    is_identical = table["sha256"][one] == table["sha256"][other]
    return "identical" if is_identical else "near_identical"


def _signs(hashes: pd.Series) -> NDArray[np.float32]:
    """Hexadecimal hashes as vectors of -1 and 1, float32 (N, bits)."""
    packed = np.array([list(bytes.fromhex(value)) for value in hashes], np.uint8)
    return np.unpackbits(packed, axis=1).astype(np.float32) * 2 - 1


def _split_patients(table: pd.DataFrame) -> Iterator[tuple[int, int]]:
    """Row numbers of images of patients in several splits, each with an image of the patient in the
    split closest to test.
    """
    in_several = table.groupby("patient")["split"].transform("nunique") > 1
    for _, rows in table[in_several].groupby("patient"):
        ranks = rows["split"].map(SPLIT_ORDER)
        first = int(ranks.idxmin())
        yield from ((int(row), first) for row in rows.index[ranks > ranks.min()])


def _to_drop(table: pd.DataFrame, kind: str, one: int, other: int) -> Iterator[tuple[str, ...]]:
    """Rows of the images of a pair to drop: none, one or both."""
    first, second = table.loc[one], table.loc[other]
    if kind != "patient" and first["label"] != second["label"]:
        yield _row("label_conflict", first, second)
        yield _row("label_conflict", second, first)
    elif first["split"] != second["split"]:
        yield _row(kind, *sorted((first, second), key=lambda image: -SPLIT_ORDER[image["split"]]))


def _row(kind: str, image: pd.Series, counterpart: pd.Series) -> tuple[str, ...]:
    values = [row[key] for row in (image, counterpart) for key in ("path", "split", "label")]
    return (kind, *values)


def guard(found: pd.DataFrame, on_leak: str, group_by: str) -> dict[str, int | None]:
    """Report data leakage as `data.on_leak` asks.

    Args:
        found: from `find`.
        on_leak: `error`, `warn` or `drop`.
        group_by: as passed to `find`.

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
