"""Manifest -> the cached arrays of each split."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from cxr.arrays import write_split
from cxr.cleaning import read_prepared
from cxr.labels import SPLITS
from cxr.params import ImageParams

CHUNK = 256  # images decoded ahead of the writer: memory stays flat as the data set grows


def cache_splits(
    raw: Path, manifest: pd.DataFrame, assigned: pd.Series, params: ImageParams, folder: Path
) -> None:
    """Decode and resize every image, one array and index for each split, as `folder`/<split>.

    Args:
        raw: folder to which the manifest's paths are relative.
        manifest: one row per image.
        assigned: split of each row.
        params: size and way to make square.
        folder: where the arrays go.

    Raises:
        ImageError: an image became unreadable since it was verified.
    """
    for split in SPLITS:
        index = manifest[assigned == split].drop(columns=["split", "sha256"])
        paths = [raw / path for path in index["path"]]
        images = tqdm(read_all(paths, params), split, len(paths), unit="image", disable=None)
        write_split(folder / split, images, index)


def read_all(paths: list[Path], params: ImageParams) -> Iterator[NDArray[np.uint8]]:
    """Decode and prepare files, on all cores; uint8 (S, S) each, in order."""
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(paths), CHUNK):
            chunk = paths[start : start + CHUNK]
            yield from pool.map(lambda path: read_prepared(path, params), chunk)


def class_balance(manifest: pd.DataFrame, assigned: pd.Series) -> pd.DataFrame:
    """Images of each split and class: columns split, label, images."""
    table = manifest.assign(split=assigned).groupby(["split", "label"]).size()
    order = pd.MultiIndex.from_product(
        [SPLITS, sorted(manifest["label"].unique())], names=["split", "label"]
    )
    return table.reindex(order, fill_value=0).rename("images").reset_index()
