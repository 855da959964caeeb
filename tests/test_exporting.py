"""Exported files give what Keras gives, in any batch, with equal bytes, and are kept only so."""

import gc
import json
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pandas as pd
import pytest
import tf2onnx
from conftest import Project

from cxr import exporting, external, labelled, paths
from cxr.arrays import Split
from cxr.demo import PROJECT
from cxr.errors import CxrError
from cxr.params import read_params
from cxr.runtimes import open_network, run_all
from cxr.variants import TRAINED, VARIANTS

SIDE = 16
IMAGES = np.random.default_rng(0).integers(0, 256, (40, SIDE, SIDE)).astype(np.uint8)

# A network with what the real ones have: scaling, views by zoom, shared layers, a probability, and
# of EfficientNet and ConvNeXt what ONNX needs in other words.
NETWORK = f"""
import keras
from keras import layers
keras.utils.set_random_seed(0)
image = keras.Input(({SIDE}, {SIDE}, 1), dtype="uint8", name="image")
view = keras.Input((None, None, 1), dtype="uint8")
scaled = layers.Rescaling(1 / 255)(layers.Resizing({SIDE}, {SIDE})(view))
scaled = layers.Normalization(mean=[0.4], variance=[0.1])(scaled)
maps = layers.MaxPooling2D()(layers.SeparableConv2D(8, 3, activation="relu")(scaled))
maps = layers.Conv2D(8, 3, groups=4, activation="gelu")(maps)
pooled = layers.GlobalAveragePooling2D()(layers.BatchNormalization()(maps))
body = keras.Model(view, layers.Dense(1, activation="sigmoid")(pooled))
views = [body(image), body(layers.Cropping2D(1)(image)), body(layers.ZeroPadding2D(1)(image))]
model = keras.Model(image, layers.Average()(views))
"""


