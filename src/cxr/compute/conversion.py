"""Conversion of Keras models to OpenVINO."""

from typing import Any

import keras
import tensorflow as tf

from cxr.compute.runtimes import import_openvino


def convert(model: keras.Model) -> Any:
    """Convert a Keras model, with its current weights, to an `openvino.Model`.

    The input is named `image`, the output `output`, operations by their position. The default names
    depend on the models created before, so equal models would give different files.

    Args:
        model: with one input and one output, of built-in layers, for any batch size.

    Raises:
        ImportError: OpenVINO is not installed.
        openvino.frontend.OpConversionFailure: OpenVINO does not support an operation of the model.
    """
    openvino = import_openvino()
    image = tf.TensorSpec((None, *model.input_shape[1:]), model.input.dtype)
    function = tf.function(lambda images: model(images, training=False), input_signature=[image])
    traced = function.get_concrete_function()
    # Without it, unused operations, such as those of `Resizing`, become outputs too.
    converted = openvino.convert_model(traced, output=traced.outputs[0].name)
    for number, operation in enumerate(converted.get_ordered_ops()):
        operation.set_friendly_name(f"n{number}")
        for output in operation.outputs():
            output.get_tensor().set_names(set())
    converted.set_friendly_name("network")
    converted.input().get_tensor().set_names({"image"})
    converted.output().get_tensor().set_names({"output"})
    return converted
