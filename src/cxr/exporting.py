"""Keras models to files that run without Keras: ONNX, OpenVINO's IR, ONNX in 8-bit integers.

Equal models give equal bytes: nodes are put into an order and given names that follow from the
network alone, where the converters count and name by dates, addresses and folders.
"""

import contextlib
import gc
import os
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import numpy as np
import onnx
import pandas as pd
import tensorflow as tf
from numpy.typing import NDArray

from cxr import drift, ensemble, familiarity, paths, scores
from cxr.arrays import Split, evenly
from cxr.comparison import best_variant
from cxr.errors import CxrError
from cxr.evaluation import load_model, predict
from cxr.files import remove, write_csv
from cxr.params import EvaluateParams, ImageParams
from cxr.runtimes import open_network, run_all
from cxr.variants import SELECTION, TRAINED, VARIANTS

Metrics = dict[str, Any]

LARGEST_DIFFERENCE = 1e-4  # from Keras, of a probability, or as a share of the largest feature
CALIBRATION = 200  # training images that the ranges of 8-bit activations are taken from
CALIBRATION_BATCH = 4  # images of which all activations are held at a time
FEATURES_COMPARED = 64  # images; the networks of the variants are compared on all of validation
# What can go wrong with a radiograph on its way here; images uint8 (N, S, S) -> likewise.
ALTERATIONS: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    "upside down": lambda images: images[:, ::-1],
    "on its side": lambda images: np.rot90(images, axes=(1, 2)),
    "negative": lambda images: 255 - images,
    "rows in disorder": lambda images: np.random.default_rng(0).permutation(images, axis=1),
}
OPSET = 18  # of ONNX; what it lacks, no Keras layer here needs


def export_variants(folder: Path, val: Split) -> Metrics:
    """Write the network of each trained variant.

    Args:
        folder: to write into.
        val: images that the files are compared with Keras on.

    Returns:
        for each variant what `export_compared` gives.

    Raises:
        CxrError: a model cannot be read, or a file gives something else than Keras.
    """
    metrics = {}
    for name in TRAINED:
        model = load_model(paths.model(name))
        expected = predict(model, val.images, val.labels)[:, np.newaxis]
        metrics[name] = export_compared(model, folder / name, val.images, expected)
    return metrics


def export_features(folder: Path, val: Split, features: NDArray[np.float32]) -> Metrics:
    """Write the frozen backbone, as the variant transfer has it before its head: images uint8
    (N, S, S, 1) -> features float32 (N, D).

    Args:
        folder: to write into.
        val: images that the files are compared on.
        features: of these images (N, D), as stage extract_features computed them.

    Raises:
        CxrError: the files give other features.
    """
    whole = load_model(paths.model("transfer"))
    backbone = keras.Model(whole.input, whole.get_layer("pooling").output)
    rows = evenly(len(features), FEATURES_COMPARED)
    found = export_compared(backbone, folder / "features", val.images[rows], features[rows])
    remove(folder / "features.onnx")  # prediction needs the other alone
    return {"openvino": found["openvino"]}


def export_compared(
    model: keras.Model, stem: Path, images: NDArray[np.uint8], expected: NDArray[Any]
) -> Metrics:
    """Write a network's files and compare what they give with what is expected.

    Args:
        model: as `export_network` takes it.
        stem: path without suffix.
        images: uint8 (N, S, S).
        expected: (N, ...).

    Returns:
        for `onnx` and `openvino`: `difference`, the largest, as a share of the largest expected
        value where that is above 1; `bytes` of the files.

    Raises:
        CxrError: the difference is above `LARGEST_DIFFERENCE`.
    """
    export_network(model, stem)
    metrics = {}
    for kind, suffixes in {"onnx": [".onnx"], "openvino": [".xml", ".bin"]}.items():
        files = [stem.with_suffix(suffix) for suffix in suffixes]
        found = run_all(open_network(files[0]), images)
        difference = np.abs(found - expected).max() / max(1.0, np.abs(expected).max())
        if not difference <= LARGEST_DIFFERENCE:  # nor NaN
            raise CxrError(
                f"{files[0].name} differs from Keras by {difference:.1g}, more than "
                f"{LARGEST_DIFFERENCE:g}: the versions of {kind}, Keras and tf2onnx do not fit "
                "together; install those of requirements.lock"
            )
        metrics[kind] = {
            "difference": float(f"{difference:.1e}"),
            "bytes": sum(file.stat().st_size for file in files),
        }
    return metrics


