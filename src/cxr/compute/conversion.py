"""Keras models to OpenVINO's representation, which `runtimes` runs."""

from typing import Any

import keras
import tensorflow as tf

from cxr.compute.runtimes import import_openvino


def convert(model: keras.Model) -> Any:
    """The `openvino.Model` of a Keras model, with the weights it has now.

    Input and output are named `image` and `output`, operations by their position: the converter's
    own names count models of this process, so that equal models would give different files.

    Args:
        model: with one input and one output, of built-in layers; the batch size is free.

    Raises:
        ImportError: OpenVINO is not installed.
        openvino.frontend.OpConversionFailure: OpenVINO lacks an operation of the model.
    """
    openvino = import_openvino()
    image = tf.TensorSpec((None, *model.input_shape[1:]), model.input.dtype)
    function = tf.function(lambda images: model(images, training=False), input_signature=[image])
    traced = function.get_concrete_function()
    # Without a name, also operations that nothing uses become outputs, as in `Resizing`.
    converted = openvino.convert_model(traced, output=traced.outputs[0].name)
    for number, operation in enumerate(converted.get_ordered_ops()):
        operation.set_friendly_name(f"n{number}")
        for output in operation.outputs():
            output.get_tensor().set_names(set())
    converted.set_friendly_name("network")
    converted.input().get_tensor().set_names({"image"})
    converted.output().get_tensor().set_names({"output"})
    return converted
