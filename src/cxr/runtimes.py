"""Runs exported networks, without TensorFlow: OpenVINO for its own files, ONNX Runtime for ONNX.

Beside `engines`, which runs a Keras model that is in memory; here nothing imports Keras, whose
start alone takes seconds.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxr.errors import CxrError, interrupted

# Without it ONNX Runtime reports its use to its makers, and keeps files in the home for that.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

BATCH_SIZE = 32  # images; of no influence on the result


def open_network(path: Path) -> Run:
    """A function that runs an exported network: images uint8 (N, S, S, 1) -> float32 (N, ...).

    Args:
        path: `.xml` of OpenVINO, with its `.bin` beside it, or `.onnx`.

    Raises:
        CxrError: the file is missing or damaged.
    """
    try:
        return _openvino(path) if path.suffix == ".xml" else _onnx(path)
    except Exception as error:  # each library has its own kinds, for each of its own troubles
        if interrupted.is_set():  # what OpenVINO makes of Ctrl-C
            raise KeyboardInterrupt from error
        raise CxrError(
            f"{path} cannot be used as a network; run `dvc repro export` ({error})"
        ) from error


def run_all(run: Run, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Output of a network (N, ...) for images (N, S, S), in batches."""
    starts = range(0, len(images), BATCH_SIZE)
    return np.concatenate([run(images[at : at + BATCH_SIZE, ..., np.newaxis]) for at in starts])


def _openvino(path: Path) -> Run:
    # Without its telemetry package OpenVINO reports no import and no conversion to its makers.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino  # only here: it takes a second

    compiled = openvino.compile_model(
        openvino.Core().read_model(path),
        "CPU",
        # All cores on one batch, in full precision: equal results in every run.
        {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"},
    )

    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.array(compiled(images)[0])  # a copy: the next call writes over its memory

    return run


def _onnx(path: Path) -> Run:
    import onnxruntime  # only here: prediction does not need it

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = (tensor.name for tensor in session.get_inputs())

    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(session.run(None, {name: images})[0])

    return run
