"""The backbone in two parts, of which the first stays frozen and runs once for each image.

image -> `frozen` -> activations, kept on disk -> `tuned`, trained -> probability. With
`finetune.from_layer: input` the frozen part only brings the image to its side, and the whole
backbone is trained.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray
from tqdm import tqdm

from cxr import paths
from cxr.arrays import Split, write_rows
from cxr.augmentation import augment
from cxr.backbones import BACKBONES, UNSCALED, load_backbone
from cxr.engines import Run, runner
from cxr.errors import CxrError
from cxr.params import FinetuneParams, PerturbParams, TransferParams

BATCH_SIZE = 16  # images; of no influence on the activations


@dataclass(frozen=True)
class Halves:
    """A backbone in two parts.

    Attributes:
        frozen: images uint8 (N, S, S, 1) -> activations float (N, h, w, c).
        tuned: activations -> the backbone's maps (N, h', w', c').
    """

    frozen: keras.Model
    tuned: keras.Model


def chosen_halves(
    image: keras.KerasTensor, transfer: TransferParams, finetune: FinetuneParams
) -> Halves:
    """The two parts of the backbone that the parameters ask for; raises as `halves` does."""
    return halves(
        transfer.backbone,
        paths.weights(transfer.backbone, transfer.weights),
        image,
        transfer.scaling,
        finetune.side,
        finetune.from_layer,
    )


def halves(
    name: str,
    weights: Path,
    image: keras.KerasTensor,
    scaling: str,
    side: int,
    from_layer: str,
) -> Halves:
    """Cut a backbone in two.

    Args:
        name: key of `BACKBONES`.
        weights: file of its weights.
        image: symbolic input, uint8 (N, S, S, 1).
        scaling: `backbone` or `none`, as `transfer.scaling`.
        side: pixels, to which the images are brought before the backbone.
        from_layer: as `finetune.from_layer`.

    Raises:
        CxrError: the side is too small, or the backbone cannot be cut at that layer.
    """
    entry = BACKBONES[name]
    if side < entry.min_size:
        raise CxrError(f"finetune.side {side}: {name} needs at least {entry.min_size}")
    backbone = entry.build(weights=None, include_top=False, input_shape=(side, side, 3))
    backbone.set_weights(load_backbone(name, weights).get_weights())
    scale, offset = entry.scaling if scaling == "backbone" else UNSCALED
    grey = layers.Resizing(side, side, name="resize")(image)
    to_rgb = [
        layers.Concatenate(name="grey_to_rgb"),
        layers.Rescaling(scale, offset, name="backbone_scaling"),
    ]
    if from_layer == "input":
        activation = keras.Input(grey.shape[1:], name="activation")
        maps = backbone(to_rgb[1](to_rgb[0]([activation] * 3)))
        return Halves(keras.Model(image, grey), _freeze_statistics(keras.Model(activation, maps)))
    cut = _cut(backbone, name, from_layer)
    lower = keras.Model(backbone.input, cut, name="frozen")
    lower.trainable = False
    frozen = keras.Model(image, lower(to_rgb[1](to_rgb[0]([grey] * 3)), training=False))
    return Halves(frozen, _freeze_statistics(keras.Model(cut, backbone.output)))


def _cut(backbone: keras.Model, name: str, from_layer: str) -> keras.KerasTensor:
    """The tensor between the frozen and the trained layers."""
    if from_layer == "last_stage":
        return last_stage_input(backbone)
    try:
        cut = backbone.get_layer(from_layer).input
        keras.Model(cut, backbone.output)
    except ValueError as error:
        raise CxrError(
            f"finetune.from_layer {from_layer!r}: {name} has no such layer, or layers before it "
            "also lead past it; use last_stage, input, or the first layer of a block"
        ) from error
    return cut


def last_stage_input(backbone: keras.Model) -> keras.KerasTensor:
    """The last tensor through which everything goes and that is larger than the backbone's maps:
    where the stage of the lowest resolution begins.
    """
    steps = backbone.operations  # layers, and sums that are none
    nodes = [step._inbound_nodes[0] for step in steps]
    last_use = {id(t): number for number, node in enumerate(nodes) for t in node.input_tensors}
    found, alive = backbone.input, dict[int, keras.KerasTensor]()
    for number, node in enumerate(nodes):
        alive |= {id(tensor): tensor for tensor in node.outputs}
        alive = {key: t for key, t in alive.items() if last_use.get(key, 0) > number}
        has_weights = any(getattr(later, "weights", None) for later in steps[number + 1 :])
        if len(alive) == 1 and has_weights:
            (tensor,) = alive.values()
            if tensor.shape[1] > backbone.output_shape[1]:
                found = tensor
    return found


def _freeze_statistics(model: keras.Model) -> keras.Model:
    """Keep the batch normalisations as they are: batches of radiographs would spoil them."""
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = False
    return model


def perturbed(split: Split, copy: int, params: PerturbParams) -> Iterator[NDArray[np.uint8]]:
    """Images uint8 (S, S) of one copy: 0 is the images themselves, the others are perturbed. The
    same in every run, whatever `seed` is, so that seeds share the activations.
    """
    for row, image in enumerate(split.images):
        rng = np.random.default_rng([copy, row])
        yield augment(np.asarray(image), params, rng) if copy else image


def extract(run: Run, images: Iterator[NDArray[np.uint8]], count: int) -> Iterator[Any]:
    """Activations float32 (n, h, w, c) of `count` images, batch by batch."""
    batch = []
    for number, image in enumerate(tqdm(images, "activations", count, disable=None), start=1):
        batch.append(image)
        if len(batch) == BATCH_SIZE or number == count:
            yield run(np.stack(batch)[..., np.newaxis])
            batch.clear()


def write_activations(
    path: Path,
    frozen: keras.Model,
    engine: str,
    split: Split,
    copies: int,
    params: PerturbParams,
) -> None:
    """Write float16 (1 + copies, N, h, w, c), the images' own activations first.

    Args:
        path: .npy file.
        frozen: uint8 (N, S, S, 1) -> float32 (N, h, w, c).
        engine: that runs it, as `transfer.engine`.
        split: the images.
        copies: perturbed ones of each image.
        params: how they are perturbed.
    """
    run = runner(frozen, engine)
    rows = (
        block
        for copy in range(1 + copies)
        for block in extract(run, perturbed(split, copy, params), len(split.images))
    )
    shape = (1 + copies, len(split.images), *frozen.output_shape[1:])
    write_rows(path, rows, shape, "float16")
