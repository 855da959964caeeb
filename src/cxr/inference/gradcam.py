"""Where in an image a network sees PNEUMONIA: Grad-CAM (Selvaraju 2017, 10.1109/ICCV.2017.74), in
the form of HiResCAM (Draelos 2020, 10.48550/arXiv.2011.08891).

Each of the network's last maps is multiplied, place by place, by the gradient of the logit with
respect to it; what the sum has above zero speaks for PNEUMONIA. Where the maps are averaged next,
the gradient is the same at every place and this is Grad-CAM itself. Where they are flattened, the
mean gradient that Grad-CAM takes forgets the place. The logit is taken, as the gradient of a
probability vanishes where that is close to 1.

One rule finds maps and logit in every variant: the logit is what the dense layer with the sigmoid
or the softmax computes, and the maps are the last ones on the uppermost level of the saved model,
before a pooling, a flattening, or the trained half of the fine-tuned network. That half is followed
to its last maps of 7 x 7 or more, as its very last, of 4 x 4, have seen the whole image, and speak
for PNEUMONIA at one and the same place in every image.

A map tells where, not how much: it is brought to a largest value of 1 also where the network
sees next to nothing. It is as coarse as the network's last maps, and shows what the network uses,
which need not be the disease.
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
from cxr.evaluation.predictions import load_model
from cxr.models.split_backbone import articulation_tensors

Heat = NDArray[np.float32]

FINE = 7  # pixels, side of the coarsest maps that are taken where there are finer ones

# What makes maps coarser looks at every second place more, or at these alone, which draws a grid.
SMOOTHING = np.array([0.25, 0.5, 0.25])  # takes out what differs from place to place

# Of matplotlib's perceptually uniform scales the one whose strong colours (0.7 to 1) differ most
# from the grey below them, for each kind of colour vision (Machado 2009): by 11 in CIELAB or more.
COLORMAP = "plasma"
MOST_OPAQUE = 0.6  # of the colour where the map is 1, so that the radiograph stays visible


class Explainer:
    """Shows where one variant sees PNEUMONIA.

    Args:
        models: folder of the trained models.
        members: names of the variant's networks: its own, of the ensemble those of its members.

    Raises:
        CxrError: a model is missing or damaged.
    """

    def __init__(self, models: Path, members: Iterable[str]) -> None:
        files = [models / f"{name}.keras" for name in members]
        for file in files:
            if not file.exists():
                raise CxrError(
                    f"{file} is missing: explanations need the trained network itself; run "
                    f"`dvc pull {file}` or `dvc repro train_{file.stem}` in the project"
                )
        self.models = [load_model(file) for file in files]

    def overlay(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """RGB uint8 (S, S, 3): an image, uint8 (S, S) as prepared for prediction, under its map."""
        return overlay(image, mean_map([heatmap(model, image) for model in self.models]))


def heatmap(model: keras.Model, image: NDArray[np.uint8]) -> Heat:
    """What speaks for PNEUMONIA in an image, to a trained model.

    A model that averages over views of the image has the mean of the views' maps, each brought
    back to the frame of the image, as its probability is the mean of theirs. Where a view from
    nearer ends within the image, its map goes on as at its edge: an end would look like a finding.

    Args:
        model: saved model of any variant, uint8 grey (N, S, S, 1) -> probability (N, 1).
        image: uint8 (S, S), 0 black to 255 white, prepared as for prediction.

    Returns:
        float32 (S, S), 0 to 1: 1 at what speaks most for PNEUMONIA; 0 everywhere if nothing does.

    Raises:
        ValueError: the image has another shape or type than the model takes.
    """
    side = model.input_shape[1]
    if image.shape != (side, side) or image.dtype != np.uint8:
        raise ValueError(f"the model takes uint8 ({side}, {side}), not {image.dtype} {image.shape}")
    return mean_map([_seen(view, image) for view in _views(model)])


def mean_map(maps: Sequence[Heat]) -> Heat:
    """The mean of several maps, brought to a largest value of 1. For the ensemble, its members':
    each weighs the same, as their probabilities do.

    Args:
        maps: each float32 (S, S), 0 or more.
    """
    mean: Heat = np.mean(maps, axis=0, dtype=np.float32)
    return mean / (mean.max() or 1)


def overlay(image: NDArray[np.uint8], heat: Heat) -> NDArray[np.uint8]:
    """The image with the map over it: the stronger, the more opaque and the lighter its colour,
    from violet over red to yellow.

    Args:
        image: uint8 (S, S), 0 black to 255 white.
        heat: float32 (S, S), 0 to 1.

    Returns:
        RGB, uint8 (S, S, 3).
    """
    colours = matplotlib.colormaps[COLORMAP](heat)[..., :3] * 255
    opacity = MOST_OPAQUE * heat[..., np.newaxis]
    blended = (1 - opacity) * image[..., np.newaxis] + opacity * colours
    return np.asarray(blended.round(), np.uint8)


def _views(model: keras.Model) -> list[keras.Model]:
    """The model for each view alone, of those that it averages; else the model itself."""
    last = model.layers[-1]
    if not isinstance(last, layers.Average):
        return [model]
    return [keras.Model(model.input, probability) for probability in last.input]


def _seen(view: keras.Model, image: NDArray[np.uint8]) -> Heat:
    """Map of one view in the image's frame, float32 (S, S), 0 or more, in units of the logit."""
    maps = _grad_cam(view, image)
    first = view.layers[1]
    is_zoomed = isinstance(first, (layers.ZeroPadding2D, layers.Cropping2D))
    side = first.output.shape[1] if is_zoomed else len(image)
    return _to_frame(_enlarged(maps, side), len(image))


