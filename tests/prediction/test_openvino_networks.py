"""Exported networks agree with Keras for any batch size, and have reproducible bytes."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import openvino
import pytest

from cxr.compute.runtimes import open_network, run_all
from cxr.errors import CxrError
from cxr.prediction import networks
from cxr.tools.project_copy import PROJECT

SIZE = 16
IMAGES = np.random.default_rng(0).integers(0, 256, (40, SIZE, SIZE)).astype(np.uint8)

# A network with the layers of the real ones: scaling, test-time augmentation, shared layers, a
# probability; and rare ones: grouped convolutions, GELU, layer and other normalization.
NETWORK = f"""
import keras
from keras import layers
keras.utils.set_random_seed(0)
image = keras.Input(({SIZE}, {SIZE}, 1), dtype="uint8", name="image")
view = keras.Input((None, None, 1), dtype="uint8")
scaled = layers.Rescaling(1 / 255)(layers.Resizing({SIZE}, {SIZE})(view))
scaled = layers.Normalization(mean=[0.4], variance=[0.1])(scaled)
maps = layers.MaxPooling2D()(layers.SeparableConv2D(8, 3, activation="relu")(scaled))
maps = layers.Conv2D(8, 3, groups=4, activation="gelu")(layers.LayerNormalization()(maps))
pooled = layers.GlobalAveragePooling2D()(layers.BatchNormalization()(maps))
body = keras.Model(view, layers.Dense(1, activation="sigmoid")(pooled))
views = [body(image), body(layers.Cropping2D(1)(image)), body(layers.ZeroPadding2D(1)(image))]
model = keras.Model(image, layers.Average()(views))
"""

OTHER_PROCESS = f"""
import sys
from pathlib import Path
import numpy as np
from cxr.prediction import networks
{NETWORK}
images = np.zeros((1, {SIZE}, {SIZE}), np.uint8)
expected = model.predict_on_batch(images[..., None])
networks.write_compared(model, Path(sys.argv[1]), images, expected)
"""


def network() -> keras.Model:
    found: dict[str, keras.Model] = {}
    exec(NETWORK, found)
    return found["model"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported file of `network`."""
    file = tmp_path_factory.mktemp("exported") / "net.xml"
    keras.Sequential([keras.layers.Dense(1)])  # changes the numbers in Keras's default names
    model = network()
    expected = model.predict_on_batch(IMAGES[..., np.newaxis])
    networks.write_compared(model, file, IMAGES, expected)
    return file


@pytest.mark.slow
def test_network_agrees_with_keras_for_any_batch_size(exported: Path) -> None:
    expected = network().predict_on_batch(IMAGES[..., np.newaxis])
    assert np.ptp(expected) > 1e-3
    for count in (1, 40):
        found = run_all(open_network(exported), IMAGES[:count])
        np.testing.assert_allclose(found, expected[:count], atol=1e-6, strict=True)


@pytest.mark.slow
def test_two_processes_write_equal_bytes(exported: Path, tmp_path: Path) -> None:
    second = tmp_path / "net.xml"
    environment = {"PYTHONPATH": str(PROJECT / "src"), "PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-c", OTHER_PROCESS, second], env=environment, check=True)
    for suffix in (".xml", ".bin"):
        written = second.with_suffix(suffix).read_bytes()
        assert written == exported.with_suffix(suffix).read_bytes(), suffix


def test_input_and_output_are_named_and_the_batch_is_free(exported: Path) -> None:
    model = openvino.Core().read_model(exported)
    assert model.input("image").element_type == openvino.Type.u8
    assert str(model.input("image").partial_shape) == f"[?,{SIZE},{SIZE},1]"
    assert str(model.output("output").partial_shape) == "[?,1]"


def test_a_damaged_or_missing_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "net.xml"
    with pytest.raises(CxrError, match=r"(?s)net\.xml cannot be read.*dvc repro export"):
        open_network(file)
    file.write_bytes(b"nothing")
    with pytest.raises(CxrError, match=r"net\.xml cannot be read"):
        open_network(file)


@pytest.mark.slow
def test_outputs_that_differ_from_keras_are_an_error(tmp_path: Path) -> None:
    model = network()
    file = tmp_path / "net.xml"
    expected = model.predict_on_batch(IMAGES[..., np.newaxis])
    found = networks.write_compared(model, file, IMAGES, expected)
    assert found["bytes"] == sum(part.stat().st_size for part in tmp_path.iterdir())
    assert found["difference"] < 1e-6
    expected[7] += 2e-4
    with pytest.raises(CxrError, match=r"net\.xml differs from Keras by 0\.0002"):
        networks.write_compared(model, file, IMAGES, expected)


def test_a_model_that_predicts_nan_is_reported(tmp_path: Path) -> None:
    expected = np.full((40, 1), np.nan)
    with pytest.raises(CxrError, match="net predicts NaN; train it again"):
        networks.write_compared(network(), tmp_path / "net.xml", IMAGES, expected)


@pytest.mark.slow
def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """As on a full disk: a file may have one byte."""
    code = f"""
import resource, sys
from pathlib import Path
import numpy as np
from cxr.errors import run_stage
from cxr.prediction import networks
{NETWORK}
images = np.zeros((1, {SIZE}, {SIZE}), np.uint8)
expected = model.predict_on_batch(images[..., None])
resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
run_stage(lambda: networks.write_compared(model, Path(sys.argv[1]), images, expected))
"""
    environment = {"PYTHONPATH": str(PROJECT / "src")}
    command = [sys.executable, "-c", code, tmp_path / "net.xml"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "net.xml cannot be written" in done.stderr
    assert "Traceback" not in done.stderr


WITHOUT_KERAS = """
import sys
from pathlib import Path
from cxr.compute.runtimes import open_network
open_network(Path(sys.argv[1]))
assert not {"keras", "tensorflow", "onnxruntime"} & set(sys.modules)
"""


def test_a_network_runs_without_keras(exported: Path) -> None:
    environment = {"PYTHONPATH": str(PROJECT / "src")}
    command = [sys.executable, "-c", WITHOUT_KERAS, exported]
    subprocess.run(command, env=environment, check=True)
