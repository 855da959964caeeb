"""Grad-CAM heatmaps for PNEUMONIA (Selvaraju 2017, 10.1109/ICCV.2017.74), with element-wise
gradients as in HiResCAM (Draelos 2020, 10.48550/arXiv.2011.08891).

The last feature maps of the network are multiplied element-wise by the gradient of the logit; the
positive part of the sum over channels is the heatmap. Before global average pooling the gradient is
the same at every position, so this is Grad-CAM. Before flattening, the mean gradient of Grad-CAM
would lose the position. The gradient is that of the logit, because that of a probability near 1
vanishes.

The same rule finds feature maps and logit in every variant: the logit is the input of the sigmoid
or softmax of the last dense layer, and the feature maps are the last ones on the top level of the
saved model, before a pooling, a flattening, or the trained upper part of the fine-tuned network. In
the upper part, the last maps of at least 7 x 7 are taken: its very last ones, of 4 x 4, have the
whole image as receptive field, and peak at the same position in every image.

A heatmap is scaled to a maximum of 1, so it shows where the evidence is, not how strong it is. It
is as coarse as the feature maps, and shows what the network uses, which need not be the disease.
"""

from collections.abc import Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import keras
import matplotlib
import numpy as np
import tensorflow as tf
from keras import layers
from numpy.typing import NDArray
from PIL import Image as Pillow

from cxr.errors import CxrError
from cxr.models.split_backbone import articulation_tensors
from cxr.prediction.networks import load_model

Heat = NDArray[np.float32]

PROBABILITIES = (keras.activations.sigmoid, keras.activations.softmax)
MIN_MAP_SIZE = 7  # of the feature maps of the trained upper part, if it has any

# Layers with stride 2 weight every second position more, or use it alone, which draws a grid; this
# filter removes it.
SMOOTHING = np.array([0.25, 0.5, 0.25])

# Of Matplotlib's perceptually uniform colormaps, the one whose strong colors (0.7 to 1) differ most
# from gray, for each type of color vision (Machado 2009): by at least 11 in CIELAB.
COLORMAP = "plasma"
MAX_OPACITY = 0.6  # where the heatmap is 1, so that the radiograph stays visible


