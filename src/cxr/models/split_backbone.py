"""Split of the backbone for fine-tuning: image -> `frozen` -> activations -> `tuned` -> maps.

The activations are computed once per image and cached. With `finetune.trainable_from: input` the
frozen part only resizes the image, and the whole backbone is trained.
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

# finetune.trainable_from -> number of trained stages
TRAINABLE_STAGES = {"last_stage": 1, "last_two_stages": 2}


@dataclass(frozen=True)
class SplitBackbone:
    """A backbone in two parts.

    Attributes:
        frozen: images uint8 (N, S, S, 1) of any size -> activations float (N, h, w, c).
        tuned: activations -> feature maps of the backbone (N, h', w', c').
    """

    frozen: keras.Model
    tuned: keras.Model


def configured_backbone(transfer: TransferParams, finetune: FinetuneParams) -> SplitBackbone:
    """Split the backbone of the parameters; raises as `split_backbone` does."""
    return split_backbone(
        transfer.backbone,
        paths.weights(transfer.backbone, transfer.weights),
        transfer.preprocessing,
        finetune.input_size,
        finetune.trainable_from,
    )


def split_backbone(
    name: str, weights: Path, preprocessing: str, input_size: int, trainable_from: str
) -> SplitBackbone:
    """Cut a backbone in a frozen and a trained part.

    Args:
        name: key of `BACKBONES`.
        weights: .weights.h5 file.
        preprocessing: `imagenet` or `none`, as `transfer.preprocessing`.
        input_size: pixels, to which images are resized.
        trainable_from: as `finetune.trainable_from`.

    Raises:
        CxrError: the input size is too small, the backbone cannot be cut at that layer, or the file
            does not fit it.
    """
    entry = BACKBONES[name]
    if input_size < entry.min_size:
        raise CxrError(f"finetune.input_size {input_size}: {name} needs at least {entry.min_size}")
    backbone = entry.build(weights=None, include_top=False, input_shape=(input_size, input_size, 3))
    backbone.set_weights(load_backbone(name, weights).get_weights())
    scale, offset = entry.scaling if preprocessing == "imagenet" else UNSCALED
    image = keras.Input((None, None, 1), dtype="uint8", name="view")
    gray = layers.Resizing(input_size, input_size, name="resize")(image)
    to_rgb = [
        layers.Concatenate(name="grey_to_rgb"),
        layers.Rescaling(scale, offset, name="backbone_scaling"),
    ]
    if trainable_from == "input":
        activation = keras.Input(gray.shape[1:], name="activation")
        maps = backbone(to_rgb[1](to_rgb[0]([activation] * 3)))
        return SplitBackbone(
            keras.Model(image, gray), _freeze_statistics(keras.Model(activation, maps))
        )
    cut = _cut_tensor(backbone, name, trainable_from)
    lower = keras.Model(backbone.input, cut, name="frozen")
    lower.trainable = False
    frozen = keras.Model(image, lower(to_rgb[1](to_rgb[0]([gray] * 3)), training=False))
    return SplitBackbone(frozen, _freeze_statistics(keras.Model(cut, backbone.output)))


def _cut_tensor(backbone: keras.Model, name: str, trainable_from: str) -> keras.KerasTensor:
    """Tensor between the frozen and the trained layers."""
    if trainable_from in TRAINABLE_STAGES:
        return stage_input(backbone, TRAINABLE_STAGES[trainable_from])
    try:
        cut = backbone.get_layer(trainable_from).input
        keras.Model(cut, backbone.output)
    except ValueError as error:
        raise CxrError(
            f"finetune.trainable_from {trainable_from!r}: {name} has no such layer, or connections "
            "bypass it; use last_stage, last_two_stages, input, or the first layer of a block"
        ) from error
    return cut


def stage_input(backbone: keras.Model, stages: int) -> keras.KerasTensor:
    """Input of the last stages (the layers of one resolution each): the first articulation tensor
    at that resolution.
    """
    tensors = articulation_tensors(backbone)
    size = sorted({tensor.shape[1] for tensor in tensors})[stages - 1]
    return next(tensor for tensor in tensors if tensor.shape[1] == size)


def articulation_tensors(model: keras.Model) -> list[keras.KerasTensor]:
    """Tensors at which a model can be cut in two, from input to output: those on every path from
    input to output (articulation points of its graph), with weights after them.

    Args:
        model: functional, with one input and one output; each layer is called once.
    """
    operations = model.operations  # layers and others, such as additions
    inputs = [keras.tree.flatten(operation.input) for operation in operations]
    last_use = {id(t): number for number, taken in enumerate(inputs) for t in taken}
    tensors: list[keras.KerasTensor] = []
    alive: dict[int, keras.KerasTensor] = {}
    for number, operation in enumerate(operations):
        alive |= {id(tensor): tensor for tensor in keras.tree.flatten(operation.output)}
        alive = {key: t for key, t in alive.items() if last_use.get(key, 0) > number}
        has_weights = any(getattr(later, "weights", None) for later in operations[number + 1 :])
        if len(alive) == 1 and has_weights:
            tensors += alive.values()
    return tensors


def _freeze_statistics(model: keras.Model) -> keras.Model:
    """Freeze batch normalization: statistics of small batches degrade the pretrained model."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            _freeze_statistics(layer)
        elif isinstance(layer, layers.BatchNormalization):
            layer.trainable = False
    return model


def rescale_view(image: Any, scale: float) -> Any:
    """View of an image at a scale, before it is resized: cropped (scale above 1) or padded with
    black (below 1). Symbolic or not: uint8 (N, S, S, 1) -> (N, S / scale, S / scale, 1).
    """
    margin = round(image.shape[1] * (1 / scale - 1) / 2)
    if margin == 0:
        return image
    return (layers.ZeroPadding2D(margin) if margin > 0 else layers.Cropping2D(-margin))(image)
