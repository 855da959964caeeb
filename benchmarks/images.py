"""Images for benchmarks: the published full-size files, or phantoms of similar sizes."""

import os
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pandas as pd

from cxr.common.arrays import Split, open_split, write_split
from cxr.data import phantom
from cxr.data.preprocess import read_all
from cxr.params import read_params

# Pixels of the shorter side: the 5th, 15th ... 95th percentile of 85 published files.
SHORT_SIDES = (552, 604, 672, 752, 837, 938, 1039, 1202, 1383, 1908)
N_PHANTOMS = {"train": 60, "val": 16}  # images
IMAGE = read_params().image


def full_size(scratch: Path) -> tuple[Path, str]:
    """Folder {train,val}/{NORMAL,PNEUMONIA} of full-size JPEGs, and their description.

    `$CXR_TEST_DATA/originals` if it exists, otherwise phantoms in `scratch`.
    """
    originals = Path(os.environ.get("CXR_TEST_DATA", "")) / "originals"
    if os.environ.get("CXR_TEST_DATA") and originals.is_dir():
        return originals, "published full-size JPEGs"
    for split, count in N_PHANTOMS.items():
        for number in range(count):
            _draw(scratch / split, number)
    return scratch, "synthetic full-size JPEGs"


def _draw(folder: Path, number: int) -> None:
    label, pathogen = [("NORMAL", "none"), ("PNEUMONIA", "bacteria")][number % 2]
    rng = np.random.default_rng([1, number])
    short_side = SHORT_SIDES[number % len(SHORT_SIDES)]
    (folder / label).mkdir(parents=True, exist_ok=True)
    image = phantom.generate_image(rng, pathogen, short_side=short_side)
    iio.imwrite(folder / label / f"{number}.jpeg", image, plugin="pillow", quality=90)


def link_repeatedly(folder: Path, times: int, target: Path) -> Path:
    """Fill a folder with several links to each file of `folder`."""
    for path in sorted(folder.rglob("*.jp*g")):
        for number in range(times):
            link = target / path.relative_to(folder).with_stem(f"{path.stem}_{number}")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
    return target


def files(folder: Path) -> list[Path]:
    """Image files below a folder, sorted."""
    return sorted(folder.rglob("*.jp*g"))


def cache(folder: Path, target: Path) -> Split:
    """Write the images of a folder to arrays in `target`, as the pipeline does."""
    paths = files(folder)
    index = pd.DataFrame({"label": [path.parent.name for path in paths]})
    write_split(target, read_all(paths, IMAGE), index)
    return open_split(target)