def network() -> keras.Model:
    found: dict[str, keras.Model] = {}
    exec(NETWORK, found)
    return found["model"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the files of `network`, written by a process of its own."""
    return export_elsewhere(tmp_path_factory.mktemp("exported"), "1")


def export_elsewhere(folder: Path, hash_seed: str) -> Path:
    program = (
        "import sys; from pathlib import Path; import numpy as np; from cxr import exporting\n"
        f"{NETWORK}\n"
        "stem = Path(sys.argv[1]) / 'net'; exporting.export_network(model, stem)\n"
        f"images = np.random.default_rng(1).integers(0, 256, (8, {SIDE}, {SIDE})).astype('uint8')\n"
        "int8 = stem.with_name('net_int8.onnx')\n"
        "exporting.quantise(stem.with_suffix('.onnx'), int8, images)\n"
    )
    environment = {"PYTHONPATH": str(PROJECT / "src"), "PYTHONHASHSEED": hash_seed}
    subprocess.run([sys.executable, "-c", program, folder], env=environment, check=True)
    return folder


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
@pytest.mark.parametrize("count", [1, 40])
def test_a_file_gives_what_keras_gives_for_any_number_of_images(
    exported: Path, suffix: str, count: int
) -> None:
    found = run_all(open_network(exported / f"net{suffix}"), IMAGES[:count])
    expected = network().predict_on_batch(IMAGES[:count, ..., np.newaxis])
    assert found.dtype == np.float32 and found.shape == (count, 1)
    assert np.ptp(expected) > 1e-3 or count == 1  # not one number for all images
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_two_processes_write_equal_bytes(exported: Path, tmp_path: Path) -> None:
    again = export_elsewhere(tmp_path, "2")
    names = {"net.onnx", "net.xml", "net.bin", "net_int8.onnx"}
    assert {file.name for file in again.iterdir()} == names
    for name in names:
        assert (again / name).read_bytes() == (exported / name).read_bytes(), name


def test_input_is_bytes_and_the_batch_is_free(exported: Path) -> None:
    for name in ("net.onnx", "net_int8.onnx"):
        graph = onnx.load(exported / name).graph
        (image,), (output,) = graph.input, graph.output
        assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
        sides = image.type.tensor_type.shape.dim
        assert [side.dim_param or side.dim_value for side in sides] == ["N", SIDE, SIDE, 1]
        assert output.type.tensor_type.shape.dim[0].dim_param == "N"


def test_8_bits_are_near_and_smaller_weights(exported: Path) -> None:
    found = run_all(open_network(exported / "net_int8.onnx"), IMAGES)
    expected = network().predict_on_batch(IMAGES[..., np.newaxis])
    np.testing.assert_allclose(found, expected, atol=0.02)
    kinds = {node.op_type for node in onnx.load(exported / "net_int8.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_a_damaged_or_missing_file_is_named(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"net{suffix}"
    with pytest.raises(CxrError, match=rf"net\{suffix} cannot be used.*dvc repro export"):
        open_network(file)
    file.write_bytes(b"nothing")
    with pytest.raises(CxrError, match=rf"net\{suffix} cannot be used"):
        open_network(file)


def test_a_conversion_leaves_nothing_of_its_converter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph of tf2onnx holds all weights, some copies of them, and itself."""
    graph = tf2onnx.graph.Graph
    made = []
    of_graph = graph.__init__

    def note(self: Any, *args: Any, **options: Any) -> None:
        made.append(weakref.ref(self))
        of_graph(self, *args, **options)

    monkeypatch.setattr(graph, "__init__", note)
    gc.disable()  # else it may happen to come by
    try:
        exporting.export_network(network(), tmp_path / "net")
        assert made and not [found for found in made if found() is not None]
    finally:
        gc.enable()


def test_other_results_than_those_of_keras_are_refused(tmp_path: Path) -> None:
    model = network()
    expected = model.predict_on_batch(IMAGES[..., np.newaxis])
    found = exporting.export_compared(model, tmp_path / "net", IMAGES, expected)
    assert found["onnx"]["bytes"] == (tmp_path / "net.onnx").stat().st_size
    assert max(found[kind]["difference"] for kind in ("onnx", "openvino")) < 1e-6
    expected[7] += 2e-4
    with pytest.raises(CxrError, match=r"net\.onnx differs from Keras by 0\.0002"):
        exporting.export_compared(model, tmp_path / "net", IMAGES, expected)


@pytest.mark.parametrize("recommended", ["baseline", "ensemble", "mirrored ensemble"])
@pytest.mark.parametrize("recall_after", [1.0, 0.95, 0.9])
def test_8_bits_are_kept_where_recall_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recommended: str, recall_after: float
) -> None:
    of_mirrored = ["_mirrored"] if recommended.startswith("mirrored") else []
    recommended = recommended.split()[-1]
    labels = np.repeat([0, 1], 20)
    ill = pd.DataFrame({"label": np.where(labels, "PNEUMONIA", "NORMAL")})
    val = Split(IMAGES, ill)
    exact = np.where(labels, 0.9, 0.1)
    coarse = exact.copy()
    coarse[20 : 20 + round(20 * (1 - recall_after))] = 0.1
    calibrated_on: list[np.ndarray] = []

    def quantise(file: Path, target: Path, images: np.ndarray) -> None:
        calibrated_on.append(images)
        target.write_bytes(b"8" * 10)

    monkeypatch.setattr(exporting, "quantise", quantise)
    monkeypatch.setattr(exporting, "open_network", lambda file: None)
    monkeypatch.setattr(exporting, "run_all", lambda run, images: coarse[:, np.newaxis])
    evaluation = {
        variant: {
            "operating_point": {
                "threshold": 0.5,
                "selection": {"precision": float(variant == recommended), "recall": 1.0},
            },
            "selection": {"roc_auc": 0.9},
        }
        for variant in VARIANTS
    }
    scale = {"slope": 1.0, "intercept": 0.0}
    evaluation["ensemble"]["scales"] = {"transfer": scale, "finetuned": scale}
    columns = dict.fromkeys(TRAINED, exact)
    # So sure that recall stayed if the mirror images were not seen anew.
    columns |= {f"{name}{view}": exact + 0.09 for name in TRAINED for view in of_mirrored}
    predictions = pd.DataFrame(columns, index=range(7, 47))
    train = Split(np.repeat(IMAGES, 10, axis=0), ill)
    found = exporting.export_int8(tmp_path, train, val, evaluation, predictions, 0.06)
    members = ["transfer", "finetuned"] if recommended == "ensemble" else [recommended]
    kept = recall_after > 0.93
    assert found == {
        recommended: {
            "before": {"recall": 1.0, "precision": 1.0},
            "after": {"recall": recall_after, "precision": 1.0},
            "bytes": 10 * len(members),
            "kept": kept,
        }
    }
    files = {f"{name}_int8.onnx" for name in members} if kept else set()
    assert {file.name for file in tmp_path.iterdir()} == files
    assert [len(images) for images in calibrated_on] == [exporting.CALIBRATION] * len(members)
    np.testing.assert_array_equal(calibrated_on[0][-1], train.images[-1])  # all along the index


