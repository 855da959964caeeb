"""What runs the frozen layers over all images: OpenVINO, made for processors, or TensorFlow.

On two cores, Xception at 256 pixels gives 13 images a second with OpenVINO and 8 with TensorFlow;
its features differ by 2e-6 where the largest is 1.7.
"""

import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from cxr import cluster
from cxr.errors import interrupted

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

_ONE_AT_A_TIME = Lock()


def runner(model: keras.Model, engine: str) -> Run:
    """A function that runs a model over a batch: uint8 (N, S, S, 1) -> float32 (N, ...).

    Args:
        model: with a single input and output; its weights are those of now.
        engine: `openvino` or `tensorflow`, as `transfer.engine`. Where OpenVINO is not installed,
            or cannot take the model, TensorFlow stands in and a line on stderr says so.
    """
    if engine == "openvino":
        try:
            return _openvino(model)
        except (ImportError, RuntimeError) as error:
            if interrupted.is_set():  # what OpenVINO makes of Ctrl-C
                raise KeyboardInterrupt from error
            print(f"OpenVINO cannot be used, TensorFlow is: {error}", file=sys.stderr)
    return model.predict_on_batch


def run_over(
    model: keras.Model, engine: str, batches: Iterable[NDArray[np.uint8]], scheduler: str
) -> Iterator[NDArray[np.float32]]:
    """Outputs of a model (n, ...) for batches uint8 (n, S, S, 1), in order.

    Args:
        model: as `runner` takes it, of built-in layers.
        engine: as `runner` takes it.
        batches: images.
        scheduler: of the cluster that does it, as `preprocess.scheduler`; empty: this machine.

    Raises:
        CxrError: the cluster cannot be used.
    """
    if not scheduler:
        yield from map(runner(model, engine), batches)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        model.save(file)
        function = partial(_run_brought, name=file.name, engine=engine)
        yield from cluster.over(function, batches, scheduler, file)


def _run_brought(images: NDArray[np.uint8], name: str, engine: str) -> NDArray[np.float32]:
    """On a worker: the output of the model that `cluster.over` brought."""
    with _ONE_AT_A_TIME:  # a worker may have several threads; the engine uses all cores for one
        return _brought(name, engine)(images)


@lru_cache(maxsize=1)
def _brought(name: str, engine: str) -> Run:
    return runner(keras.saving.load_model(cluster.brought(name), safe_mode=True), engine)


def _openvino(model: keras.Model) -> Run:
    # Without its telemetry package OpenVINO reports no import and no conversion to its makers.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino  # only here: an optional engine

    shape = tf.TensorSpec((None, *model.input_shape[1:]), model.input.dtype)
    function = tf.function(lambda images: model(images, training=False), input_signature=[shape])
    compiled = openvino.compile_model(
        openvino.convert_model(function.get_concrete_function()),
        "CPU",
        # All cores on one batch, in full precision: equal results in every run.
        {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"},
    )

    def run(images: NDArray[np.uint8]) -> Any:
        return compiled(images)[0]

    return run
