"""Tests of every backbone that params.yaml offers; each is built once, which takes seconds."""

import importlib
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pytest

from cxr.compute.runtimes import run_all
from cxr.models import backbones, split_backbone
from cxr.prediction import networks
from tests.support.keras_modules import MODULES

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Built:
    """A backbone with random weights for square images of `size` pixels."""

    name: str
    size: int
    model: keras.Model

    def features(self, image: keras.KerasTensor, pooling: str) -> keras.KerasTensor:
        args = (self.name, Path("no weights"), image, "imagenet", pooling)
        return backbones.feature_extractor(*args)


@pytest.fixture(scope="module", params=backbones.BACKBONES)
def built(request: pytest.FixtureRequest) -> Built:
    entry = backbones.BACKBONES[request.param]
    size = max(96, entry.min_size)
    keras.utils.set_random_seed(0)
    model = entry.build(weights=None, include_top=False, input_shape=(size, size, 3))
    return Built(request.param, size, model)


@pytest.fixture(autouse=True)
def _loaded(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "load_backbone", lambda *_: built.model)


def images(built: Built, count: int) -> np.ndarray:
    shape = (count, built.size, built.size)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def test_features_are_those_of_keras(built: Built) -> None:
    if built.name not in MODULES:
        pytest.skip("keras.applications does not have it")
    module = importlib.import_module(f"keras.applications.{MODULES[built.name]}")
    x = images(built, 2)[..., np.newaxis]
    rgb = np.repeat(x, 3, -1).astype("float32")
    maps = built.model(module.preprocess_input(rgb)).numpy()
    image = keras.Input(x.shape[1:], dtype="uint8")
    for pooling, expected in {"avg": maps.mean((1, 2)), "flatten": maps.reshape(2, -1)}.items():
        features = built.features(image, pooling)
        assert features.shape == (None, expected.shape[1])
        np.testing.assert_allclose(keras.Model(image, features)(x), expected, atol=1e-4)


def test_it_converts_to_openvino(built: Built, tmp_path: Path) -> None:
    """Compared after normalization to length 1: features of random weights are tiny."""
    image = keras.Input((built.size, built.size, 1), dtype="uint8")
    model = keras.Model(image, keras.layers.UnitNormalization()(built.features(image, "avg")))
    x = images(built, 4)
    expected = run_all(model.predict_on_batch, x)
    found = networks.write_compared(model, tmp_path / "net.xml", x, expected)
    assert np.abs(expected).max() > 0.01
    assert found["difference"] <= networks.MAX_DIFFERENCE


def test_its_last_stages_can_be_cut_off(built: Built) -> None:
    one, two = (split_backbone.stage_input(built.model, stages) for stages in (1, 2))
    assert built.size / 4 >= two.shape[1] > one.shape[1] >= built.model.output_shape[1]
    assert two.shape[1] < built.size / 4 or built.name == "tiny"  # it has fewer stages
    fractions = [
        keras.Model(cut, built.model.output).count_params() / built.model.count_params()
        for cut in (one, two)
    ]
    assert 0.1 < fractions[0] < fractions[1] < 1
