"""Images that stand on two sides at once, or under two labels, so that scores would be too good.

Copies are found by their bytes, and near-copies (compressed anew, smaller, brighter, squashed) by a
perceptual hash of the package ImageHash (Zauner 2010). A test on the 256-pixel copy of the Kaggle
set shows that `NEAR` tells near-copies from the images of other patients.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr.errors import CxrError, shortened

NEAR = 25  # bits of 256 in which the hashes of near-copies differ at most
BLOCK = 256  # images compared with all others at a time: 1 KB for each of the others
LISTED = 10  # rows of a message
KINDS = ("patient", "identical", "near_identical", "label_conflict")
COLUMNS = ["kind", "path", "split", "label", "other_path", "other_split", "other_label"]
# Of two images on two sides, the one further from test goes.
SPLIT_ORDER = {"test": 0, "val": 1, "train": 2}

Rows = NDArray[np.int64]


def find(manifest: pd.DataFrame, assigned: pd.Series, group_by: str) -> pd.DataFrame:
    """Images that should not be where they are.

    Args:
        manifest: one row per image, as `manifest.verify` lists them.
        assigned: split of each row.
        group_by: as `split.group_by`; with `image` two images of one patient may be on two sides.

    Returns:
        Columns `COLUMNS`, one row for each image and each of its twins: the image that should go,
        its kind of leak (patient: another image of the patient is on a side nearer to test;
        identical, near_identical: a copy is there; label_conflict: a copy has the other label, in
        which case both of them should go), and the twin.
    """
    table = manifest.assign(split=assigned).reset_index(drop=True)
    pairs = [_kind(table, *pair) for pair in _copies(table, group_by)]
    if group_by == "patient":
        pairs += [("patient", *pair) for pair in _patients(table)]
    rows = [row for kind, *pair in pairs for row in _judge(table, kind, *pair)]
    found = pd.DataFrame(rows, columns=COLUMNS)
    return found.sort_values(COLUMNS, ignore_index=True)


def _copies(table: pd.DataFrame, group_by: str) -> Iterator[tuple[int, int]]:
    """Pairs of row numbers whose images are equal or nearly so and should not be where they are."""
    sides, labels, patients = (table[key].to_numpy() for key in ("split", "label", "patient"))
    for one, other in near_duplicates(table["phash"]):
        apart = sides[one] != sides[other]
        if group_by != "patient":
            apart &= patients[one] != patients[other]
        wrong = apart | (labels[one] != labels[other])
        yield from zip(one[wrong].tolist(), other[wrong].tolist(), strict=True)


def near_duplicates(hashes: pd.Series) -> Iterator[tuple[Rows, Rows]]:
    """Row numbers of the first and of the second of each pair whose hashes differ by at most `NEAR`
    bits, some at a time.
    """
    signs = _signs(hashes)
    for start in range(0, len(signs), BLOCK):
        # The product of sign vectors is the number of bits that agree less those that differ.
        others = signs[start:]
        differ = (signs.shape[1] - signs[start : start + BLOCK] @ others.T) / 2
        one, other = np.nonzero(differ <= NEAR)
        later = one < other
        yield start + one[later], start + other[later]


def _kind(table: pd.DataFrame, one: int, other: int) -> tuple[str, int, int]:
    same = table["sha256"][one] == table["sha256"][other]
    return ("identical" if same else "near_identical", one, other)


def _signs(hashes: pd.Series) -> NDArray[np.float32]:
    """Hexadecimal hashes as vectors of -1 and 1, (N, bits)."""
    digits = np.array([list(bytes.fromhex(value)) for value in hashes], np.uint8)
    return np.unpackbits(digits, axis=1).astype(np.float32) * 2 - 1


def _patients(table: pd.DataFrame) -> Iterator[tuple[int, int]]:
    """Each image of a patient on several sides, with one on the side nearest to test."""
    several = table.groupby("patient")["split"].transform("nunique") > 1
    for _, rows in table[several].groupby("patient"):
        ranks = rows["split"].map(SPLIT_ORDER)
        first = int(ranks.idxmin())
        yield from ((int(row), first) for row in rows.index[ranks > ranks.min()])


def _judge(table: pd.DataFrame, kind: str, one: int, other: int) -> Iterator[tuple[str, ...]]:
    """Which images of a pair should go: none, one or both."""
    first, second = table.loc[one], table.loc[other]
    if kind != "patient" and first["label"] != second["label"]:
        yield _row("label_conflict", first, second)
        yield _row("label_conflict", second, first)
    elif first["split"] != second["split"]:
        yield _row(kind, *sorted((first, second), key=lambda image: -SPLIT_ORDER[image["split"]]))


def _row(kind: str, image: pd.Series, twin: pd.Series) -> tuple[str, ...]:
    named = [part[key] for part in (image, twin) for key in ("path", "split", "label")]
    return (kind, *named)


def guard(found: pd.DataFrame, on_leak: str, group_by: str) -> dict[str, int | None]:
    """Tell of what `find` found.

    Args:
        found: table of `find`.
        on_leak: `error`, `warn` or `drop`.
        group_by: as `find` was given it.

    Returns:
        Images of each kind, and images left out (`dropped`). None for `patient` where patients were
        not compared (`group_by: image`).

    Raises:
        CxrError: with `error`, if anything was found; the first images by name.
    """
    counts = {kind: int(found.loc[found["kind"] == kind, "path"].nunique()) for kind in KINDS}
    images = found["path"].nunique()
    if images:
        message = (
            f"{images} image(s) stand on two sides at once or under two labels "
            f"({', '.join(f'{kind} {count}' for kind, count in counts.items() if count)}):\n"
            f"{_listed(found)}"
        )
        if on_leak == "error":
            raise CxrError(
                f"{message}\n  Remove or move them, or set data.on_leak to drop (leaves them out) "
                "or warn (keeps them)."
            )
        print(f"WARNING: {message}\n  {'left out' if on_leak == 'drop' else 'kept'}")
    not_compared = {"patient": None} if group_by == "image" else {}
    return counts | not_compared | {"dropped": images if on_leak == "drop" else 0}


def _listed(found: pd.DataFrame) -> str:
    lines = (
        f"{row.path} ({row.split}): {row.kind} with {row.other_path} ({row.other_split})"
        for row in found.itertuples()
    )
    return "\n".join(f"  {x}" for x in shortened(lines, LISTED, "more, in data/leaks.csv"))
