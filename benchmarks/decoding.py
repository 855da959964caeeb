"""Decode full-size JPEGs and resize them to the input of the networks."""

import dataclasses
import statistics
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import images, notebook
from benchmarks.timing import Comparison, alternate, cores
from cxr.data.images import decode, to_gray
from cxr.data.preprocess import read_all
from cxr.data.transforms import prepare
from cxr.params import ImageParams

REPEATS = 7
N_LINKS = 6  # per file: TensorFlow tunes its number of threads while it runs


def measure() -> list[Comparison]:
    with tempfile.TemporaryDirectory() as scratch:
        folder, kind = images.full_size(Path(scratch) / "images")
        train = images.link_repeatedly(folder / "train", N_LINKS, Path(scratch) / "linked")
        paths = images.files(train)
        batches = notebook.read(train, shuffle=False)
        times = alternate(
            lambda: list(read_all(paths, images.IMAGE)), lambda: list(batches), REPEATS
        )
        sizes = f"{len(paths)} {kind}, {images.IMAGE.input_size} px, {cores()} cores"
        speed = times.compare("decode and resize", target=2.0, sizes=sizes)
        difference = mean_difference(images.files(folder / "train"), images.IMAGE)
    per_second = dataclasses.replace(
        speed,
        ours=len(paths) / statistics.median(times.ours),
        notebook=len(paths) / statistics.median(times.notebook),
        unit="images/s",
        ratio=1 / speed.ratio,
        at_least=True,
    )
    return [
        per_second,
        Comparison(
            what="decode and resize: mean difference from full decoding",
            ours=difference,
            notebook=None,
            unit="gray levels",
            ratio=difference,
            target=1.0,
            repeats=1,
            sizes=f"{len(paths) // N_LINKS} {kind}, {images.IMAGE.input_size} px",
        ),
    ]


def mean_difference(paths: list[Path], params: ImageParams) -> float:
    """Mean absolute difference in gray levels between the pipeline and full decoding."""
    pairs = zip(read_all(paths, params), paths, strict=True)
    differences = [
        np.abs(prepare(to_gray(decode(path.read_bytes(), path)), params).astype(int) - ours).mean()
        for ours, path in pairs
    ]
    return float(np.mean(differences))
