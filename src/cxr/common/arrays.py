"""The cache: images of one split as a memory-mapped array with an index table beside it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr.common.files import replacing, write_csv
from cxr.common.names import LABELS
from cxr.errors import CxrError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Split:
    """Images of one split, read from disk only where they are used.

    Attributes:
        images: uint8 (N, H, W), 0 black to 255 white, memory-mapped read-only.
        index: one row per image, in the same order: path, label, patient, pathogen, ...
    """

    images: NDArray[np.uint8]
    index: pd.DataFrame

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class numbers (N,), positions in `LABELS`: 0 NORMAL, 1 PNEUMONIA, the positive class."""
        return self.index["label"].map(LABELS.index).to_numpy(np.int64)


def evenly_spaced(count: int, most: int) -> NDArray[np.int64]:
    """At most `most` row numbers out of `count`, evenly spaced: all of them where they are few."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Consecutive items, `size` at a time; the last batch may be smaller. Items are taken from
    their source only when their batch is: rows of a memory-mapped array stay on disk until then.
    """
    waiting = iter(items)
    while batch := list(islice(waiting, size)):  # itertools.batched, which Python 3.11 lacks
        yield batch


def write_rows(
    path: Path, rows: Iterable[NDArray[np.generic]], shape: tuple[int, ...], dtype: str
) -> None:
    """Write an .npy file of `shape` row by row (or block by block), never all in memory.

    Raises:
        ValueError: the rows do not fill the shape exactly.
    """
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    with replacing(path) as part, part.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        for row in rows:
            file.write(np.ascontiguousarray(row, dtype).data)
        if file.tell() - start != np.prod(shape) * np.dtype(dtype).itemsize:
            raise ValueError(f"{path}: rows do not fill the shape {shape}")


def open_rows(path: Path) -> NDArray[Any]:
    """Open what `write_rows` wrote, memory-mapped read-only; its shape and dtype are the file's.

    Raises:
        CxrError: the file is missing, damaged or holds pickled objects, which are never unpickled.
    """
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError) as error:
        raise CxrError(f"{path} cannot be read ({error}); run `dvc repro`") from error


def write_split(folder: Path, images: Iterable[NDArray[np.uint8]], index: pd.DataFrame) -> None:
    """Write images (each uint8 (H, W), all of one size) and their index as `folder`.

    Raises:
        ValueError: no image, images of several sizes, or not as many as the index has rows.
    """
    iterator = iter(images)
    if (first := next(iterator, None)) is None:
        raise ValueError(f"{folder}: no image to write")
    with replacing(folder) as part:
        part.mkdir()
        rows = (_of_shape(image, first.shape) for image in chain((first,), iterator))
        write_rows(part / "images.npy", rows, (len(index), *first.shape), "uint8")
        write_csv(part / "index.csv", index)


def _of_shape(image: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    if image.shape != shape:
        raise ValueError(f"an image has the shape {image.shape} and the first one {shape}")
    return image


def open_split(folder: Path) -> Split:
    """Open what `write_split` wrote.

    Raises:
        CxrError: the folder is missing or its parts do not belong together.
    """
    try:
        images = np.lib.format.open_memmap(folder / "images.npy", mode="r")
        index = pd.read_csv(folder / "index.csv", dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise CxrError(f"{folder} cannot be read ({error}); run `dvc repro preprocess`") from error
    if images.ndim != 3 or images.dtype != np.uint8 or len(images) != len(index):
        raise CxrError(f"{folder}: array {images.shape} and index of {len(index)} rows disagree")
    return Split(images, index)