def export_int8(
    folder: Path,
    train: Split,
    val: Split,
    evaluation: Metrics,
    predictions: pd.DataFrame,
    recall_loss: float,
) -> Metrics:
    """Write the networks of the recommended variant (of the ensemble, each member's) in 8 bits as
    `<network>_int8.onnx`, and keep them where validation loses little recall by it.

    Args:
        folder: with the networks in full precision.
        train: images, of which some calibrate.
        val: images to judge by.
        evaluation: content of metrics/evaluation.json.
        predictions: of `val`, by Keras: N rows as `evaluation.predict_all` gives them.
        recall_loss: largest fall of recall at the operating point, 0 to 1.

    Returns:
        by the variant's name: recall and precision at its operating point before and after,
        the 8-bit files' bytes, and `kept`.
    """
    variant = best_variant(evaluation)
    images = train.images[evenly(len(train.images), CALIBRATION)]
    files, smaller = [], predictions.copy()
    for name in evaluation[variant].get("scales", [variant]):
        files.append(folder / f"{name}_int8.onnx")
        quantise(folder / f"{name}.onnx", files[-1], images)
        network = open_network(files[-1])
        for column, view in {name: val.images, f"{name}_mirrored": val.images[:, :, ::-1]}.items():
            if column in predictions:
                smaller[column] = run_all(network, view)[:, 0].astype(np.float64)
    before, after = (_rates(variant, evaluation, p, val) for p in (predictions, smaller))
    size = sum(file.stat().st_size for file in files)
    kept = before["recall"] - after["recall"] <= recall_loss
    if not kept:
        for file in files:
            remove(file)
    return {variant: {"before": before, "after": after, "bytes": size, "kept": kept}}


def _rates(
    variant: str, evaluation: Metrics, predictions: pd.DataFrame, val: Split
) -> dict[str, float]:
    """Recall and precision of a variant at its operating point."""
    scales = evaluation[variant].get("scales")
    if scales is None:
        probability = predictions[variant].to_numpy()
    else:
        probability = ensemble.mean_of_calibrated(predictions, scales).to_numpy()
    threshold = evaluation[variant]["operating_point"]["threshold"]
    found = scores.at_threshold(val.labels, probability, threshold)
    return {name: found[name] for name in ("recall", "precision")}


def export_familiarity(
    folder: Path, features: Mapping[str, NDArray[np.float32]], val: Split
) -> Metrics:
    """Write what images of training look like, for the warning about images that do not.

    Args:
        folder: to write into, with the files of `export_features`.
        features: (N, D) of the frozen backbone for `train`, `val` and `test`.
        val: images, which are altered to see whether that is noticed.

    Returns:
        `limit`, the distance above which an image is warned of, chosen on `val`; `false_alarms`:
        share of the images of `val` and `test` above it; `alarms`: that of images of `val` after
        each of `ALTERATIONS`.
    """
    reference = familiarity.fit(features["train"])
    familiarity.save(reference, folder / "familiar.npz")
    distances = {name: familiarity.distances(reference, features[name]) for name in ("val", "test")}
    limit = familiarity.limit(distances["val"])
    images = val.images[evenly(len(val.images), FEATURES_COMPARED)]
    run = open_network(folder / "features.xml")
    altered = {
        name: familiarity.distances(reference, run_all(run, alter(images)))
        for name, alter in ALTERATIONS.items()
    }
    return {
        "limit": limit,
        "false_alarms": {name: float((of > limit).mean()) for name, of in distances.items()},
        "alarms": {name: float((of > limit).mean()) for name, of in altered.items()},
    }


def export_reference(
    folder: Path,
    splits: Mapping[str, Split],
    features: Mapping[str, NDArray[np.float32]],
    predictions: pd.DataFrame,
    settings: Metrics,
) -> Metrics:
    """Write what `cxr drift` compares images with, and see what its rule marks.

    Args:
        folder: to write into, with the file of `export_familiarity`.
        splits: `val`, which is the reference, `stress` and `test`.
        features: (N, D) of the frozen backbone for these.
        predictions: as `evaluation.predict_all` gives them, rows in the order of the splits'.
        settings: what `settings` gives.

    Returns:
        by the recommended variant `false_alarms`: the share of random halves of validation that
        are marked by the other half; `marked`: of each condition of `stress` and of `test` the
        tests that mark it, with their differences. Nothing is chosen by it.
    """
    known = familiarity.load(folder / "familiar.npz")
    variant = settings["recommended"]
    threshold = settings["variants"][variant]["threshold"]
    tables = {}
    for name, split in splits.items():
        distances = familiarity.distances(known, features[name])
        rows = predictions.loc[predictions["split"] == name, list(VARIANTS)]
        tables[name] = drift.reference(split.index, split.images, distances, rows)
    write_csv(folder / drift.FILE, tables["val"])
    val, stress, test = (
        table.assign(probability=table[variant], warned=_warned(table, settings))
        for table in (tables[name] for name in ("val", "stress", "test"))
    )
    others = {**dict(iter(stress.groupby(splits["stress"].index["condition"]))), "test": test}
    marked = {}
    for name, other in others.items():
        found = drift.compare(val, other, threshold)
        marked[name] = {test: found["tests"][test]["difference"] for test in found["marked"]}
    return {"false_alarms": drift.false_alarms(val, threshold), "marked": marked}


