"""OpenVINO networks of Keras models. Equal models give equal bytes."""

import textwrap
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from cxr.common.arrays import Split, evenly_spaced
from cxr.compute.conversion import convert
from cxr.compute.runtimes import import_openvino, open_network, run_all
from cxr.errors import CxrError

MAX_DIFFERENCE = 1e-4  # from Keras: of a probability, or relative to the largest feature
COMPARED = 64  # validation images on which networks are compared with Keras


def load_model(path: Path) -> keras.Model:
    """Load a saved model for prediction. It may contain built-in layers of Keras only: code in the
    file is refused, not run.

    Raises:
        CxrError: the file is missing or damaged, or contains anything else.
    """
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # what is in the file decides where in Keras it fails
        reason = textwrap.shorten(str(error), 200)
        raise CxrError(
            f"{path} is damaged or contains more than Keras layers; run `dvc repro` ({reason})"
        ) from error


def compared_images(split: Split) -> NDArray[np.uint8]:
    """The images uint8 (N, S, S) of a split on which networks are compared with Keras."""
    return np.asarray(split.images[evenly_spaced(len(split.images), COMPARED)])


def write_compared(
    model: keras.Model, file: Path, images: NDArray[np.uint8], expected: NDArray[Any]
) -> dict[str, float]:
    """Write the network of a model and compare its outputs with the expected ones.

    Args:
        model: uint8 (N, S, S, 1) -> float32 (N, ...) with free N, like the network.
        file: `.xml` to write, with a `.bin` in the same folder.
        images: uint8 (N, S, S).
        expected: (N, ...).

    Returns:
        `difference`, as `max_difference` gives it; `bytes` of the files.

    Raises:
        CxrError: an expected output is NaN, the difference is above `MAX_DIFFERENCE`, or the disk
            is full.
    """
    if np.isnan(expected).any():
        raise CxrError(f"{file.stem} predicts NaN; train it again with a smaller learning rate")
    try:
        import_openvino().save_model(convert(model), file, compress_to_fp16=False)
    except RuntimeError as error:
        raise CxrError(f"{file} cannot be written ({error})") from error
    difference = max_difference(expected, run_all(open_network(file), images))
    if not difference <= MAX_DIFFERENCE:  # nor NaN
        raise CxrError(
            f"{file.name} differs from Keras by {difference:.1g}, more than "
            f"{MAX_DIFFERENCE:g}: the versions of OpenVINO, Keras and TensorFlow do not "
            "match; install those of requirements/runtime.lock"
        )
    size = sum(part.stat().st_size for part in (file, file.with_suffix(".bin")))
    return {"difference": float(f"{difference:.1e}"), "bytes": size}


def max_difference(expected: NDArray[Any], found: NDArray[Any]) -> float:
    """Largest difference, relative to the largest expected value where that is above 1."""
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))
