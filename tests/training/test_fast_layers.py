"""The fast layers have the outputs and gradients of Keras layers, the fast Adam its steps."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from cxr.models import networks
from cxr.params import read_params
from cxr.tools.project_copy import PROJECT
from cxr.training import fast_layers
from cxr.training.trainer import optimizer

PARAMS = read_params(PROJECT / "params.yaml")


def images(count, size=32):
    """Noise with a black border, where all values of a pooling window are equal."""
    found = np.random.default_rng(0).integers(0, 256, (count, size, size, 1)).astype(np.uint8)
    found[:, : size // 4] = 0
    return found


def both(size=32, **changes):
    """The network of Keras layers, and the fast one with the same weights."""
    params = PARAMS.model.model_copy(update=changes)
    image = keras.Input((size, size, 1), dtype="uint8")
    stack = networks.small_cnn(params)
    standard = keras.Model(image, networks.apply(stack, image))
    fast = keras.Model(image, networks.apply(fast_layers.for_training(stack), image))
    for weight in standard.weights:  # biases too
        weight.assign(keras.random.normal(weight.shape, stddev=0.1, seed=len(weight.path)))
    return standard, fast


def gradients(model, rows):
    labels = np.arange(len(rows))[:, np.newaxis] % 2
    with tf.GradientTape() as tape:
        loss = keras.losses.binary_crossentropy(labels, model(rows, training=True))
    found = tape.gradient(loss, [weight.value for weight in model.trainable_weights])
    return dict(zip((w.path for w in model.trainable_weights), found, strict=True))


SHAPES = [
    {},
    {"size": 33},
    {"pool_size": 3, "size": 31},
    {"kernel_size": 5},
    {"filters": (4, 8, 8), "size": 64},
    {"batch_norm": True},
]


@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_same_outputs_and_gradients(changes):
    standard, fast = both(conv_dropout=0.0, dense_dropout=0.0, **changes)
    rows = images(6, changes.get("size", 32))
    assert {w.path for w in fast.weights} == {w.path for w in standard.weights}
    np.testing.assert_allclose(fast(rows), standard(rows), atol=1e-5)
    expected, found = gradients(standard, rows), gradients(fast, rows)
    for path, gradient in expected.items():
        np.testing.assert_allclose(found[path], gradient, atol=1e-5, rtol=1e-5)


ON_JAX = """
import keras
import numpy as np
from test_fast_layers import both, images
assert keras.backend.backend() == "jax"
standard, fast = both(31, pool_size=3, filters=(4,), dense_units=4)
rows = images(4, 31)
np.testing.assert_allclose(fast(rows), standard(rows), atol=1e-5)
before = [np.asarray(weight) for weight in fast.trainable_weights]
fast.compile("sgd", "binary_crossentropy")
fast.fit(rows, np.array([0, 1, 0, 1]), verbose=0)  # dropout too
assert any((a != b).any() for a, b in zip(before, map(np.asarray, fast.trainable_weights)))
"""


@pytest.mark.slow
def test_fast_layers_run_on_jax():
    done = subprocess.run(
        [sys.executable, "-c", ON_JAX],
        env=os.environ | {"KERAS_BACKEND": "jax", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_convolutions_before_pooling_and_dropout_are_replaced():
    _, fast = both(filters=(4, 8))
    kinds = [type(layer).__name__ for layer in fast.layers]
    assert kinds.count("ConvPool") == 2 and kinds.count("ByteDropout") == 3
    assert kinds.count("Conv2D") == kinds.count("MaxPooling2D") == 0
    _, fast = both(batch_norm=True)
    assert "ConvPool" not in [type(layer).__name__ for layer in fast.layers]


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5])
def test_dropout_drops_its_rate_and_keeps_the_mean(rate):
    layer = fast_layers.ByteDropout(rate)
    rows = np.ones((50, 7, 9, 11), np.float32)
    found = np.asarray(layer(rows, training=True))
    assert (found == 0).mean() == pytest.approx(rate, abs=0.01)
    assert found.mean() == pytest.approx(1, abs=0.02)
    assert len(np.unique(found)) <= 2
    np.testing.assert_array_equal(layer(rows), rows)


def test_dropout_varies_between_calls_and_repeats_by_seed():
    rows = np.ones((4, 50), np.float32)
    masks = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        layer = fast_layers.ByteDropout(0.5)
        masks += [np.asarray(layer(rows, training=True)) for _ in range(2)]
    np.testing.assert_array_equal(masks[0], masks[2])
    np.testing.assert_array_equal(masks[1], masks[3])
    assert 0.4 < (masks[0] == masks[1]).mean() < 0.6
    assert len(np.unique(masks[0], axis=0)) == 4  # one mask for each image


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_adam_equals_keras_adam(decay, schedule):
    update = {"weight_decay": decay, "schedule": schedule}
    ours = optimizer(PARAMS.model.model_copy(update=update), 10)
    rate = ours._learning_rate if schedule == "cosine" else PARAMS.model.learning_rate
    theirs = (
        keras.optimizers.AdamW(rate, weight_decay=decay) if decay else keras.optimizers.Adam(rate)
    )
    start = np.random.default_rng(1).normal(size=(30, 20)).astype(np.float32)
    ends = []
    for adam in (ours, theirs):
        rng, weight = np.random.default_rng(2), keras.Variable(start)
        for _ in range(10):
            adam.apply([tf.constant(rng.normal(size=start.shape).astype(np.float32))], [weight])
        ends.append(np.asarray(weight))
    assert np.abs(ends[1] - start).max() > 1e-3
    np.testing.assert_allclose(*ends, atol=1e-6)


def test_saved_models_have_only_keras_layers(tmp_path):
    standard, fast = both()
    fast.compile("sgd", "binary_crossentropy")
    fast.fit(images(4), np.array([0, 1, 0, 1]), verbose=0)
    standard.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(loaded(images(4)), fast(images(4)), atol=1e-6)
    modules = {type(layer).__module__.split(".")[0] for layer in loaded.layers}
    assert modules == {"keras"}
