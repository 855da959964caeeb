"""Inference backends of the frozen layers: OpenVINO (faster on CPUs) or TensorFlow.

On two cores, Xception at 256 pixels runs at 13 images/s with OpenVINO and 8 with TensorFlow; the
features differ by at most 2e-6, their maximum is 1.7.
"""

import tempfile
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock

import keras
import numpy as np
from numpy.typing import NDArray

from cxr.common import saving
from cxr.compute import cluster
from cxr.compute.conversion import convert
from cxr.compute.runtimes import Run, compile_network
from cxr.errors import CxrError

_INFERENCE_LOCK = Lock()


def runner(model: keras.Model, inference_backend: str) -> Run:
    """Prepare a model for inference on batches: uint8 (N, S, S, 1) -> float32 (N, ...).

    Args:
        model: with one input and one output; its current weights are used.
        inference_backend: `openvino` or `tensorflow`, as `transfer.inference_backend`.

    Raises:
        CxrError: OpenVINO is not installed or cannot convert the model.
    """
    if inference_backend == "tensorflow":
        return model.predict_on_batch
    try:
        return compile_network(convert(model))
    except Exception as error:  # ImportError, or an OpenVINO error; these have no common base
        raise CxrError(
            f"OpenVINO cannot run {model.name}: {error}\n"
            "  Set `transfer.inference_backend: tensorflow` in params.yaml."
        ) from error


def run_over(
    model: keras.Model,
    inference_backend: str,
    batches: Iterable[NDArray[np.uint8]],
    dask_scheduler: str,
) -> Iterator[NDArray[np.float32]]:
    """Yield the outputs float32 (n, ...) of a model for batches uint8 (n, S, S, 1), in order.

    Args:
        model: as for `runner`, of built-in layers.
        inference_backend: as for `runner`.
        batches: images.
        dask_scheduler: as `preprocess.dask_scheduler`; empty: run on this machine.

    Raises:
        CxrError: the backend or the cluster cannot be used.
    """
    if not dask_scheduler:
        yield from map(runner(model, inference_backend), batches)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        saving.save_model(model, file)  # deterministic: the same file is uploaded once
        function = partial(_run_uploaded, name=file.name, inference_backend=inference_backend)
        yield from cluster.imap(function, batches, dask_scheduler, file)


def _run_uploaded(
    images: NDArray[np.uint8], name: str, inference_backend: str
) -> NDArray[np.float32]:
    """Run the uploaded model on a worker."""
    with _INFERENCE_LOCK:  # a worker may have several threads, but one batch uses all cores
        return _uploaded_runner(name, inference_backend)(images)


@lru_cache(maxsize=1)
def _uploaded_runner(name: str, inference_backend: str) -> Run:
    model = keras.saving.load_model(cluster.uploaded_path(name), safe_mode=True)
    return runner(model, inference_backend)
