"""Runs networks by OpenVINO, without TensorFlow: exported files, or what `conversion` gives.

Nothing here imports Keras, whose start alone takes seconds.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr.errors import CxrError

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

BATCH_SIZE = 8  # images; of no influence on the result, and more take memory without being faster


def import_openvino() -> Any:
    """The package `openvino`, kept from reporting its use to its makers."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino  # only here: it takes a second, and not every command needs it

    return openvino


def compiled(network: Any) -> Run:
    """A function that runs a network: images uint8 (N, S, S, 1) -> float32 (N, ...).

    Args:
        network: an `openvino.Model`, or the path of its `.xml`.
    """
    ready = import_openvino().compile_model(
        network,
        "CPU",
        # All cores on one batch, in full precision: equal results in every run.
        {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"},
    )

    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.array(ready(images)[0])  # a copy: the next call overwrites its memory

    return run


def open_network(path: Path) -> Run:
    """`compiled` of an exported file.

    Args:
        path: `.xml`, with its `.bin` in the same folder.

    Raises:
        CxrError: a file is missing or damaged.
    """
    try:
        return compiled(import_openvino().Core().read_model(path))
    except Exception as error:  # OpenVINO has no exception type of its own for a damaged file
        raise CxrError(
            f"{path} cannot be used as a network; run `dvc repro export` ({error})"
        ) from error


def run_all(run: Run, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Output of a network (N, ...) for images (N, S, S), in batches."""
    starts = range(0, len(images), BATCH_SIZE)
    return np.concatenate([run(images[at : at + BATCH_SIZE, ..., np.newaxis]) for at in starts])
