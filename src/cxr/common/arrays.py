"""Array cache: the images of each split as a memory-mapped array, with an index table."""

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
    """Images of one split, read from disk on access.

    Attributes:
        images: uint8 (N, H, W), 0 black to 255 white, memory-mapped read-only.
        index: one row per image, in the order of `images`: path, label, patient, pathogen, ...
    """

    images: NDArray[np.uint8]
    index: pd.DataFrame

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class indices int64 (N,): 0 negative (NORMAL), 1 positive (PNEUMONIA)."""
        return self.index["label"].map(LABELS.index).to_numpy(np.int64)


def evenly_spaced(count: int, max_count: int) -> NDArray[np.int64]:
    """At most `max_count` row numbers below `count`, evenly spaced; int64."""
    return np.linspace(0, count - 1, min(count, max_count)).round().astype(np.int64)


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield consecutive items in lists of `size`; the last one may be shorter. Lazy: rows of a
    memory-mapped array are read when their batch is taken.
    """
    iterator = iter(items)
    while batch := list(islice(iterator, size)):  # itertools.batched, which Python 3.11 lacks
        yield batch


def write_rows(
    path: Path, rows: Iterable[NDArray[np.generic]], shape: tuple[int, ...], dtype: str
) -> None:
    """Write an .npy file of `shape` row by row, or block by block, without holding it in memory.

    Raises:
        ValueError: the rows do not fill the shape exactly.
    """
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        for row in rows:
            file.write(np.ascontiguousarray(row, dtype).data)
        if file.tell() - start != np.prod(shape) * np.dtype(dtype).itemsize:
            raise ValueError(f"{path}: rows do not fill the shape {shape}")


def open_rows(path: Path) -> NDArray[Any]:
    """Open a file of `write_rows`, memory-mapped read-only.

    Raises:
        CxrError: the file is missing or damaged, or holds pickled objects; they are never loaded.
    """
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError) as error:
        raise CxrError(f"{path} cannot be read ({error}); run `dvc repro`") from error


def write_split(folder: Path, images: Iterable[NDArray[np.uint8]], index: pd.DataFrame) -> None:
    """Write images, each uint8 (H, W), and their index to `folder`.

    Raises:
        ValueError: no image, images of different sizes, or not one image per row of the index.
    """
    iterator = iter(images)
    if (first := next(iterator, None)) is None:
        raise ValueError(f"{folder}: no image to write")
    with replacing(folder) as temporary:
        temporary.mkdir()
        rows = (_with_shape(image, first.shape) for image in chain((first,), iterator))
        write_rows(temporary / "images.npy", rows, (len(index), *first.shape), "uint8")
        write_csv(temporary / "index.csv", index)


def _with_shape(image: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    if image.shape != shape:
        raise ValueError(f"image of shape {image.shape}, but the first one has {shape}")
    return image


def open_split(folder: Path) -> Split:
    """Open a folder of `write_split`; images are memory-mapped read-only.

    Raises:
        CxrError: the folder is missing or damaged, or images and index do not match.
    """
    try:
        images = np.lib.format.open_memmap(folder / "images.npy", mode="r")
        index = pd.read_csv(folder / "index.csv", dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise CxrError(f"{folder} cannot be read ({error}); run `dvc repro preprocess`") from error
    if images.ndim != 3 or images.dtype != np.uint8 or len(images) != len(index):
        raise CxrError(
            f"{folder}: images.npy {images.shape} does not match index.csv of {len(index)} rows; "
            "run `dvc repro preprocess`"
        )
    return Split(images, index)
