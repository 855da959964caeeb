"""Prediction by the exported files beside Keras, which the notebook predicts with."""

import dataclasses
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.timing import Comparison, alternate, cores
from cxr import paths
from cxr.arrays import evenly, open_split
from cxr.evaluation import load_model
from cxr.runtimes import BATCH_SIZE, open_network, run_all
from cxr.variants import TRAINED

IMAGES = 128
REPEATS = 5
WAYS = {"OpenVINO": ".xml", "ONNX Runtime": ".onnx", "ONNX Runtime, 8 bits": "_int8.onnx"}
MEGABYTE = 1e6


def measure() -> list[Comparison]:
    """Images a second of each trained variant in each of its exported files; of 8 bits is what the
    stage export kept.
    """
    images = open_split(paths.ARRAYS / "val").images
    images = np.asarray(images[evenly(len(images), IMAGES)])
    rows = []
    for variant in TRAINED:
        model = load_model(paths.model(variant))

        def by_keras(model: Any = model) -> Any:
            return model.predict(images[..., np.newaxis], batch_size=BATCH_SIZE, verbose=0)

        files = {way: paths.EXPORTED / f"{variant}{end}" for way, end in WAYS.items()}
        for way, file in files.items():
            if file.exists() or file.suffix == ".xml":  # where nothing is exported, say so
                kept = paths.model(variant).stat().st_size
                rows.append(beside_keras(f"{variant}: {way}", file, kept, images, by_keras))
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
    parts = [file] if file.suffix == ".onnx" else [file, file.with_suffix(".bin")]
    own = sum(part.stat().st_size for part in parts)
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
