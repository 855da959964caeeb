"""The cut through a backbone leaves its function as it is; activations belong to their images."""

import keras
import numpy as np
import pandas as pd
import pytest

from cxr.common.arrays import open_split, write_split
from cxr.compute import engines
from cxr.errors import CxrError
from cxr.features import activations
from cxr.models import backbones, split_backbone
from cxr.params import read_params
from cxr.tools.project_copy import PROJECT

PARAMS = read_params(PROJECT / "params.yaml")
SIDE = 64


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "mobilenetv2.weights.h5"
    backbones.ensure_weights(path, "mobilenetv2", "none")
    return path


def image_input():
    return keras.Input((SIDE, SIDE, 1), dtype="uint8", name="image")


def cut(weights, from_layer="last_stage"):
    return split_backbone.split_backbone("mobilenetv2", weights, "imagenet", SIDE, from_layer)


def images(count):
    return np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 1)).astype(np.uint8)


@pytest.fixture(scope="module")
def uncut(weights):
    """What the whole backbone gives for three images."""
    rgb = np.repeat(images(3) / 127.5 - 1, 3, axis=-1).astype(np.float32)
    return backbones.load_backbone("mobilenetv2", weights)(rgb)


@pytest.mark.parametrize(
    "from_layer", ["last_stage", "last_two_stages", "input", "block_16_expand"]
)
def test_the_halves_together_are_the_backbone(weights, uncut, from_layer):
    halves = cut(weights, from_layer)
    np.testing.assert_allclose(halves.tuned(halves.frozen(images(3))), uncut, atol=1e-4)


@pytest.mark.parametrize("name", backbones.BACKBONES)
def test_every_backbone_has_stages(name):
    side = max(96, backbones.BACKBONES[name].min_size)
    backbone = backbones.BACKBONES[name].build(
        weights=None, include_top=False, input_shape=(side, side, 3)
    )
    one, two = (split_backbone.stage_input(backbone, stages) for stages in (1, 2))
    assert side / 4 >= two.shape[1] > one.shape[1] >= backbone.output_shape[1]
    assert two.shape[1] < side / 4 or name == "tiny"  # which has fewer stages
    shares = [
        keras.Model(cut, backbone.output).count_params() / backbone.count_params()
        for cut in (one, two)
    ]
    assert 0.1 < shares[0] < shares[1] < 1


def test_a_layer_that_cannot_be_cut_at_is_named(weights):
    for layer in ("nowhere", "block_16_add"):
        with pytest.raises(CxrError, match=rf"finetune.trainable_from '{layer}'.*last_stage"):
            cut(weights, layer)


@pytest.fixture
def split(tmp_path):
    """Twelve images: a bright square for PNEUMONIA, a dark one for NORMAL."""
    labels = ["NORMAL", "PNEUMONIA"] * 6
    index = pd.DataFrame(
        {
            "path": [f"{n}.png" for n in range(12)],
            "label": labels,
            "pathogen": ["none", "virus", "none", "bacteria"] * 3,
        }
    )
    noise = np.random.default_rng(1).integers(0, 60, (12, SIDE, SIDE)).astype(np.uint8)
    noise[1::2, 16:48, 16:48] += 150
    write_split(tmp_path / "split", noise, index)
    return open_split(tmp_path / "split")


def eighths():
    """A frozen part that takes images of any size: the mean of each eighth of an image."""
    image = keras.Input((None, None, 1), dtype="uint8")
    resized = keras.layers.Resizing(SIDE, SIDE)(image)
    pooled = keras.layers.AveragePooling2D(8)(keras.layers.Rescaling(1 / 255)(resized))
    return keras.Model(image, pooled)


def test_activations_are_those_of_the_images_and_their_copies(split, tmp_path):
    frozen = eighths()
    arguments = (frozen, "tensorflow", split, 2, PARAMS.perturb)
    activations.write_augmented(tmp_path / "a.npy", *arguments)
    found = np.load(tmp_path / "a.npy")
    assert found.shape == (3, 12, 8, 8, 1)
    assert found.dtype == np.float16
    plain = frozen.predict(np.asarray(split.images)[..., None], verbose=0)
    np.testing.assert_allclose(found[0], plain, atol=1e-3)
    copy = np.stack(list(activations.perturbed(split, 2, PARAMS.perturb)))
    of_copy = frozen.predict(copy[..., None], verbose=0)
    np.testing.assert_allclose(found[2], of_copy, atol=1e-3)
    assert np.abs(found[1] - found[2]).max() > 0.1
    activations.write_augmented(tmp_path / "b.npy", *arguments)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "tensorflow"])
def test_views_and_copies_are_those_of_models_of_their_size(
    weights, split, tmp_path, monkeypatch, engine
):
    """Byte for byte, though one runner takes images of all sizes."""
    few_layers = cut(weights, "block_3_expand").frozen  # converted five times
    frozen, zooms, runners = few_layers, (1, 0.5, 1.2), []
    made = engines.runner
    monkeypatch.setattr(engines, "runner", lambda *given: runners.append(given) or made(*given))
    activations.write_views(tmp_path / "views.npy", frozen, engine, split, zooms)
    activations.write_augmented(tmp_path / "copies.npy", frozen, engine, split, 0, PARAMS.perturb)
    assert len(runners) == 2
    expected = []
    for zoom in zooms:
        image = image_input()
        run = made(keras.Model(image, frozen(split_backbone.rescale_view(image, zoom))), engine)
        batches = activations.in_batches(split.images, len(split.images))
        expected.append(np.concatenate([run(batch).copy() for batch in batches]))
    expected = np.stack(expected).astype(np.float16)
    assert np.load(tmp_path / "views.npy").tobytes() == expected.tobytes()
    assert np.load(tmp_path / "copies.npy").tobytes() == expected[0].tobytes()


def test_views_are_from_nearer_and_farther(split, tmp_path):
    activations.write_views(tmp_path / "a.npy", eighths(), "tensorflow", split, (1, 0.5, 2))
    plain, farther, nearer = np.load(tmp_path / "a.npy")[..., 0]
    images = np.asarray(split.images) / 255
    np.testing.assert_allclose(plain, images.reshape(12, 8, 8, 8, 8).mean((2, 4)), atol=1e-3)
    # Black all around, and each pair of eighths as one.
    assert not farther[:, [0, 1, 6, 7]].any() and not farther[:, :, [0, 1, 6, 7]].any()
    pairs = plain.reshape(12, 4, 2, 4, 2).mean((2, 4))
    np.testing.assert_allclose(farther[:, 2:6, 2:6], pairs, atol=0.02)
    # The middle alone, each eighth as two.
    halved = nearer.reshape(12, 4, 2, 4, 2).mean((2, 4))
    np.testing.assert_allclose(halved, plain[:, 2:6, 2:6], atol=0.02)