def _grad_cam(view: keras.Model, image: NDArray[np.uint8]) -> Heat:
    """Maps of a model times their gradients, summed: float32 (h, w), 0 or more."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        maps, logit = _maps_and_logit(view, tf.constant(image[np.newaxis, ..., np.newaxis]), tape)
    heat: Heat = tf.reduce_sum(tape.gradient(logit, maps) * maps, axis=-1)[0].numpy()
    if isinstance(_last(view), keras.Model):
        heat = cv2.sepFilter2D(heat, -1, SMOOTHING, SMOOTHING)
    return heat.clip(0)


def _maps_and_logit(view: keras.Model, image: Any, tape: tf.GradientTape) -> tuple[Any, Any]:
    """Maps float32 (1, h, w, c), watched by the tape, and the logit (1,) that follows from them.

    Layers are called one by one, also those of models within the model. Keras's own way to do that
    is not public; the public one, `clone_model`, does not take tensors with values.
    """
    found: dict[str, Any] = {}
    last = _last(view)

    def called(operation: Any, tensor: Any, *more: Any, **options: Any) -> Any:
        if operation is last:
            if isinstance(operation, keras.Model):
                before, operation = _halves(operation)
                tensor = before(tensor, training=False)
            tape.watch(tensor)
            found["maps"] = tensor
        if isinstance(operation, keras.Model):
            return operation._run_through_graph(tensor, opened)
        if _gives_probability(operation):
            found["logit"] = _log_odds(tensor @ operation.kernel + operation.bias)
        return operation(tensor, *more, **options)

    def opened(operation: Any) -> Any:
        return partial(called, operation)

    view._run_through_graph(image, opened)
    return found["maps"], found["logit"]


def _last(view: keras.Model) -> keras.Layer:
    """The last layer that takes maps, on the uppermost level."""
    return [layer for layer in view.layers if _takes_maps(layer)][-1]


def _takes_maps(layer: keras.Layer) -> bool:
    return isinstance(layer.input, keras.KerasTensor) and len(layer.input.shape) == 4


@cache
def _halves(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """A model in two, cut at the last of its maps, those that everything goes through, which are
    not too coarse; where all are, at what it takes.
    """
    fine = [tensor for tensor in articulation_tensors(model) if _is_fine(tensor)]
    cut = fine[-1] if fine else model.input
    return keras.Model(model.input, cut), keras.Model(cut, model.output)


def _is_fine(tensor: keras.KerasTensor) -> bool:
    return len(tensor.shape) == 4 and tensor.shape[1] >= FINE


def _gives_probability(operation: Any) -> bool:
    probabilities = (keras.activations.sigmoid, keras.activations.softmax)
    return isinstance(operation, layers.Dense) and operation.activation in probabilities


def _log_odds(scores: Any) -> Any:
    """Logit of PNEUMONIA (N,) from what goes into a sigmoid (N, 1), or into the softmax (N, K)
    over NORMAL and the kinds of PNEUMONIA.
    """
    if scores.shape[1] == 1:
        return scores[:, 0]
    return tf.reduce_logsumexp(scores[:, 1:], axis=1) - scores[:, 0]


def _enlarged(heat: Heat, side: int) -> Heat:
    return np.asarray(Pillow.fromarray(heat).resize((side, side), Pillow.Resampling.BILINEAR))


def _to_frame(heat: Heat, side: int) -> Heat:
    """The middle of a map, or the map with its edges drawn out: float32 (side, side)."""
    margin = (side - len(heat)) // 2
    if margin >= 0:
        return np.pad(heat, margin, mode="edge")
    return heat[-margin:margin, -margin:margin]
