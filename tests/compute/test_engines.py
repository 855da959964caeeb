"""Either engine gives what the model gives; where OpenVINO cannot be used, an error says so."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from cxr.compute.engines import runner
from cxr.errors import CxrError
from cxr.models import backbones
from cxr.tools.project_copy import PROJECT

SIDE = 64


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "mobilenetv2.weights.h5"
    backbones.ensure_weights(path, "mobilenetv2", "none")
    image = keras.Input((SIDE, SIDE, 1), dtype="uint8", name="image")
    features = backbones.feature_extractor("mobilenetv2", path, image, "imagenet", "avg")
    return keras.Model(image, features)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 1)).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "tensorflow"])
def test_an_engine_gives_the_models_output(extractor, images, engine, capsys):
    found = runner(extractor, engine)(images)
    expected = extractor.predict_on_batch(images)
    assert found.dtype == np.float32 and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_openvino_gives_the_same_bytes_again_whatever_the_batch(extractor, images):
    run = runner(extractor, "openvino")
    whole = run(images).copy()
    np.testing.assert_array_equal(runner(extractor, "openvino")(images), whole)
    np.testing.assert_array_equal(run(images[:2]), whole[:2])


def test_a_missing_openvino_is_an_error_that_names_the_parameter(extractor, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(CxrError, match=r"(?s)OpenVINO cannot run .*transfer\.engine: tensorflow"):
        runner(extractor, "openvino")


def test_a_layer_that_openvino_lacks_is_an_error_that_names_the_parameter():
    image = keras.Input((4, 4, 1), dtype="uint8")
    model = keras.Model(image, keras.ops.erfinv(keras.ops.cast(image, "float32")), name="odd")
    with pytest.raises(CxrError, match=r"(?s)OpenVINO cannot run odd: .*transfer\.engine"):
        runner(model, "openvino")
    assert runner(model, "tensorflow")(np.zeros((2, 4, 4, 1), np.uint8)).shape == (2, 4, 4, 1)


@pytest.mark.slow
def test_an_engine_runs_the_weights_of_now(extractor, images):
    model = keras.models.clone_model(extractor)
    model.set_weights([weight * 0.9 for weight in extractor.get_weights()])
    expected = model.predict_on_batch(images)
    found = runner(model, "openvino")(images)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert np.abs(found).max() < 0.9 * np.abs(extractor.predict_on_batch(images)).max()


REPORTS_NOTHING = """
import keras, sys
from cxr.compute.engines import runner
image = keras.Input((8, 8, 1), dtype="uint8")
assert "openvino" not in sys.modules
runner(keras.Model(image, keras.layers.Rescaling(0.5)(image)), "openvino")
from openvino.tools.ovc.telemetry_utils import tm
assert tm.__name__.endswith("telemetry_stub"), tm
"""


@pytest.mark.slow
def test_openvino_reports_nothing_and_leaves_nothing_at_home(tmp_path):
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(PROJECT / "src")}
    subprocess.run([sys.executable, "-c", REPORTS_NOTHING], env=environment, check=True)
    assert not (tmp_path / "intel").exists()
