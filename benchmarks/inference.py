"""Prediction by the exported files beside Keras, which the notebook predicts with, and by the
command `cxr predict` from files.
"""

import dataclasses
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.timing import Comparison, alternate, cores, seconds_of
from cxr import paths
from cxr.common.arrays import evenly_spaced, open_split
from cxr.common.names import TRAINED
from cxr.compute.runtimes import open_network, run_all
from cxr.evaluation.predictions import load_model
from cxr.params import read_params
from cxr.tools.project_copy import PROJECT

FILES = 128  # that the command is given
IMAGES = 32  # that the networks are given, in memory
REPEATS = 3
MEGABYTE = 1e6
FIRST_ANSWER = 5.0  # seconds at most, by the recommended variant
FROM_FILES = 10.0  # images a second at least, by the baseline


def measure() -> list[Comparison]:
    """The command from files, and images a second of each trained variant's exported network."""
    split = open_split(paths.ARRAYS / "val")
    rows = evenly_spaced(len(split.images), FILES)
    folder = paths.raw(read_params().data.source)
    files = [str(folder / path) for path in split.index["path"].iloc[rows]]
    return [*by_command(files), *by_network(np.asarray(split.images[rows[:: FILES // IMAGES]]))]


def by_command(files: list[str]) -> list[Comparison]:
    """The command `cxr predict` of one file and of all, with its start."""
    one = [seconds_of(lambda: command(files[:1])) for _ in range(REPEATS)]
    many = [seconds_of(lambda: command([*files, "--variant=baseline"])) for _ in range(REPEATS)]
    first, speed = statistics.median(one), len(files) / statistics.median(many)
    start = Comparison(
        what="cxr predict, from the start of the command to the answer for one file",
        ours=first,
        notebook=None,
        unit="s",
        ratio=first,
        target=FIRST_ANSWER,
        repeats=REPEATS,
        sizes=f"1 image, recommended variant, {cores()} cores",
    )
    whole = dataclasses.replace(
        start,
        what="cxr predict of the baseline from files, the start of the command included",
        ours=speed,
        unit="images/s",
        ratio=speed,
        target=FROM_FILES,
        sizes=f"{len(files)} images, {cores()} cores",
        at_least=True,
    )
    return [start, whole]


def command(arguments: list[str]) -> None:
    """Run `cxr predict` in a process of its own."""
    subprocess.run(
        [sys.executable, "-m", "cxr.cli", "predict", *arguments],
        env={**os.environ, "PYTHONPATH": str(PROJECT / "src")},
        check=True,
        stdout=subprocess.DEVNULL,
    )


def by_network(images: NDArray[np.uint8]) -> list[Comparison]:
    """Each exported network beside Keras, for images (N, S, S) in memory."""
    rows = []
    for variant in TRAINED:
        model = load_model(paths.model(variant))

        def by_keras(model: Any = model) -> Any:
            return model.predict(images[..., np.newaxis], verbose=0)

        file, kept = paths.EXPORTED / f"{variant}.xml", paths.model(variant).stat().st_size
        rows.append(beside_keras(f"{variant}: OpenVINO", file, kept, images, by_keras))
    return rows


def beside_keras(
    what: str, file: Path, kept: int, images: NDArray[np.uint8], by_keras: Callable[[], Any]
) -> Comparison:
    """One exported file beside the Keras model, whose file has `kept` bytes."""
    run = open_network(file)

    def ours() -> None:
        run_all(run, images)

    for way in (ours, by_keras):  # the first call of each prepares what the later ones use
        way()
    times = alternate(ours, by_keras, REPEATS)
    own = sum(part.stat().st_size for part in (file, file.with_suffix(".bin")))
    sizes = (
        f"{len(images)} images, side {images.shape[1]}, {cores()} cores, "
        f"{own / MEGABYTE:.1f} MB (Keras {kept / MEGABYTE:.1f} MB)"
    )
    compared = times.compare(f"prediction by {what}, beside Keras", target=1.0, sizes=sizes)
    return dataclasses.replace(
        compared,
        ours=len(images) / statistics.median(times.ours),
        notebook=len(images) / statistics.median(times.notebook),
        unit="images/s",
        ratio=1 / compared.ratio,
        at_least=True,
    )
