"""`cxr export` writes ONNX and int8 networks, and keeps only accurate ones."""

import shutil
import sys
from pathlib import Path
from types import ModuleType

import keras
import numpy as np
import openvino
import pandas as pd
import pytest
from keras import layers

from cxr import cli, paths
from cxr.common import arrays
from cxr.compute.conversion import convert
from cxr.compute.runtimes import open_network, run_all
from cxr.errors import CxrError
from cxr.inference import formats
from tests.support.tiny import SIDE, export

MEMBERS = ("bright", "left")  # of the variant `both`
MIDDLE = SIDE // 2


def images_and_labels() -> tuple[np.ndarray, list[str]]:
    """Twenty dark NORMAL, twenty bright PNEUMONIA, of which two have a dark left half."""
    images = np.repeat(np.array([20, 200], np.uint8), 20)[:, None, None] * np.ones(
        (1, SIDE, SIDE), np.uint8
    )
    images[-2:, :, :MIDDLE], images[-2:, :, MIDDLE:] = 50, 250
    return images, ["NORMAL"] * 20 + ["PNEUMONIA"] * 20


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of a finished run that the command needs, in the working directory."""
    monkeypatch.chdir(tmp_path)
    images, labels = images_and_labels()
    for name in ("train", "val"):
        arrays.write_split(paths.ARRAYS / name, images, pd.DataFrame({"label": labels}))
    paths.EXPORTED.mkdir(parents=True)
    export(paths.EXPORTED)
    for name, cut in {"bright": 0, "left": MIDDLE}.items():
        image = keras.Input((SIDE, SIDE, 1), dtype="uint8", name="image")
        seen = layers.Cropping2D(((0, 0), (0, cut)))(image)
        mean = layers.GlobalAveragePooling2D()(layers.Rescaling(1 / 255)(seen))
        keras.Model(image, mean).save(paths.model(name))
    return tmp_path


def cxr_export(*arguments: str) -> None:
    given = cli.parser().parse_args(["export", *arguments])
    given.run(given)


@pytest.mark.parametrize(("variant", "networks"), [("", ("bright",)), ("both", MEMBERS)])
def test_onnx_of_each_member_agrees_with_openvino(
    project: Path, variant: str, networks: tuple[str, ...]
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    cxr_export("--onnx", "--variant", variant, "--into", "written")
    assert {file.name for file in Path("written").iterdir()} == {f"{n}.onnx" for n in networks}
    images = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE)).astype(np.uint8)
    for name in networks:
        session = onnxruntime.InferenceSession(f"written/{name}.onnx")
        found = session.run(None, {"image": images[..., np.newaxis]})[0]
        expected = run_all(open_network(paths.EXPORTED / f"{name}.xml"), images)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_onnx_that_differs_from_keras_is_not_kept(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = keras.Model.predict_on_batch
    monkeypatch.setattr(
        keras.Model, "predict_on_batch", lambda self, batch: predict(self, batch) + 2e-4
    )
    with pytest.raises(CxrError, match=r"bright\.onnx differs from Keras by 0\.0002; .* not kept"):
        cxr_export("--onnx", "--into", "written")
    assert not Path("written").exists()


@pytest.mark.parametrize(
    ("option", "package"), [("--onnx", "tf2onnx"), ("--onnx", "onnxruntime"), ("--int8", "nncf")]
)
def test_a_missing_package_is_named_with_its_extra(
    project: Path, monkeypatch: pytest.MonkeyPatch, option: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"{option} needs the package {package}: .* `pip install '\.\[onnx\]'`"
    with pytest.raises(CxrError, match=message):
        cxr_export(option)


def test_export_without_a_format_is_an_error(project: Path) -> None:
    with pytest.raises(CxrError, match="--onnx, --int8 or both"):
        cxr_export("--variant", "both")


def test_a_missing_keras_model_is_named(project: Path) -> None:
    paths.model("bright").unlink()
    with pytest.raises(CxrError, match=r"bright\.keras .*run `dvc repro`"):
        cxr_export("--onnx")


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Replace NNCF by a network that sees only the left half; gives the calibration images."""
    given: list[np.ndarray] = []

    def quantize(source: Path, target: Path, images: np.ndarray) -> None:
        given.append(images)
        for suffix in (".xml", ".bin"):
            shutil.copy(source.with_name(f"left{suffix}"), target.with_suffix(suffix))

    monkeypatch.setitem(sys.modules, "nncf", ModuleType("nncf"))
    monkeypatch.setattr(formats, "quantize", quantize)
    return given


@pytest.mark.parametrize(("drop", "kept"), [("0.05", False), ("0.15", True)])
def test_int8_is_kept_unless_recall_drops_too_much(
    project: Path,
    coarse: list[np.ndarray],
    capsys: pytest.CaptureFixture[str],
    drop: str,
    kept: bool,
) -> None:
    arguments = ("--int8", "--into", "written", "--max-recall-drop", drop)
    if kept:
        cxr_export(*arguments)
        files = {f"bright_int8{suffix}" for suffix in (".xml", ".bin")}
        assert {file.name for file in Path("written").iterdir()} == files
    else:
        with pytest.raises(CxrError, match=r"recall drops by more than 0\.05"):
            cxr_export(*arguments)
        assert not Path("written").exists()
    printed = capsys.readouterr().out
    assert "recall on validation: 1.0000 before, 0.9000 with int8" in printed
    assert "precision on validation: 1.0000 before, 1.0000 with int8" in printed


def test_int8_of_each_member_is_calibrated_on_training_images(
    project: Path, coarse: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "CALIBRATION", 4)
    cxr_export("--int8", "--variant", "both", "--into", "written", "--max-recall-drop", "1")
    written = {file.name for file in Path("written").glob("*.xml")}
    assert written == {f"{name}_int8.xml" for name in MEMBERS}
    images = images_and_labels()[0]
    for calibrated_on in coarse:
        np.testing.assert_array_equal(calibrated_on, images[[0, 13, 26, 39]])  # of both classes


@pytest.mark.parametrize("drop", ["-0.1", "1.1", "much"])
def test_an_invalid_recall_drop_is_an_error(drop: str) -> None:
    with pytest.raises(SystemExit):
        cxr_export("--int8", f"--max-recall-drop={drop}")


def test_int8_by_nncf_is_close_to_full_precision(tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    keras.utils.set_random_seed(0)
    image = keras.Input((SIDE, SIDE, 1), dtype="uint8")
    maps = layers.Conv2D(16, 3, activation="relu")(layers.Rescaling(1 / 255)(image))
    pooled = layers.GlobalAveragePooling2D()(layers.Conv2D(64, 3, activation="relu")(maps))
    model = keras.Model(image, layers.Dense(1, activation="sigmoid")(pooled))
    source, target = tmp_path / "net.xml", tmp_path / "net_int8.xml"
    openvino.save_model(convert(model), source, compress_to_fp16=False)
    images = np.random.default_rng(0).integers(0, 256, (20, SIDE, SIDE)).astype(np.uint8)
    for number in range(20):
        images[number, :, :number] = 0
    formats.quantize(source, target, images)
    expected = run_all(open_network(source), images)
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(run_all(open_network(target), images), expected, atol=0.005)
    sizes = [file.with_suffix(".bin").stat().st_size for file in (source, target)]
    assert sizes[1] < 0.5 * sizes[0]
    kinds = {
        operation.get_type_name() for operation in openvino.Core().read_model(target).get_ops()
    }
    assert "FakeQuantize" in kinds
