"""Keras models to files that run without Keras: ONNX, OpenVINO's IR, ONNX in 8-bit integers.

Equal models give equal bytes: nodes are put into an order and given names that follow from the
network alone, where the converters count and name by dates, addresses and folders.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import tensorflow as tf
from numpy.typing import NDArray

OPSET = 18  # of ONNX; what it lacks, no Keras layer here needs


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
    converted, _ = tf2onnx.convert.from_function(function, input_signature=[image], opset=OPSET)
    return converted


def canonical(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network, ordered and named by what it computes. Its input is called `image`, its
    output `output`.
    """
    graph = model.graph
    nodes = list(_in_order(graph))
    names = {"": "", graph.input[0].name: "image", graph.output[0].name: "output"}
    for node in nodes:
        for name in (*node.input, *node.output):
            names.setdefault(name, f"t{len(names)}")
    constants = {constant.name: constant for constant in graph.initializer}
    kept = [constants[name] for name in names if name in constants]
    for number, node in enumerate(nodes):
        node.name, node.doc_string = f"n{number}", ""
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
    waiting, done = [makers[graph.output[0].name]], set()
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
        batches = iter(np.array_split(images[..., np.newaxis], -(-len(images) // 16)))

        def get_next(self) -> dict[str, Any] | None:
            return next(({"image": batch} for batch in self.batches), None)

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