WITHOUT_KERAS = """
import sys
from pathlib import Path
from cxr.runtimes import open_network
open_network(Path(sys.argv[1]))
assert not {"keras", "tensorflow", "onnxruntime"} & set(sys.modules)
"""


def test_a_network_runs_without_keras(exported: Path) -> None:
    environment = {"PYTHONPATH": str(PROJECT / "src")}
    command = [sys.executable, "-c", WITHOUT_KERAS, exported / "net.xml"]
    subprocess.run(command, env=environment, check=True)


@pytest.mark.slow
def test_the_stage_writes_all_that_prediction_needs(finished: Project) -> None:
    folder = finished.folder / paths.EXPORTED
    metrics = json.loads((finished.folder / paths.EXPORT).read_text())
    settings = json.loads((folder / "settings.json").read_text())
    int8 = metrics["int8"][settings["recommended"]]
    expected = {"settings.json", "model_card.md", "familiar.npz", "reference.csv"}
    expected |= {"features.xml", "features.bin"}
    expected |= {f"{v}{end}" for v in TRAINED for end in (".onnx", ".xml", ".bin")}
    found = {file.name for file in folder.iterdir()}
    assert {name for name in found if not name.endswith("_int8.onnx")} == expected
    assert any(name.endswith("_int8.onnx") for name in found) == int8["kept"]
    assert set(metrics) == {*TRAINED, "features", "int8", "drift", "false_alarms", "alarms"}
    assert {"test", "dark"} <= set(metrics["drift"]["marked"])

    evaluation = json.loads((finished.folder / paths.EVALUATION).read_text())
    params = read_params(finished.folder / "params.yaml")
    assert settings["image"] == params.image.model_dump()
    assert settings["evaluate"] == params.evaluate.model_dump(mode="json")
    for variant in VARIANTS:
        threshold = evaluation[variant]["operating_point"]["threshold"]
        assert settings["variants"][variant]["threshold"] == threshold
        assert set(settings["variants"][variant]["scale"]) == {"slope", "intercept"}
    ensemble = settings["variants"]["ensemble"]
    assert ensemble["members"] == evaluation["ensemble"]["scales"] and not ensemble["mirrored"]
    manifest = pd.read_csv(finished.folder / paths.ARRAYS / "train/index.csv")
    ratios = manifest["width"] / manifest["height"]
    assert settings["trained_on"]["aspect_ratio"] == [ratios.min(), ratios.max()]
    least, most = settings["trained_on"]["shorter_side"]
    assert least == min(manifest["width"].min(), manifest["height"].min()) <= most


@pytest.mark.slow
def test_the_stage_gives_the_same_bytes_again(finished: Project) -> None:
    outputs = finished.outputs()["export"]
    before = finished.contents(outputs)
    finished.run("dvc repro --force --single-item export")
    assert finished.contents(outputs) == before


@pytest.mark.slow
def test_foreign_images_are_judged_as_the_pipelines_own(finished: Project) -> None:
    """The pipeline's test, taken for a folder that somebody else has labelled."""
    raw = finished.folder / paths.raw("phantom")
    networks = external.AllVariants(finished.folder / paths.EXPORTED)
    found = external.evaluate(networks, labelled.find(raw / "test")).images
    expected = pd.read_csv(finished.folder / paths.PREDICTIONS)
    expected = expected[expected["split"] == "test"]
    both = found.assign(path="test/" + found["file"]).merge(
        expected, on="path", suffixes=("", "_expected"), validate="one_to_one"
    )
    assert len(both) == len(found) == len(expected) > 10
    for column in ("label", "patient"):
        assert (both[column] == both[f"{column}_expected"]).all()
    for variant in VARIANTS:
        # What the pipeline has cached of the fine-tuned variant is in half precision.
        tolerance = 1e-4 if variant in ("baseline", "augmented") else 5e-3
        np.testing.assert_allclose(both[variant], both[f"{variant}_expected"], atol=tolerance)
