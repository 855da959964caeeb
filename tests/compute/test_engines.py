"""Both backends give the outputs of the model; errors where OpenVINO cannot be used."""

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
from tests.support import mobilenet
from tests.support.mobilenet import image_input


@pytest.fixture(scope="module")
def extractor(weights):
    image = image_input()
    features = backbones.feature_extractor("mobilenetv2", weights, image, "imagenet", "avg")
    return keras.Model(image, features)


@pytest.fixture
def images():
    return mobilenet.images(5)


@pytest.mark.slow
@pytest.mark.parametrize("inference_backend", ["openvino", "tensorflow"])
def test_backend_gives_the_outputs_of_the_model(extractor, images, inference_backend, capsys):
    output = runner(extractor, inference_backend)(images)
    expected = extractor.predict_on_batch(images)
    assert output.dtype == np.float32 and output.shape == expected.shape
    np.testing.assert_allclose(output, expected, atol=1e-5 * np.abs(expected).max())
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_openvino_is_deterministic_for_any_batch_size(extractor, images):
    run = runner(extractor, "openvino")
    expected = run(images).copy()
    np.testing.assert_array_equal(runner(extractor, "openvino")(images), expected)
    np.testing.assert_array_equal(run(images[:2]), expected[:2])


def test_missing_openvino_raises_with_the_parameter(extractor, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(CxrError, match=r"transfer\.inference_backend: tensorflow"):
        runner(extractor, "openvino")


def test_unsupported_layer_raises_with_the_parameter():
    image = keras.Input((4, 4, 1), dtype="uint8")
    model = keras.Model(image, keras.ops.erfinv(keras.ops.cast(image, "float32")), name="odd")
    with pytest.raises(CxrError, match=r"(?s)odd.*transfer\.inference_backend"):
        runner(model, "openvino")
    assert runner(model, "tensorflow")(np.zeros((2, 4, 4, 1), np.uint8)).shape == (2, 4, 4, 1)


@pytest.mark.slow
def test_current_weights_are_used(extractor, images):
    model = keras.models.clone_model(extractor)
    model.set_weights([weight * 0.9 for weight in extractor.get_weights()])
    expected = model.predict_on_batch(images)
    output = runner(model, "openvino")(images)
    np.testing.assert_allclose(output, expected, atol=1e-5 * np.abs(expected).max())
    assert np.abs(output).max() < 0.9 * np.abs(extractor.predict_on_batch(images)).max()


NO_TELEMETRY = """
import keras, sys
from cxr.compute.engines import runner
image = keras.Input((8, 8, 1), dtype="uint8")
assert "openvino" not in sys.modules
runner(keras.Model(image, keras.layers.Rescaling(0.5)(image)), "openvino")
from openvino.tools.ovc.telemetry_utils import tm
assert tm.__name__.endswith("telemetry_stub"), tm
"""


@pytest.mark.slow
def test_openvino_telemetry_is_disabled(tmp_path):
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(PROJECT / "src")}
    subprocess.run([sys.executable, "-c", NO_TELEMETRY], env=environment, check=True)
    assert not (tmp_path / "intel").exists()
