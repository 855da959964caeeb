"""Backbones: architecture, preprocessing of gray values, weights file."""

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

# Scale and offset per channel: gray values 0-255 -> the backbone's input range, as its own
# `preprocess_input` in keras.applications.
Scaling = tuple[list[float], list[float]]
TO_PLUS_MINUS_ONE: Scaling = ([1 / 127.5] * 3, [-1.0] * 3)
UNSCALED: Scaling = ([1.0] * 3, [0.0] * 3)  # for backbones with a scaling layer
# Mean and standard deviation of ImageNet's colors, as in `preprocess_input`, mode "torch".
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STANDARDIZED: Scaling = (
    [1 / (255 * std) for std in _STD],
    [-mean / std for mean, std in zip(_MEAN, _STD, strict=True)],
)


@dataclass(frozen=True)
class Backbone:
    """A network with the interface of keras.applications, and its preprocessing."""

    build: Callable[..., keras.Model]
    scaling: Scaling
    min_size: int  # pixels, minimum width and height of its input


def tiny(
    weights: None = None, include_top: bool = False, input_shape: tuple[int, int, int] | None = None
) -> keras.Model:
    """Four blocks of convolution, batch normalization and ReLU, with max pooling in between.

    25,000 weights, pretrained on phantoms (`pretraining`), for the demo and the tests.

    Args:
        weights: None only, as in keras.applications.
        include_top: False only, as in keras.applications.
        input_shape: (height, width, 3); None: any height and width.
    """
    image = keras.Input(input_shape or (None, None, 3))
    maps = image
    for number, filters in enumerate(TINY_FILTERS, start=1):
        if number > 1:
            maps = layers.MaxPooling2D(name=f"pool{number}")(maps)
        convolution = layers.Conv2D(
            filters, 3, padding="same", use_bias=False, name=f"conv{number}"
        )
        # Moving averages that converge within few steps, as the training is short.
        maps = layers.BatchNormalization(momentum=0.9, name=f"norm{number}")(convolution(maps))
        maps = layers.ReLU(name=f"relu{number}")(maps)
    return keras.Model(image, maps, name="tiny")


TINY_FILTERS = (8, 16, 32, 64)
BACKBONES = {
    "xception": Backbone(applications.Xception, TO_PLUS_MINUS_ONE, 71),
    "resnet50v2": Backbone(applications.ResNet50V2, TO_PLUS_MINUS_ONE, 32),
    "densenet121": Backbone(applications.DenseNet121, STANDARDIZED, 32),
    "mobilenetv2": Backbone(applications.MobileNetV2, TO_PLUS_MINUS_ONE, 32),
    "efficientnetv2b0": Backbone(applications.EfficientNetV2B0, UNSCALED, 32),
    "convnexttiny": Backbone(applications.ConvNeXtTiny, UNSCALED, 32),
    "tiny": Backbone(tiny, TO_PLUS_MINUS_ONE, 16),
}


def ensure_weights(path: Path, name: str, weights: str) -> None:
    """Make sure that `path` has the weights of a backbone without its top.

    Args:
        path: .weights.h5 file. For `imagenet`, an existing file is verified and kept.
        name: key of `BACKBONES`.
        weights: `imagenet`, downloaded by Keras, or `none`, random with a fixed seed.

    Raises:
        CxrError: the file does not fit the backbone, or the download failed.
    """
    if weights == "imagenet" and path.exists():
        load_backbone(name, path)
        print(f"Using existing weights {path}")
        return
    keras.utils.set_random_seed(0)
    source = "imagenet" if weights == "imagenet" else None
    try:
        backbone = BACKBONES[name].build(weights=source, include_top=False)
    except Exception as error:  # Keras wraps a failed download in a bare Exception
        raise CxrError(
            f"the ImageNet weights of {name} could not be downloaded ({error}).\n"
            "  Options:\n"
            "  1. try again later;\n"
            f"  2. place the weights file (Keras, without top, .weights.h5) at {path};\n"
            "  3. `dvc exp run -S transfer.weights=none` runs the pipeline with random weights."
        ) from error
    write_weights(path, backbone)


def write_weights(path: Path, backbone: keras.Model) -> None:
    """Write the weights of a backbone to a .weights.h5 file, atomically."""
    content = _weights_file(backbone)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _weights_file(model: keras.Model) -> bytes:
    """Content of a .weights.h5 file. It is taken from a .keras file, for which Keras writes HDF5
    in memory: writing to a full disk, HDF5 aborts the process.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        model.save(file)
        with zipfile.ZipFile(file) as archive:
            return archive.read("model.weights.h5")


def load_backbone(name: str, weights: Path) -> keras.Model:
    """Load a backbone without its top, for images of any size.

    Args:
        name: key of `BACKBONES`.
        weights: .weights.h5 file.

    Raises:
        CxrError: the file is missing, damaged or of another network.
    """
    backbone = BACKBONES[name].build(weights=None, include_top=False)
    try:
        backbone.load_weights(weights)
    except (OSError, ValueError, KeyError) as error:
        raise CxrError(
            f"{weights} does not fit {name} without top: {error}\n"
            "  Replace the file, or remove it to download it again."
        ) from error
    return backbone


def feature_extractor(
    name: str, weights: Path, image: keras.KerasTensor, preprocessing: str, pooling: str
) -> keras.KerasTensor:
    """Apply a frozen backbone to a symbolic input: gray uint8 (N, S, S, 1) -> float32 (N, D).

    Args:
        name: key of `BACKBONES`.
        weights: .weights.h5 file.
        image: symbolic input.
        preprocessing: `imagenet`, scaled as in its pretraining, or `none`, gray values 0-255.
        pooling: `avg`, global average pooling, or `flatten`.

    Raises:
        CxrError: the image is too small, or the file does not fit the backbone.
    """
    entry = BACKBONES[name]
    if image.shape[1] < entry.min_size:
        raise CxrError(f"image.input_size {image.shape[1]}: {name} needs at least {entry.min_size}")
    scale, offset = entry.scaling if preprocessing == "imagenet" else UNSCALED
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
    """Join backbone and trained head: gray uint8 (N, S, S, 1) -> probability float32 (N, 1)."""
    weights = paths.weights(params.backbone, params.weights)
    features = feature_extractor(
        params.backbone, weights, image, params.preprocessing, params.pooling
    )
    uncompiled = keras.Model(head.input, head.output, name=head.name)  # without optimizer state
    return keras.Model(image, uncompiled(features), name="transfer")
