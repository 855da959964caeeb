"""Optional formats of the exported networks: ONNX, and OpenVINO in 8-bit integers.

Each needs packages of the extra `onnx`.
"""

import copy
import importlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxr import paths
from cxr.common.arrays import Split, evenly_spaced, open_split
from cxr.common.files import replacing
from cxr.compute.runtimes import BATCH_SIZE, import_openvino, open_network, run_all
from cxr.errors import CxrError, extra
from cxr.evaluation import metrics
from cxr.inference.predict import Predictor

CALIBRATION = 200  # training images that calibrate the ranges of 8-bit activations


def write_onnx(predictor: Predictor, into: Path) -> list[Path]:
    """Write `<network>.onnx` of a variant, or of each member of the ensemble, by Keras's export.

    Args:
        predictor: of the variant; the Keras models are in the parent of its folder.
        into: folder to write into. A file that differs from Keras is not kept.

    Returns:
        the files written.

    Raises:
        CxrError: a package, a model or the validation images are missing, the conversion failed,
            or an output for a validation image is more than 1e-4 from Keras's.
    """
    # Otherwise ONNX Runtime sends telemetry and keeps files for it in the home directory.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    with extra("onnx", "--onnx"):
        for package in ("onnx", "onnxruntime", "tf2onnx"):
            importlib.import_module(package)
    from cxr.prediction.networks import compared_images  # only here: TensorFlow takes seconds

    images = compared_images(open_split(paths.ARRAYS / "val"))
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{name}.onnx" for name in predictor.members]
        for file in files:
            convert_to_onnx(predictor.trained / f"{file.stem}.keras", file, images)
        return _copy(files, into)


def convert_to_onnx(source: Path, target: Path, images: NDArray[np.uint8]) -> None:
    """Convert a saved Keras model, and compare the outputs for `images` (N, S, S).

    Raises:
        CxrError: the conversion failed, or an output is more than 1e-4 from Keras's.
    """
    from cxr.prediction.networks import MAX_DIFFERENCE, load_model, max_difference

    model = load_model(source)
    expected = run_all(model.predict_on_batch, images)
    try:
        model.export(target, format="onnx", verbose=False)
        found = _run_onnx(target, images)
    except Exception as error:  # tf2onnx and ONNX Runtime have many kinds
        raise CxrError(f"{source} cannot be converted to ONNX: {error}") from error
    difference = max_difference(expected, found)
    if not difference <= MAX_DIFFERENCE:  # nor NaN
        raise CxrError(f"{target.name} differs from Keras by {difference:.1g}; it was not kept")


def _run_onnx(file: Path, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    return run_all(lambda batch: session.run(None, {image.name: batch})[0], images)


@dataclass(frozen=True)
class Int8:
    """Metrics and size of a variant before and after quantization.

    Attributes:
        before: recall and precision on validation at the operating point, in full precision.
        after: the same with 8-bit integers.
        megabytes: of the networks before and after.
        files: those written; empty if recall dropped too much.
    """

    before: dict[str, float]
    after: dict[str, float]
    megabytes: tuple[float, float]
    files: list[Path]


def write_int8(predictor: Predictor, models: Path, into: Path, max_recall_drop: float) -> Int8:
    """Write `<network>_int8.xml` and `.bin` of a variant, or of each member of the ensemble, by
    post-training quantization, unless validation recall at the operating point drops too much.

    Args:
        predictor: of the variant.
        models: folder of its networks.
        into: folder to write into.
        max_recall_drop: largest drop of recall with which files are kept, 0 to 1.

    Raises:
        CxrError: NNCF, or the training or validation images, are missing.
    """
    with extra("onnx", "--int8"):
        import_openvino()  # before NNCF, which would otherwise send telemetry
        importlib.import_module("nncf")
    train, val = (open_split(paths.ARRAYS / name) for name in ("train", "val"))
    images = np.asarray(train.images[evenly_spaced(len(train.images), CALIBRATION)])
    before = _rates(predictor, val)
    sources = [models / f"{name}.xml" for name in predictor.members]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{name}_int8.xml" for name in predictor.members]
        for source, file in zip(sources, files, strict=True):
            quantize(source, file, images)
        smaller = copy.copy(predictor)
        smaller.networks = dict(zip(predictor.members, map(open_network, files), strict=True))
        after = _rates(smaller, val)
        kept = before["recall"] - after["recall"] <= max_recall_drop
        megabytes = (_megabytes(sources), _megabytes(files))
        written = _copy(_with_weights(files), into) if kept else []
    return Int8(before, after, megabytes, written)


def quantize(source: Path, target: Path, images: NDArray[np.uint8]) -> None:
    """Write an OpenVINO network with weights and activations in 8-bit integers.

    Args:
        source: `.xml` in full precision.
        target: `.xml` to write.
        images: uint8 (N, S, S), from which the ranges of activations are taken.
    """
    openvino = import_openvino()  # before NNCF, which would otherwise send telemetry
    import nncf

    nncf.set_log_level(logging.ERROR)
    data = nncf.Dataset([image[np.newaxis, ..., np.newaxis] for image in images])
    smaller = nncf.quantize(openvino.Core().read_model(source), data, subset_size=len(images))
    openvino.save_model(smaller, target, compress_to_fp16=False)


def _rates(predictor: Predictor, val: Split) -> dict[str, float]:
    """Recall and precision at the operating point."""
    batches = np.array_split(val.images[..., np.newaxis], -(-len(val.images) // BATCH_SIZE))
    probabilities = np.concatenate([predictor.probabilities(batch) for batch in batches])
    found = metrics.at_threshold(val.labels, probabilities, predictor.threshold)
    return {name: found[name] for name in ("recall", "precision")}


def _with_weights(files: Iterable[Path]) -> list[Path]:
    return [part for file in files for part in (file, file.with_suffix(".bin"))]


def _megabytes(files: Iterable[Path]) -> float:
    return sum(file.stat().st_size for file in _with_weights(files)) / 1e6


def _copy(files: Iterable[Path], into: Path) -> list[Path]:
    targets = []
    for file in files:
        targets.append(into / file.name)
        with replacing(targets[-1]) as part:
            shutil.copyfile(file, part)
    return targets
