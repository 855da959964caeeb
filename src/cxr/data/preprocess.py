"""Manifest -> the cached arrays of each split."""

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
from cxr.data.transforms import read_prepared
from cxr.params import ImageParams
from cxr.progress import track

TASK_IMAGES = 16  # images that a worker of a cluster reads in one go
CHUNK = 64  # images decoded ahead of the writer: memory stays flat as the data set grows
File = tuple[Path, str]  # and the SHA-256 that it has to have


def cache_splits(
    raw: Path,
    manifest: pd.DataFrame,
    assigned: pd.Series,
    params: ImageParams,
    folder: Path,
    scheduler: str = "",
) -> None:
    """Decode and resize every image, one array and index for each split, as `folder`/<split>.

    Args:
        raw: folder to which the manifest's paths are relative.
        manifest: one row per image.
        assigned: split of each row.
        params: size and way to make square.
        folder: where the arrays go.
        scheduler: as `preprocess.dask_scheduler`.

    Raises:
        ImageError: an image changed or became unreadable since it was verified.
    """
    for split in SPLITS:
        rows = manifest[assigned == split]
        index = rows.drop(columns=["split", "sha256", "phash"])
        paths = [raw / path for path in index["path"]]
        read = read_all(paths, params, scheduler, list(rows["sha256"]))
        images = track(read, f"prepare {split}", len(paths))
        write_split(folder / split, images, index)


def read_all(
    paths: list[Path],
    params: ImageParams,
    scheduler: str = "",
    hashes: list[str] | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """Decode and prepare files, on all cores or all machines; uint8 (S, S) each, in order.

    Args:
        paths: files; where there is a scheduler, its workers find them at the same absolute paths.
        params: as `prepare` takes them.
        scheduler: as `preprocess.dask_scheduler`.
        hashes: SHA-256 that each file has to have; None: whatever they have.
    """
    files = list(zip(map(Path.absolute, paths), hashes or [""] * len(paths), strict=True))
    if scheduler:
        read = partial(_read_chunk, params=params)
        yield from chain.from_iterable(cluster.imap(read, batches(files, TASK_IMAGES), scheduler))
        return
    with ThreadPoolExecutor() as pool:
        for chunk in batches(files, CHUNK):
            yield from pool.map(lambda file: read_prepared(file[0], params, file[1]), chunk)


def _read_chunk(files: list[File], params: ImageParams) -> list[NDArray[np.uint8]]:
    return [read_prepared(path, params, sha256) for path, sha256 in files]


def class_balance(manifest: pd.DataFrame, assigned: pd.Series) -> pd.DataFrame:
    """Images of each split and class: columns split, label, group (both together), images."""
    table = manifest.assign(split=assigned).groupby(["split", "label"]).size()
    order = pd.MultiIndex.from_product(
        [SPLITS, sorted(manifest["label"].unique())], names=["split", "label"]
    )
    counts = table.reindex(order, fill_value=0).rename("images").reset_index()
    counts.insert(2, "group", counts["split"] + " " + counts["label"])
    return counts
