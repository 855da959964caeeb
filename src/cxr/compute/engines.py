"""What runs the frozen layers over all images: OpenVINO, made for processors, or TensorFlow.

On two cores, Xception at 256 pixels gives 13 images a second with OpenVINO and 8 with TensorFlow;
its features differ by 2e-6 where the largest is 1.7.
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
from cxr.compute.runtimes import Run, compiled
from cxr.errors import CxrError

_ONE_AT_A_TIME = Lock()


def runner(model: keras.Model, engine: str) -> Run:
    """A function that runs a model over a batch: uint8 (N, S, S, 1) -> float32 (N, ...).

    Args:
        model: with a single input and output; its weights are those of now.
        engine: `openvino` or `tensorflow`, as `transfer.inference_backend`.

    Raises:
        CxrError: OpenVINO is not installed or cannot convert the model.
    """
    if engine == "tensorflow":
        return model.predict_on_batch
    try:
        return compiled(convert(model))
    except Exception as error:  # ImportError, or one of OpenVINO's, which have no common base
        raise CxrError(
            f"OpenVINO cannot run {model.name}: {error}\n"
            "  Set `transfer.inference_backend: tensorflow` in params.yaml to run it by TensorFlow."
        ) from error


def run_over(
    model: keras.Model, engine: str, batches: Iterable[NDArray[np.uint8]], scheduler: str
) -> Iterator[NDArray[np.float32]]:
    """Outputs of a model (n, ...) for batches uint8 (n, S, S, 1), in order.

    Args:
        model: as `runner` takes it, of built-in layers.
        engine: as `runner` takes it.
        batches: images.
        scheduler: of the cluster that does it, as `preprocess.dask_scheduler`; empty: this machine.

    Raises:
        CxrError: the cluster cannot be used.
    """
    if not scheduler:
        yield from map(runner(model, engine), batches)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        saving.save_model(model, file)  # equal files are sent once
        function = partial(_run_brought, name=file.name, engine=engine)
        yield from cluster.over(function, batches, scheduler, file)


def _run_brought(images: NDArray[np.uint8], name: str, engine: str) -> NDArray[np.float32]:
    """On a worker: the output of the model that `cluster.over` brought."""
    with _ONE_AT_A_TIME:  # a worker may have several threads; the engine uses all cores for one
        return _brought(name, engine)(images)


@lru_cache(maxsize=1)
def _brought(name: str, engine: str) -> Run:
    return runner(keras.saving.load_model(cluster.brought(name), safe_mode=True), engine)