def _warned(table: pd.DataFrame, settings: Metrics) -> pd.Series:
    """Which rows of a reference would have a warning: true or false for each.

    That of an image's colours is left out, as the arrays are grey.
    """
    unfamiliar = table["distance"] > settings["familiarity"]["limit"]
    small = table["shorter_side"] < settings["image"]["size"]
    return (
        unfamiliar | small | ~table["aspect_ratio"].between(*settings["trained_on"]["aspect_ratio"])
    )


def settings(
    image: ImageParams,
    evaluate: EvaluateParams,
    evaluation: Metrics,
    predictions: pd.DataFrame,
    train: pd.DataFrame,
    known: Metrics,
) -> Metrics:
    """What prediction needs beside the networks, for settings.json.

    Args:
        image: how images are prepared.
        evaluate: how the pipeline evaluates.
        evaluation: content of metrics/evaluation.json.
        predictions: as `evaluation.predict_all` gives them, with a column for each variant.
        train: index of the training images.
        known: what `export_familiarity` gives.

    Returns:
        `image`; `evaluate`; `recommended`; `variants`: of each the `threshold` of its operating
        point and the `scale` that calibrates its probability, of the ensemble also its `members`
        with their scales and whether they see each image `mirrored`, too; `familiarity`;
        `trained_on`: least and most of the training files' `shorter_side` (pixels) and
        `aspect_ratio` (width / height).
    """
    variants: Metrics = {
        name: {
            "threshold": evaluation[name]["operating_point"]["threshold"],
            "scale": ensemble.fit_scale(*scores.columns(predictions, SELECTION, name)),
        }
        for name in VARIANTS
    }
    members = evaluation["ensemble"]["scales"]
    mirrored = all(f"{name}_mirrored" in predictions for name in members)
    variants["ensemble"] |= {"members": members, "mirrored": mirrored}
    sides = train[["width", "height"]].astype(int)
    seen = {"shorter_side": sides.min(axis=1), "aspect_ratio": sides["width"] / sides["height"]}
    return {
        "image": image.model_dump(),
        "evaluate": evaluate.model_dump(),
        "recommended": best_variant(evaluation),
        "variants": variants,
        "familiarity": known,
        "trained_on": {name: [of.min().item(), of.max().item()] for name, of in seen.items()},
    }


def export_network(model: keras.Model, stem: Path) -> None:
    """Write `<stem>.onnx`, and `<stem>.xml` with `<stem>.bin`.

    Args:
        model: uint8 (N, S, S, 1) -> float32 (N, ...), N free; so are the files.
        stem: path without suffix.
    """
    file = stem.with_suffix(".onnx")
    onnx.save(canonical(_to_onnx(model)), file)
    _write_ir(file)


def _to_onnx(model: keras.Model) -> onnx.ModelProto:
    import tf2onnx  # only here: its import takes seconds

    image = tf.TensorSpec((None, *model.input_shape[1:]), model.input.dtype, name="image")
    function = tf.function(lambda images: model(images, training=False), input_signature=[image])
    with (
        _inlined(),
        # It folds nodes in the order of sets of them: without this, that of their addresses.
        mock.patch.object(tf2onnx.graph.Node, "__hash__", _of_name),
        # Else it copies the graph, with all weights, ahead of each of its steps, to go back to.
        mock.patch.dict(os.environ, TF2ONNX_CATCH_ERRORS="FALSE"),
    ):
        converted, _ = tf2onnx.convert.from_function(
            function,
            input_signature=[image],
            opset=OPSET,
            custom_op_handlers={"Erfc": (_without_erfc, [])},
        )
    gc.collect()  # its graphs refer to themselves: gigabytes, in few objects
    _add_constants(converted.graph, function.get_concrete_function())
    return converted


