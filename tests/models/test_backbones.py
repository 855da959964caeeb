import importlib
from pathlib import Path
from typing import get_args

import keras
import numpy as np
import pytest

from cxr.errors import CxrError
from cxr.models import backbones
from cxr.params import TransferParams, read_params
from cxr.tools.project_copy import PROJECT
from tests.support.keras_modules import MODULES


def test_params_allow_exactly_the_tested_backbones() -> None:
    allowed = get_args(TransferParams.model_fields["backbone"].annotation)
    assert set(allowed) == set(backbones.BACKBONES) == {*MODULES, "tiny"}


@pytest.mark.parametrize("name", MODULES)
def test_preprocessing_equals_that_of_keras(name: str) -> None:
    module = importlib.import_module(f"keras.applications.{MODULES[name]}")
    gray = np.linspace(0, 255, 7, dtype="float32").reshape(1, 1, 7, 1)
    rgb = np.repeat(gray, 3, axis=-1)
    scale, offset = backbones.BACKBONES[name].scaling
    ours = keras.layers.Rescaling(scale, offset)(rgb)
    np.testing.assert_allclose(ours, module.preprocess_input(rgb.copy()), atol=1e-4)


def test_input_range_of_xception_is_minus_one_to_one() -> None:
    scale, offset = backbones.BACKBONES["xception"].scaling
    ends = np.array([0.0, 255.0])[:, None] * scale + offset
    np.testing.assert_allclose(ends, [[-1] * 3, [1] * 3])


@pytest.mark.slow
def test_preprocessing_none_keeps_the_gray_values(weights: Path) -> None:
    image = keras.Input((32, 32, 1), dtype="uint8")
    x = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 1), dtype=np.uint8)
    features = backbones.feature_extractor("mobilenetv2", weights, image, "none", "avg")
    gray = np.repeat(x, 3, -1).astype("float32")
    expected = backbones.load_backbone("mobilenetv2", weights)(gray).numpy().mean((1, 2))
    np.testing.assert_allclose(keras.Model(image, features)(x), expected, atol=1e-4)


def test_backbone_is_frozen(weights: Path) -> None:
    image = keras.Input((32, 32, 1), dtype="uint8")
    features = backbones.feature_extractor("mobilenetv2", weights, image, "imagenet", "avg")
    assert keras.Model(image, features).trainable_weights == []


def test_random_weights_are_deterministic(tmp_path: Path, weights: Path) -> None:
    again = tmp_path / "again.weights.h5"
    backbones.ensure_weights(again, "mobilenetv2", "none")
    # Not the bytes: names of layers depend on the layers created before.
    first, second = (backbones.load_backbone("mobilenetv2", path) for path in (weights, again))
    for one, other in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_existing_weights_are_kept(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = weights.read_bytes()
    built: list[object] = []
    entry = backbones.BACKBONES["mobilenetv2"]

    def build(weights: object, include_top: bool) -> keras.Model:
        built.append(weights)
        return entry.build(weights=weights, include_top=include_top)

    changed = backbones.Backbone(build, entry.scaling, entry.min_size)
    monkeypatch.setitem(backbones.BACKBONES, "mobilenetv2", changed)
    backbones.ensure_weights(weights, "mobilenetv2", "imagenet")
    assert built == [None]  # not "imagenet", which downloads
    assert weights.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"no weights", None])
def test_damaged_weights_raise_and_are_kept(
    tmp_path: Path, weights: Path, content: bytes | None
) -> None:
    path = tmp_path / "w.weights.h5"
    path.write_bytes(weights.read_bytes()[:50_000] if content is None else content)
    before = path.read_bytes()
    with pytest.raises(CxrError, match=r"w\.weights\.h5"):
        backbones.ensure_weights(path, "mobilenetv2", "imagenet")
    assert path.read_bytes() == before


@pytest.mark.filterwarnings("ignore:Skipping nested container")
def test_weights_of_another_backbone_raise(weights: Path) -> None:
    with pytest.raises(CxrError, match="tiny"):
        backbones.load_backbone("tiny", weights)


def test_failed_download_gives_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(weights: object, include_top: bool) -> keras.Model:
        raise Exception(f"URL fetch failure: {weights} {include_top}")

    changed = backbones.Backbone(offline, backbones.UNSCALED, 32)
    monkeypatch.setitem(backbones.BACKBONES, "xception", changed)
    path = tmp_path / "xception.weights.h5"
    with pytest.raises(CxrError) as error:
        backbones.ensure_weights(path, "xception", "imagenet")
    for option in (str(path), "transfer.weights=none"):
        assert option in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_too_small_images_raise(weights: Path) -> None:
    image = keras.Input((64, 64, 1), dtype="uint8")
    with pytest.raises(CxrError, match=r"image\.input_size 64: xception .* 71"):
        backbones.feature_extractor("xception", weights, image, "imagenet", "avg")


def test_model_is_head_on_features(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = read_params(PROJECT / "params.yaml").transfer
    params = params.model_copy(update={"backbone": "mobilenetv2"})
    monkeypatch.setattr(backbones.paths, "weights", lambda *_: weights)
    image = keras.Input((32, 32, 1), dtype="uint8")
    features = backbones.feature_extractor("mobilenetv2", weights, image, "imagenet", "avg")
    inputs = keras.Input(features.shape[1:])
    head = keras.Model(inputs, keras.layers.Dense(1, "sigmoid")(inputs), name="head")
    model = backbones.with_head(head, image, params)
    x = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1), dtype=np.uint8)
    np.testing.assert_allclose(model(x), head(keras.Model(image, features)(x)), atol=1e-5)
    pairs = zip(model.get_layer("head").weights, head.weights, strict=True)
    assert all(saved is trained for saved, trained in pairs)
