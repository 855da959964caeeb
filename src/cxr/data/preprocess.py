"""Cache the preprocessed images of each split as arrays."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr.common.arrays import batches, write_split
from cxr.common.names import SPLITS
from cxr.compute import cluster
from cxr.data.splits import split_counts
from cxr.data.transforms import read_prepared
from cxr.params import ImageParams
from cxr.progress import track

TASK_IMAGES = 16  # images per task of a cluster
CHUNK_IMAGES = 64  # images decoded ahead of the writer; bounds the memory
File = tuple[Path, str]  # path and expected SHA-256


def cache_splits(
    raw: Path,
    manifest: pd.DataFrame,
    assigned: pd.Series,
    params: ImageParams,
    folder: Path,
    scheduler: str = "",
) -> None:
    """Write the array and index of each split to `folder`/<split>.

    Args:
        raw: folder to which the manifest's paths are relative.
        manifest: one row per image.
        assigned: split of each row.
        params: section `image` of params.yaml.
        folder: output folder.
        scheduler: as `preprocess.dask_scheduler`.

    Raises:
        ImageError: an image changed or became unreadable since it was verified.
    """
    for split in SPLITS:
        rows = manifest[assigned == split]
        index = rows.drop(columns=["split", "sha256", "phash"])
        paths = [raw / path for path in index["path"]]
        prepared = read_all(paths, params, scheduler, list(rows["sha256"]))
        images = track(prepared, f"prepare {split}", len(paths))
        write_split(folder / split, images, index)


def read_all(
    paths: list[Path], params: ImageParams, scheduler: str = "", hashes: list[str] | None = None
) -> Iterator[NDArray[np.uint8]]:
    """Decode and prepare files in parallel, on all cores or on a Dask cluster.

    Args:
        paths: files; workers of a cluster need the same absolute paths.
        params: section `image` of params.yaml.
        scheduler: as `preprocess.dask_scheduler`; empty: threads.
        hashes: expected SHA-256 of each file; None: not checked.

    Yields:
        uint8 (S, S), in the order of `paths`.

    Raises:
        ImageError: a file is not a readable image, or its hash differs.
    """
    files = list(zip(map(Path.absolute, paths), hashes or [""] * len(paths), strict=True))
    if scheduler:
        read = partial(_read_chunk, params=params)
        yield from chain.from_iterable(cluster.imap(read, batches(files, TASK_IMAGES), scheduler))
        return
    with ThreadPoolExecutor() as pool:
        for chunk in batches(files, CHUNK_IMAGES):
            yield from pool.map(lambda file: read_prepared(file[0], params, file[1]), chunk)


def _read_chunk(files: list[File], params: ImageParams) -> list[NDArray[np.uint8]]:
    return [read_prepared(path, params, sha256) for path, sha256 in files]


def class_balance(manifest: pd.DataFrame, assigned: pd.Series) -> pd.DataFrame:
    """Count the images of each split and class: columns split, label, group (both), images."""
    counts = split_counts(assigned, manifest["label"]).stack().rename_axis(["split", "label"])
    table = counts.reset_index(name="images")
    table.insert(2, "group", table["split"] + " " + table["label"])
    return table
