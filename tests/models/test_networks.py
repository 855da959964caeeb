"""The layers of the networks; tests/project/test_benchmarks.py compares with the notebook."""

import keras
import numpy as np
import pytest
from keras import layers

from cxr.models import networks
from cxr.params import Params, read_params
from cxr.tools.project_copy import PROJECT


@pytest.fixture
def params() -> Params:
    return read_params(PROJECT / "params.yaml")


def images(count: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 1), dtype=np.uint8)


def build(params: Params, size: int = 32) -> keras.Model:
    image = keras.Input((size, size, 1), dtype="uint8")
    return keras.Model(image, networks.apply(networks.small_cnn(params.model), image))


def test_layers_of_the_small_cnn_follow_the_parameters(params: Params) -> None:
    changed = params.model.model_copy(
        update={
            "filters": (5, 6, 7),
            "kernel_size": 2,
            "pool_size": 3,
            "conv_dropout": 0.1,
            "dense_units": 11,
            "dense_dropout": 0.2,
        }
    )
    stack = networks.small_cnn(changed)
    convs = [layer for layer in stack if isinstance(layer, layers.Conv2D)]
    assert [conv.filters for conv in convs] == [5, 6, 7]
    assert {conv.kernel_size for conv in convs} == {(2, 2)}
    pools = [layer for layer in stack if isinstance(layer, layers.MaxPooling2D)]
    assert {pool.pool_size for pool in pools} == {(3, 3)}
    drops = [layer.rate for layer in stack if isinstance(layer, layers.Dropout)]
    assert drops == [0.1, 0.1, 0.1, 0.2]
    assert [layer.units for layer in stack if isinstance(layer, layers.Dense)] == [11, 1]


def test_batch_norm_is_between_convolution_and_pooling(params: Params) -> None:
    changed = params.model.model_copy(update={"batch_norm": True})
    stack = networks.small_cnn(changed)
    names = [type(layer).__name__ for layer in stack]
    block = ["Conv2D", "BatchNormalization", "MaxPooling2D", "ReLU", "Dropout"]
    assert names[1:11] == block * 2
    assert [stack[2].momentum, stack[7].momentum] == [0.9, 0.9]


def test_average_pooling_is_global(params: Params) -> None:
    changed = params.model.model_copy(update={"pooling": "avg", "filters": (4, 6)})
    image = keras.Input((32, 32, 1), dtype="uint8")
    stack = networks.small_cnn(changed)
    position = next(i for i, layer in enumerate(stack) if layer.name == "avg")
    maps, means = (
        keras.Model(image, networks.apply(stack[:end], image))(images(3)).numpy()
        for end in (position, position + 1)
    )
    assert maps.shape == (3, 6, 6, 6)
    np.testing.assert_allclose(means, maps.mean((1, 2)), rtol=1e-5)


def test_output_is_one_probability_per_image(params: Params) -> None:
    output = build(params)(images(7)).numpy()
    assert output.shape == (7, 1)
    assert ((output > 0) & (output < 1)).all()


def augmenter(params: Params, **changes: object) -> keras.Model:
    image = keras.Input((32, 32, 1), dtype="uint8")
    changed = params.augment.model_copy(update=changes)
    return keras.Model(image, networks.apply(networks.augmentation(changed, seed=1), image))


def test_augmentation_is_active_in_training_only(params: Params) -> None:
    model, x = augmenter(params), images(4)
    np.testing.assert_array_equal(model(x, training=False), x)
    assert not np.allclose(model(x, training=True), x, atol=5)


@pytest.mark.parametrize(("key", "off"), [("flip", "none"), ("rotation", 0.0), ("zoom", 0.0)])
def test_each_augmentation_can_be_disabled(params: Params, key: str, off: object) -> None:
    all_off = {"flip": "none", "rotation": 0.0, "zoom": 0.0}
    names = {"flip": "RandomFlip", "rotation": "RandomRotation", "zoom": "RandomZoom"}
    without = networks.augmentation(params.augment.model_copy(update={key: off}), 1)
    assert {type(layer).__name__ for layer in without} == set(names.values()) - {names[key]}
    assert networks.augmentation(params.augment.model_copy(update=all_off), 1) == []


def test_flip_mirrors_some_images(params: Params) -> None:
    x = images(16)
    flipped = augmenter(params, rotation=0.0, zoom=0.0)(x, training=True).numpy()
    n_mirrored = sum(np.array_equal(a, b[:, ::-1]) for a, b in zip(flipped, x, strict=True))
    n_same = sum(np.array_equal(a, b) for a, b in zip(flipped, x, strict=True))
    assert n_mirrored + n_same == 16
    assert n_mirrored > 0
    assert n_same > 0


def test_transfer_head_takes_features(params: Params) -> None:
    head = networks.transfer_head((20,), params.transfer)
    assert head.output_shape == (None, 1)
    assert head.count_params() == 20 * 128 + 128 + 128 + 1
