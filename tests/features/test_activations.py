"""A split backbone gives the outputs of the whole; activations match their images."""

import keras
import numpy as np
import pytest

from cxr.compute import engines
from cxr.errors import CxrError
from cxr.features import activations
from cxr.models import backbones, split_backbone
from cxr.params import read_params
from cxr.tools.project_copy import PROJECT
from tests.support.mobilenet import SIZE, cut, image_input, images, square_split

PARAMS = read_params(PROJECT / "params.yaml")


@pytest.fixture(scope="module")
def uncut(weights):
    """Feature maps of the whole backbone for three images."""
    rgb = np.repeat(images(3) / 127.5 - 1, 3, axis=-1).astype(np.float32)
    return backbones.load_backbone("mobilenetv2", weights)(rgb)


@pytest.mark.parametrize(
    "trainable_from", ["last_stage", "last_two_stages", "input", "block_16_expand"]
)
def test_both_parts_give_the_maps_of_the_backbone(weights, uncut, trainable_from):
    parts = cut(weights, trainable_from)
    np.testing.assert_allclose(parts.tuned(parts.frozen(images(3))), uncut, atol=1e-4)


def test_layer_that_cannot_be_cut_at_is_named(weights):
    for layer in ("nowhere", "block_16_add"):
        with pytest.raises(CxrError, match=rf"finetune.trainable_from '{layer}'.*last_stage"):
            cut(weights, layer)


@pytest.fixture
def split(tmp_path):
    return square_split(tmp_path / "split")


def grid_means():
    """A frozen part for images of any size: mean of each cell of an 8x8 grid."""
    image = keras.Input((None, None, 1), dtype="uint8")
    resized = keras.layers.Resizing(SIZE, SIZE)(image)
    pooled = keras.layers.AveragePooling2D(8)(keras.layers.Rescaling(1 / 255)(resized))
    return keras.Model(image, pooled)


def test_activations_of_images_and_augmented_versions(split, tmp_path):
    frozen = grid_means()
    arguments = (frozen, "tensorflow", split, 2, PARAMS.perturb)
    activations.write_augmented(tmp_path / "a.npy", *arguments)
    written = np.load(tmp_path / "a.npy")
    assert written.shape == (3, 12, 8, 8, 1)
    assert written.dtype == np.float16
    originals = frozen.predict(np.asarray(split.images)[..., None], verbose=0)
    np.testing.assert_allclose(written[0], originals, atol=1e-3)
    version = np.stack(list(activations.augmented_images(split, 2, PARAMS.perturb)))
    expected = frozen.predict(version[..., None], verbose=0)
    np.testing.assert_allclose(written[2], expected, atol=1e-3)
    assert np.abs(written[1] - written[2]).max() > 0.1
    activations.write_augmented(tmp_path / "b.npy", *arguments)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("inference_backend", ["openvino", "tensorflow"])
def test_activations_equal_those_of_models_of_fixed_size(
    weights, split, tmp_path, monkeypatch, inference_backend
):
    """Byte for byte, though one runner processes images of all sizes."""
    few_layers = cut(weights, "block_3_expand").frozen  # converted five times
    frozen, scales, runners = few_layers, (1, 0.5, 1.2), []
    runner = engines.runner
    monkeypatch.setattr(engines, "runner", lambda *args: runners.append(args) or runner(*args))
    activations.write_views(tmp_path / "views.npy", frozen, inference_backend, split, scales)
    arguments = (frozen, inference_backend, split, 0, PARAMS.perturb)
    activations.write_augmented(tmp_path / "originals.npy", *arguments)
    assert len(runners) == 2
    expected = []
    for scale in scales:
        image = image_input()
        model = keras.Model(image, frozen(split_backbone.rescale_view(image, scale)))
        run = runner(model, inference_backend)
        batches = activations.image_batches(split.images, len(split.images))
        expected.append(np.concatenate([run(batch).copy() for batch in batches]))
    expected = np.stack(expected).astype(np.float16)
    assert np.load(tmp_path / "views.npy").tobytes() == expected.tobytes()
    assert np.load(tmp_path / "originals.npy").tobytes() == expected[0].tobytes()


def test_views_are_padded_or_cropped(split, tmp_path):
    activations.write_views(tmp_path / "a.npy", grid_means(), "tensorflow", split, (1, 0.5, 2))
    original, padded, cropped = np.load(tmp_path / "a.npy")[..., 0]
    images = np.asarray(split.images) / 255
    np.testing.assert_allclose(original, images.reshape(12, 8, 8, 8, 8).mean((2, 4)), atol=1e-3)
    # Black border, and two cells of the original in one.
    assert not padded[:, [0, 1, 6, 7]].any() and not padded[:, :, [0, 1, 6, 7]].any()
    pairs = original.reshape(12, 4, 2, 4, 2).mean((2, 4))
    np.testing.assert_allclose(padded[:, 2:6, 2:6], pairs, atol=0.02)
    # Only the center, one cell of the original in two.
    halved = cropped.reshape(12, 4, 2, 4, 2).mean((2, 4))
    np.testing.assert_allclose(halved, original[:, 2:6, 2:6], atol=0.02)
