"""OpenVINO inference without TensorFlow and Keras, whose import takes seconds."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr.errors import CxrError

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

BATCH_SIZE = 8  # images; does not affect the result; more need more memory and are not faster


def import_openvino() -> Any:
    """Import the package `openvino` with its telemetry disabled."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino  # here: it takes a second, and not every command needs it

    return openvino


def compile_network(network: Any) -> Run:
    """Compile an `openvino.Model` for this CPU: images uint8 (N, S, S, 1) -> float32 (N, ...)."""
    compiled = import_openvino().compile_model(
        network,
        "CPU",
        # All cores on one batch, in full precision: deterministic.
        {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"},
    )

    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.array(compiled(images)[0])  # a copy: the next inference overwrites its memory

    return run


def open_network(path: Path) -> Run:
    """Open and compile an exported network.

    Args:
        path: `.xml`, with its `.bin` in the same folder.

    Raises:
        CxrError: a file is missing or damaged.
    """
    try:
        return compile_network(import_openvino().Core().read_model(path))
    except Exception as error:  # OpenVINO has no exception type for damaged files
        raise CxrError(f"{path} cannot be read ({error}); run `dvc repro export`") from error


def run_all(run: Run, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Run a network on images uint8 (N, S, S), N at least 1, in batches -> float32 (N, ...)."""
    starts = range(0, len(images), BATCH_SIZE)
    return np.concatenate([run(images[i : i + BATCH_SIZE, ..., np.newaxis]) for i in starts])
