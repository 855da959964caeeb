"""Prediction by exported files compared with Keras, as in the notebook, and by `cxr predict`."""

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
from cxr.params import read_params
from cxr.prediction.networks import load_model
from cxr.tools.project_copy import PROJECT

FILES = 128  # for the command
IMAGES = 32  # for the networks, in memory
REPEATS = 3
MEGABYTE = 1e6
MAX_FIRST_SECONDS = 5.0  # for one file, with the recommended variant
MIN_SPEED = 10.0  # images per second, with the baseline


def measure() -> list[Comparison]:
    """Measure the command, and images per second of the exported network of each variant."""
    split = open_split(paths.ARRAYS / "val")
    rows = evenly_spaced(len(split.images), FILES)
    folder = paths.raw(read_params().data.source)
    files = [str(folder / path) for path in split.index["path"].iloc[rows]]
    return [*by_command(files), *by_network(np.asarray(split.images[rows[:: FILES // IMAGES]]))]


def by_command(files: list[str]) -> list[Comparison]:
    """Measure `cxr predict` for one file and for all, including its start."""
    one = [seconds_of(lambda: command(files[:1])) for _ in range(REPEATS)]
    many = [seconds_of(lambda: command([*files, "--variant=baseline"])) for _ in range(REPEATS)]
    first, speed = statistics.median(one), len(files) / statistics.median(many)
    start = Comparison(
        what="cxr predict for one file, including the start of the command",
        ours=first,
        notebook=None,
        unit="s",
        ratio=first,
        target=MAX_FIRST_SECONDS,
        repeats=REPEATS,
        sizes=f"1 image, recommended variant, {cores()} cores",
    )
    whole = dataclasses.replace(
        start,
        what="cxr predict with the baseline, including the start of the command",
        ours=speed,
        unit="images/s",
        ratio=speed,
        target=MIN_SPEED,
        sizes=f"{len(files)} images, {cores()} cores",
        at_least=True,
    )
    return [start, whole]


def command(arguments: list[str]) -> None:
    """Run `cxr predict` in a separate process."""
    subprocess.run(
        [sys.executable, "-m", "cxr.cli", "predict", *arguments],
        env={**os.environ, "PYTHONPATH": str(PROJECT / "src")},
        check=True,
        stdout=subprocess.DEVNULL,
    )


def by_network(images: NDArray[np.uint8]) -> list[Comparison]:
    """Compare each exported network with Keras, for images uint8 (N, S, S) in memory."""
    rows = []
    for variant in TRAINED:
        model = load_model(paths.model(variant))

        def by_keras(model: Any = model) -> Any:
            return model.predict(images[..., np.newaxis], verbose=0)

        file, keras_bytes = paths.EXPORTED / f"{variant}.xml", paths.model(variant).stat().st_size
        rows.append(compare_with_keras(f"{variant}: OpenVINO", file, keras_bytes, images, by_keras))
    return rows


def compare_with_keras(
    what: str, file: Path, keras_bytes: int, images: NDArray[np.uint8], by_keras: Callable[[], Any]
) -> Comparison:
    """Compare an exported file with the Keras model, whose file has `keras_bytes` bytes."""
    run = open_network(file)

    def ours() -> None:
        run_all(run, images)

    for run_once in (ours, by_keras):  # warm-up
        run_once()
    times = alternate(ours, by_keras, REPEATS)
    exported_bytes = sum(part.stat().st_size for part in (file, file.with_suffix(".bin")))
    sizes = (
        f"{len(images)} images, {images.shape[1]} px, {cores()} cores, "
        f"{exported_bytes / MEGABYTE:.1f} MB (Keras {keras_bytes / MEGABYTE:.1f} MB)"
    )
    compared = times.compare(
        f"prediction with {what}, compared with Keras", target=1.0, sizes=sizes
    )
    return dataclasses.replace(
        compared,
        ours=len(images) / statistics.median(times.ours),
        notebook=len(images) / statistics.median(times.notebook),
        unit="images/s",
        ratio=1 / compared.ratio,
        at_least=True,
    )
