"""The backbone in two parts, of which the first stays frozen and runs once for each image.

image -> `frozen` -> activations, kept on disk -> `tuned`, trained -> probability. With
`finetune.trainable_from: input` the frozen part only brings the image to its side, and the whole
backbone is trained. Training images have activations of perturbed copies, the others of views from
nearer and farther, over which probabilities are averaged.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
from keras import layers

from cxr import paths
from cxr.errors import CxrError
from cxr.models.backbones import BACKBONES, UNSCALED, load_backbone
from cxr.params import FinetuneParams, TransferParams

TRAINABLE_STAGES = {
    "last_stage": 1,
    "last_two_stages": 2,
}  # finetune.trainable_from -> stages to train


@dataclass(frozen=True)
class SplitBackbone:
    """A backbone in two parts.

    Attributes:
        frozen: images uint8 (N, S, S, 1) of any size -> activations float (N, h, w, c).
        tuned: activations -> the backbone's maps (N, h', w', c').
    """

    frozen: keras.Model
    tuned: keras.Model


def configured_backbone(transfer: TransferParams, finetune: FinetuneParams) -> SplitBackbone:
    """The two parts of the backbone that the parameters ask for; raises as `halves` does."""
    return split_backbone(
        transfer.backbone,
        paths.weights(transfer.backbone, transfer.weights),
        transfer.preprocessing,
        finetune.input_size,
        finetune.trainable_from,
    )


def split_backbone(
    name: str, weights: Path, scaling: str, side: int, from_layer: str
) -> SplitBackbone:
    """Cut a backbone in two.

    Args:
        name: key of `BACKBONES`.
        weights: file of its weights.
        scaling: `imagenet` or `none`, as `transfer.preprocessing`.
        side: pixels, to which the images are brought before the backbone.
        from_layer: as `finetune.trainable_from`.

    Raises:
        CxrError: the side is too small, or the backbone cannot be cut at that layer.
    """
    entry = BACKBONES[name]
    if side < entry.min_size:
        raise CxrError(f"finetune.input_size {side}: {name} needs at least {entry.min_size}")
    backbone = entry.build(weights=None, include_top=False, input_shape=(side, side, 3))
    backbone.set_weights(load_backbone(name, weights).get_weights())
    scale, offset = entry.scaling if scaling == "imagenet" else UNSCALED
    image = keras.Input((None, None, 1), dtype="uint8", name="view")
    grey = layers.Resizing(side, side, name="resize")(image)
    to_rgb = [
        layers.Concatenate(name="grey_to_rgb"),
        layers.Rescaling(scale, offset, name="backbone_scaling"),
    ]
    if from_layer == "input":
        activation = keras.Input(grey.shape[1:], name="activation")
        maps = backbone(to_rgb[1](to_rgb[0]([activation] * 3)))
        return SplitBackbone(
            keras.Model(image, grey), _freeze_statistics(keras.Model(activation, maps))
        )
    cut = _cut_tensor(backbone, name, from_layer)
    lower = keras.Model(backbone.input, cut, name="frozen")
    lower.trainable = False
    frozen = keras.Model(image, lower(to_rgb[1](to_rgb[0]([grey] * 3)), training=False))
    return SplitBackbone(frozen, _freeze_statistics(keras.Model(cut, backbone.output)))


def _cut_tensor(backbone: keras.Model, name: str, from_layer: str) -> keras.KerasTensor:
    """The tensor between the frozen and the trained layers."""
    if from_layer in TRAINABLE_STAGES:
        return stage_input(backbone, TRAINABLE_STAGES[from_layer])
    try:
        cut = backbone.get_layer(from_layer).input
        keras.Model(cut, backbone.output)
    except ValueError as error:
        raise CxrError(
            f"finetune.trainable_from {from_layer!r}: {name} has no such layer, or layers before "
            "it also lead past it; use last_stage, last_two_stages, input, or the first layer of a "
            "block"
        ) from error
    return cut


def stage_input(backbone: keras.Model, stages: int) -> keras.KerasTensor:
    """Where the last stages begin, those of the lowest resolutions: the first tensor of that
    resolution through which everything goes.
    """
    tensors = articulation_tensors(backbone)
    side = sorted({tensor.shape[1] for tensor in tensors})[stages - 1]
    return next(tensor for tensor in tensors if tensor.shape[1] == side)


def articulation_tensors(model: keras.Model) -> list[keras.KerasTensor]:
    """Where a model can be cut in two: its tensors on every path from input to output (the
    articulation points of its graph) that have layers with weights after them, from input to
    output.

    Args:
        model: of the functional API, with one input and one output; each layer is called once.
    """
    steps = model.operations  # layers, and sums that are none
    taken = [keras.tree.flatten(step.input) for step in steps]
    last_use = {id(t): number for number, tensors in enumerate(taken) for t in tensors}
    found: list[keras.KerasTensor] = []
    alive: dict[int, keras.KerasTensor] = {}
    for number, step in enumerate(steps):
        alive |= {id(tensor): tensor for tensor in keras.tree.flatten(step.output)}
        alive = {key: t for key, t in alive.items() if last_use.get(key, 0) > number}
        has_weights = any(getattr(later, "weights", None) for later in steps[number + 1 :])
        if len(alive) == 1 and has_weights:
            found += alive.values()
    return found


def _freeze_statistics(model: keras.Model) -> keras.Model:
    """Keep the batch normalisations as they are: batches of radiographs would spoil them."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            _freeze_statistics(layer)
        elif isinstance(layer, layers.BatchNormalization):
            layer.trainable = False
    return model


def rescale_view(image: Any, zoom: float) -> Any:
    """The image from nearer (zoom above 1: its margins are cut off) or farther (below 1: there are
    black margins around it); symbolic or not, uint8 (N, S, S, 1) to (N, S / zoom, S / zoom, 1).
    """
    margin = round(image.shape[1] * (1 / zoom - 1) / 2)
    if margin == 0:
        return image
    return (layers.ZeroPadding2D(margin) if margin > 0 else layers.Cropping2D(-margin))(image)