class Explainer:
    """Heatmaps of one variant.

    Args:
        models: folder of the Keras models.
        members: names of the variant's networks (several for the ensemble).

    Raises:
        CxrError: a model is missing or damaged.
    """

    def __init__(self, models: Path, members: Iterable[str]) -> None:
        files = [models / f"{name}.keras" for name in members]
        for file in files:
            if not file.exists():
                raise CxrError(
                    f"{file} is missing, which heatmaps need; run "
                    f"`dvc pull {file}` or `dvc repro train_{file.stem}` in the project"
                )
        self.models = [load_model(file) for file in files]

    def overlay(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Network input, uint8 (S, S), under its heatmap: RGB, uint8 (S, S, 3)."""
        return overlay(image, mean_map([heatmap(model, image) for model in self.models]))


def heatmap(model: keras.Model, image: NDArray[np.uint8]) -> Heat:
    """Evidence for PNEUMONIA in an image.

    For a model with test-time augmentation, the heatmap is the mean over its views, each mapped
    back to the frame of the image, as the probability is the mean of theirs. A cropped view is
    extended by its edge values, because a border would look like a finding.

    Args:
        model: saved model of any variant, uint8 gray (N, S, S, 1) -> probability (N, 1).
        image: network input, uint8 (S, S), 0 black to 255 white.

    Returns:
        float32 (S, S), 0 to 1: 1 at the strongest evidence; 0 everywhere if there is none.
    """
    return mean_map([_view_heatmap(view, image) for view in _views(model)])


def mean_map(maps: Sequence[Heat]) -> Heat:
    """Mean of several heatmaps, scaled to a maximum of 1. The members of the ensemble have equal
    weight, as their probabilities have.

    Args:
        maps: each float32 (S, S), at least 0.
    """
    mean: Heat = np.mean(maps, axis=0, dtype=np.float32)
    return mean / (mean.max() or 1)


def overlay(image: NDArray[np.uint8], heat: Heat) -> NDArray[np.uint8]:
    """Blend an image with a heatmap: the stronger, the more opaque and the lighter the color, from
    violet over red to yellow.

    Args:
        image: uint8 (S, S), 0 black to 255 white.
        heat: float32 (S, S), 0 to 1.

    Returns:
        RGB, uint8 (S, S, 3).
    """
    colors = matplotlib.colormaps[COLORMAP](heat)[..., :3] * 255
    opacity = MAX_OPACITY * heat[..., np.newaxis]
    blended = (1 - opacity) * image[..., np.newaxis] + opacity * colors
    return np.asarray(blended.round(), np.uint8)


def _views(model: keras.Model) -> list[keras.Model]:
    """A model for each view of a model with test-time augmentation; else the model itself."""
    last = model.layers[-1]
    if not isinstance(last, layers.Average):
        return [model]
    return [keras.Model(model.input, probability) for probability in last.input]


def _view_heatmap(view: keras.Model, image: NDArray[np.uint8]) -> Heat:
    """Heatmap of one view in the frame of the image, float32 (S, S), at least 0, in logits."""
    maps = _grad_cam(view, image)
    first = view.layers[1]
    is_rescaled = isinstance(first, (layers.ZeroPadding2D, layers.Cropping2D))
    size = first.output.shape[1] if is_rescaled else len(image)
    return _to_frame(_resized(maps, size), len(image))


def _grad_cam(view: keras.Model, image: NDArray[np.uint8]) -> Heat:
    """Feature maps times their gradients, summed over channels: float32 (h, w), at least 0."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        maps, logit = _maps_and_logit(view, tf.constant(image[np.newaxis, ..., np.newaxis]), tape)
    heat: Heat = tf.reduce_sum(tape.gradient(logit, maps) * maps, axis=-1)[0].numpy()
    if isinstance(_last(view), keras.Model):
        heat = cv2.sepFilter2D(heat, -1, SMOOTHING, SMOOTHING)
    return heat.clip(0)


def _maps_and_logit(view: keras.Model, image: Any, tape: tf.GradientTape) -> tuple[Any, Any]:
    """Feature maps, float32 (1, h, w, c), watched by the tape, and the logit (1,).

    Layers are called one by one, including those of nested models. Keras's method for that is
    private; the public `clone_model` does not accept eager tensors.
    """
    found: dict[str, Any] = {}
    last = _last(view)

    def call(operation: Any, tensor: Any, *more: Any, **options: Any) -> Any:
        if operation is last:
            if isinstance(operation, keras.Model):
                before, operation = _split(operation)
                tensor = before(tensor, training=False)
            tape.watch(tensor)
            found["maps"] = tensor
        if isinstance(operation, keras.Model):
            return operation._run_through_graph(tensor, wrap)
        if isinstance(operation, layers.Dense) and operation.activation in PROBABILITIES:
            found["logit"] = _log_odds(tensor @ operation.kernel + operation.bias)
        return operation(tensor, *more, **options)

    def wrap(operation: Any) -> Any:
        return partial(call, operation)

    view._run_through_graph(image, wrap)
    return found["maps"], found["logit"]


def _last(view: keras.Model) -> keras.Layer:
    """The last layer on the top level whose input is feature maps."""
    return [layer for layer in view.layers if _is_maps(layer.input)][-1]


def _is_maps(tensor: Any, min_size: int = 1) -> bool:
    is_one = isinstance(tensor, keras.KerasTensor)  # some layers have several inputs
    return is_one and len(tensor.shape) == 4 and (tensor.shape[1] or 1) >= min_size


@cache
def _split(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Split a model at its last articulation tensor with maps of at least `MIN_MAP_SIZE`; if there
    is none, at its input.
    """
    fine = [tensor for tensor in articulation_tensors(model) if _is_maps(tensor, MIN_MAP_SIZE)]
    cut = fine[-1] if fine else model.input
    return keras.Model(model.input, cut), keras.Model(cut, model.output)


def _log_odds(scores: Any) -> Any:
    """Logit of PNEUMONIA (N,) from the input of a sigmoid (N, 1), or of a softmax (N, K) over
    NORMAL and the pathogens of PNEUMONIA.
    """
    if scores.shape[1] == 1:
        return scores[:, 0]
    return tf.reduce_logsumexp(scores[:, 1:], axis=1) - scores[:, 0]


def _resized(heat: Heat, size: int) -> Heat:
    return np.asarray(Pillow.fromarray(heat).resize((size, size), Pillow.Resampling.BILINEAR))


def _to_frame(heat: Heat, size: int) -> Heat:
    """Crop a heatmap, or extend it by its edge values: float32 (size, size)."""
    margin = (size - len(heat)) // 2
    if margin >= 0:
        return np.pad(heat, margin, mode="edge")
    return heat[-margin:margin, -margin:margin]
