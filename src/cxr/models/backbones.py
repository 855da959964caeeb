"""Backbones: their layers, their scaling of grey values, their weights file."""

import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
from keras import applications, layers

from cxr import paths
from cxr.common.files import replacing
from cxr.errors import CxrError
from cxr.params import TransferParams

# Grey values 0-255 -> what the backbone was trained on, as its own `preprocess_input` does:
# scale and offset for each of the three channels.
Scaling = tuple[list[float], list[float]]
TO_PLUS_MINUS_ONE: Scaling = ([1 / 127.5] * 3, [-1.0] * 3)
UNSCALED: Scaling = ([1.0] * 3, [0.0] * 3)  # for backbones that scale by themselves
# Mean and standard deviation of ImageNet's colors, as in `preprocess_input` of mode "torch".
_MEAN, _SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STANDARDISED: Scaling = (
    [1 / (255 * spread) for spread in _SPREAD],
    [-mean / spread for mean, spread in zip(_MEAN, _SPREAD, strict=True)],
)


@dataclass(frozen=True)
class Backbone:
    """A network, built as those of keras.applications, and how grey values are scaled for it."""

    build: Callable[..., keras.Model]
    scaling: Scaling
    min_size: int  # pixels, the smallest image that the network takes


def tiny(
    weights: None = None, include_top: bool = False, input_shape: tuple[int, int, int] | None = None
) -> keras.Model:
    """Four blocks of convolution, normalization and ReLU, each after the first at half the
    resolution: 25,000 weights, trained on phantoms (`pretraining`) for the demo and the tests.

    Args:
        weights: no others exist.
        include_top: there is none.
        input_shape: (height, width, 3); None for images of any size.
    """
    image = keras.Input(input_shape or (None, None, 3))
    maps = image
    for number, filters in enumerate(TINY_FILTERS, start=1):
        if number > 1:
            maps = layers.MaxPooling2D(name=f"pool{number}")(maps)
        convolution = layers.Conv2D(
            filters, 3, padding="same", use_bias=False, name=f"conv{number}"
        )
        # Averages that follow within few steps, as the training is short.
        maps = layers.BatchNormalization(momentum=0.9, name=f"norm{number}")(convolution(maps))
        maps = layers.ReLU(name=f"relu{number}")(maps)
    return keras.Model(image, maps, name="tiny")


TINY_FILTERS = (8, 16, 32, 64)
BACKBONES = {
    "xception": Backbone(applications.Xception, TO_PLUS_MINUS_ONE, 71),
    "resnet50v2": Backbone(applications.ResNet50V2, TO_PLUS_MINUS_ONE, 32),
    "densenet121": Backbone(applications.DenseNet121, STANDARDISED, 32),
    "mobilenetv2": Backbone(applications.MobileNetV2, TO_PLUS_MINUS_ONE, 32),
    "efficientnetv2b0": Backbone(applications.EfficientNetV2B0, UNSCALED, 32),
    "convnexttiny": Backbone(applications.ConvNeXtTiny, UNSCALED, 32),
    "tiny": Backbone(tiny, TO_PLUS_MINUS_ONE, 16),
}


def ensure_weights(path: Path, name: str, weights: str) -> None:
    """Make sure that `path` holds the weights of backbone `name` without its top.

    A file that stands there for `imagenet` is checked and used, never replaced. Else Keras
    downloads it. For `none`, weights are drawn at random, always the same.

    Raises:
        CxrError: the file does not fit the backbone, or the download failed.
    """
    if weights == "imagenet" and path.exists():
        load_backbone(name, path)
        print(f"{path} stands and fits {name}: used as it is")
        return
    keras.utils.set_random_seed(0)
    source = "imagenet" if weights == "imagenet" else None
    try:
        backbone = BACKBONES[name].build(weights=source, include_top=False)
    except Exception as error:  # Keras wraps a failed download in a bare Exception
        raise CxrError(
            f"the ImageNet weights of {name} could not be downloaded ({error}).\n"
            "  Three ways on:\n"
            "  1. try again when the network is back;\n"
            f"  2. put the weights file (Keras, without top, .weights.h5) at {path};\n"
            "  3. `dvc exp run -S transfer.weights=none` tries the pipeline with random weights."
        ) from error
    write_weights(path, backbone)


def write_weights(path: Path, backbone: keras.Model) -> None:
    """Write the weights of a backbone to a .weights.h5 file, whole or not at all."""
    weights_file = _weights_file(backbone)
    with replacing(path) as part:
        part.write_bytes(weights_file)


def _weights_file(model: keras.Model) -> bytes:
    """Content of a .weights.h5, taken from an archive, for which Keras makes it in memory: where
    HDF5 itself writes to a disk that is full, it ends the process.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        model.save(file)
        with zipfile.ZipFile(file) as archive:
            return archive.read("model.weights.h5")


def load_backbone(name: str, weights: Path) -> keras.Model:
    """Backbone without its top, for images of any size, with the weights of `weights`.

    Raises:
        CxrError: the file is missing, damaged or made for another network.
    """
    backbone = BACKBONES[name].build(weights=None, include_top=False)
    try:
        backbone.load_weights(weights)
    except (OSError, ValueError, KeyError) as error:
        raise CxrError(
            f"{weights} cannot be used as weights of {name} without top: {error}\n"
            "  Replace the file, or remove it to download it again."
        ) from error
    return backbone


def feature_extractor(
    name: str, weights: Path, image: keras.KerasTensor, scaling: str, pooling: str
) -> keras.KerasTensor:
    """From grey images uint8 (N, S, S, 1) to features float32 (N, D).

    Args:
        name: key of `BACKBONES`.
        weights: file of its weights.
        image: symbolic input.
        scaling: `backbone`, to the range it was trained on, or `none`, grey values as they are.
        pooling: `avg`, the mean of each feature map, or `flatten`, all their values.

    Raises:
        CxrError: the image is too small for the backbone.
    """
    entry = BACKBONES[name]
    if image.shape[1] < entry.min_size:
        raise CxrError(f"image.input_size {image.shape[1]}: {name} needs at least {entry.min_size}")
    scale, offset = entry.scaling if scaling == "imagenet" else UNSCALED
    rgb = layers.Concatenate(name="grey_to_rgb")([image, image, image])
    scaled = layers.Rescaling(scale, offset, name="backbone_scaling")(rgb)
    backbone = load_backbone(name, weights)
    backbone.trainable = False
    maps = backbone(scaled, training=False)
    pool: dict[str, Any] = {
        "avg": layers.GlobalAveragePooling2D(name="pooling"),
        "flatten": layers.Flatten(name="pooling"),
    }
    return pool[pooling](maps)


def with_head(head: keras.Model, image: keras.KerasTensor, params: TransferParams) -> keras.Model:
    """Backbone and trained head as one model: uint8 grey (N, S, S, 1) -> probability (N, 1)."""
    weights = paths.weights(params.backbone, params.weights)
    features = feature_extractor(
        params.backbone, weights, image, params.preprocessing, params.pooling
    )
    plain = keras.Model(head.input, head.output, name=head.name)  # without its optimizer
    return keras.Model(image, plain(features), name="transfer")