def _add_constants(graph: onnx.GraphProto, function: Any) -> None:
    """Give their values to constants that the function has from outside, as those of a layer
    Normalization: tf2onnx makes further inputs of them.
    """
    names = [tensor.name for tensor in function.inputs[1:]]
    outside = dict(zip(names, function.captured_inputs, strict=True))
    for further in graph.input[1:]:
        value = onnx.numpy_helper.from_array(outside[further.name].numpy(), further.name)
        graph.initializer.append(value)
    del graph.input[1:]


@contextlib.contextmanager
def _inlined() -> Iterator[None]:
    """Trace functions of TensorFlow within others as a part of these, not as a call, which ONNX
    has none of. Keras makes one of each convolution in groups.
    """
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


def _without_erfc(graph: Any, node: Any, name: str, _: Any) -> None:
    """Write erfc(x) as 1 - erf(x): TensorFlow has it in GELU, ONNX lacks it."""
    shapes, kinds = node.output_shapes, node.output_dtypes
    graph.remove_node(name)
    one = graph.make_const(f"{name}_one", np.float32(1))
    erf = graph.make_node("Erf", node.input, shapes=shapes, dtypes=kinds)
    inputs = [one.output[0], erf.output[0]]
    graph.make_node("Sub", inputs, outputs=node.output, shapes=shapes, dtypes=kinds)


def _of_name(node: Any) -> int:
    return zlib.crc32(node.name.encode())  # the same in every process, as hashes of text are not


def canonical(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network, ordered and named by what it computes. Its input is called `image`, its
    output `output`.
    """
    graph = model.graph
    nodes = list(_in_order(graph))
    names = {"": "", graph.input[0].name: "image", graph.output[0].name: "output"}
    for node in nodes:
        for name in (*node.input, *node.output):
            # Of one length: the quantiser makes new names by digits behind an old one.
            names.setdefault(name, f"t{len(names):05}")
    constants = {constant.name: constant for constant in graph.initializer}
    kept = [constants[name] for name in names if name in constants]
    for number, node in enumerate(nodes):
        node.name, node.doc_string = f"n{number:05}", ""
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names[name] for name in node.output]
    for value in (*kept, graph.input[0], graph.output[0]):
        value.name, value.doc_string = names[value.name], ""
    for value in (graph.input[0], graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    renamed = onnx.helper.make_graph(nodes, "network", graph.input, graph.output, kept)
    domains = {node.domain for node in nodes}
    used = [entry for entry in model.opset_import if entry.domain in domains | {""}]
    return onnx.helper.make_model(renamed, opset_imports=used, ir_version=model.ir_version)


def _in_order(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes that the output needs, each after those that it takes from, its first one first."""
    makers = {name: node for node in graph.node for name in node.output}
    waiting = [makers[graph.output[0].name]]
    done: set[str] = set()
    while waiting:
        node = waiting[-1]
        before = (makers[name] for name in node.input if name in makers and name not in done)
        if (needed := next(before, None)) is not None:
            waiting.append(needed)
            continue
        waiting.pop()
        if not done & set(node.output):
            yield node
        done |= set(node.output)


def _write_ir(file: Path) -> None:
    """OpenVINO's files beside an ONNX file, in full precision."""
    # Without its telemetry package OpenVINO reports no import and no conversion to its makers.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    model = openvino.convert_model(file)
    for number, operation in enumerate(model.get_ordered_ops()):
        operation.set_friendly_name(f"n{number}")
    model.set_friendly_name("network")
    openvino.save_model(model, file.with_suffix(".xml"), compress_to_fp16=False)


def quantise(file: Path, target: Path, images: NDArray[np.uint8]) -> None:
    """Write an ONNX network with weights and activations of 8 bits.

    Args:
        file: the network in full precision.
        target: file to write.
        images: uint8 (N, S, S), from which the ranges of activations are taken.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization import shape_inference

    class Reader(quantization.CalibrationDataReader):
        starts = iter(range(0, len(images), CALIBRATION_BATCH))

        def get_next(self) -> dict[str, Any] | None:
            batches = (images[at : at + CALIBRATION_BATCH] for at in self.starts)
            return next(({"image": batch[..., np.newaxis]} for batch in batches), None)

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        shape_inference.quant_pre_process(file, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            target,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,  # 7 bits: else sums overflow on processors without VNNI
        )
    onnx.save(canonical(onnx.load(target)), target)
