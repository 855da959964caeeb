"""Heatmaps follow the formula and point at the disease.

The networks are small versions of the variants, trained for seconds on phantoms. Where the disease
is drawn is known: two phantoms from the same generator state, with and without it, differ there.
"""

import json
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import keras
import numpy as np
import pytest
from keras import layers
from numpy.typing import NDArray
from PIL import Image

from cxr import cli
from cxr.data import phantom
from cxr.data.transforms import prepare
from cxr.errors import CxrError
from cxr.inference import gradcam
from cxr.inference.gradcam import Explainer, heatmap, mean_map, overlay
from cxr.inference.predict import HEATMAP_SUFFIX, Predictor
from cxr.inference.radiograph import Radiograph
from cxr.models import backbones
from cxr.models.networks import apply, small_cnn, transfer_head
from cxr.params import read_params
from cxr.tools.project_copy import PROJECT
from cxr.training.finetuning import whole_model, with_outputs
from tests.support.serving import export_with_keras
from tests.support.tiny import export

SIDE = 64
PARAMS = read_params(PROJECT / "params.yaml")
PREPARED = PARAMS.image.model_copy(update={"input_size": SIDE})
HELD_OUT = range(1000, 1060)  # seeds of phantoms not used in training
Gray = NDArray[np.uint8]
Heat = NDArray[np.float32]


# --- phantoms and networks trained on them -------------------------------------------------------


@cache
def drawn(number: int, pathogen: str) -> Gray:
    """Network input of a phantom, uint8 (SIDE, SIDE)."""
    rng = np.random.default_rng([8, number])
    return prepare(
        Image.fromarray(phantom.generate_image(rng, pathogen, short_side=SIDE)), PREPARED
    )


def opacity(number: int) -> NDArray[np.bool_]:
    """Where the disease of `drawn(number, "bacteria")` adds at least half of its maximum."""
    added = drawn(number, "bacteria").astype(float) - drawn(number, "none")
    return added > added.max() / 2


@cache
def training() -> tuple[Gray, NDArray[np.int64]]:
    """Phantoms (N, SIDE, SIDE, 1), and which of them are positive (N,)."""
    positive = np.arange(600) % 2
    images = [drawn(number, ("none", "bacteria")[one]) for number, one in enumerate(positive)]
    return np.stack(images)[..., np.newaxis], positive


def fit(model: keras.Model, rows: Any, targets: Any, epochs: int) -> None:
    loss = "categorical_crossentropy" if model.output_shape[-1] > 1 else "binary_crossentropy"
    model.compile(keras.optimizers.Adam(0.002), loss)
    model.fit(rows, targets, batch_size=16, epochs=epochs, verbose=0)


def small() -> keras.Model:
    """Like baseline and augmented."""
    images, positive = training()
    milder = {"filters": (16, 16), "dense_units": 32, "conv_dropout": 0.1, "dense_dropout": 0.1}
    image = keras.Input((SIDE, SIDE, 1), dtype="uint8")
    stack = small_cnn(PARAMS.model.model_copy(update=milder))
    model = keras.Model(image, apply(stack, image), name="small")
    fit(model, images, positive, 8)
    return model


def transfer() -> keras.Model:
    """Like transfer, with random weights: a backbone and a head."""
    image = keras.Input((SIDE, SIDE, 1), dtype="uint8")
    rgb = keras.Input((None, None, 3))
    maps = layers.Conv2D(16, 3, 2, activation="relu")(rgb)
    maps = layers.Conv2D(32, 3, 2, activation="relu")(maps)
    backbone = keras.Model(rgb, maps, name="backbone")
    params = PARAMS.transfer.model_copy(update={"backbone": "resnet50v2"})  # takes small images
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "load_backbone", lambda *_: backbone)
        return backbones.with_head(transfer_head((32,), params), image, params)


def finetuned() -> keras.Model:
    """Like finetuned: frozen and trained part, softmax over three classes, three views."""
    images, positive = training()
    view = keras.Input((None, None, 1), dtype="uint8")
    gray = layers.Rescaling(1 / 255)(layers.Resizing(SIDE, SIDE)(view))
    lower_input = keras.Input((SIDE, SIDE, 1))
    lower = keras.Model(lower_input, layers.MaxPooling2D(4)(layers.Conv2D(8, 3)(lower_input)))
    frozen = keras.Model(view, lower(gray))
    activations = keras.Input(frozen.output_shape[1:])
    maps = layers.MaxPooling2D()(layers.Conv2D(16, 3, activation="relu")(activations))
    maps = layers.Conv2D(32, 3, activation="relu")(maps)
    learner = with_outputs(keras.Model(activations, maps), PARAMS.finetune)
    virus = np.zeros(len(positive))
    fit(learner, np.asarray(frozen(images)), np.column_stack([1 - positive, positive, virus]), 12)
    image = keras.Input((SIDE, SIDE, 1), dtype="uint8")
    return whole_model(image, frozen, learner, (1, 0.85, 1.15))


KINDS: dict[str, Callable[[], keras.Model]] = {
    "small": small,
    "transfer": transfer,
    "finetuned": finetuned,
}


@cache
def trained(kind: str) -> keras.Model:
    keras.utils.set_random_seed(1)
    return KINDS[kind]()


def positives(count: int = len(HELD_OUT)) -> list[Gray]:
    return [drawn(number, "bacteria") for number in HELD_OUT[:count]]


# --- localization: the heatmap points at the drawn opacity ---------------------------------------


@pytest.mark.parametrize("kind", ["small", "finetuned"])
def test_the_heatmap_points_at_the_drawn_opacity(kind: str) -> None:
    """More than a uniform map, and more than the maps of other images: a map that always shows the
    middle of the lungs fails.
    """
    found = np.stack([heatmap(trained(kind), image) for image in positives()])
    assert (found.shape[1:], found.dtype) == ((SIDE, SIDE), np.float32)
    assert found.min() >= 0 and (found.max(axis=(1, 2)) == 1).all()
    masks = np.stack([opacity(number) for number in HELD_OUT])
    mass = found / found.sum(axis=(1, 2), keepdims=True)
    inside = np.tensordot(mass, masks.astype(np.float32), ((1, 2), (1, 2)))  # of map, in opacity
    own, area = inside.diagonal(), masks.mean(axis=(1, 2))
    of_others = (inside.sum(axis=0) - own) / (len(own) - 1)
    assert lower_bound(own - 2 * area) > 0
    assert lower_bound(own - 1.2 * of_others) > 0


def lower_bound(differences: NDArray[np.floating[Any]]) -> float:
    """0.1 % quantile of the mean over bootstrap resamples."""
    resamples = np.random.default_rng(0).choice(differences, (10_000, len(differences)))
    return float(np.quantile(resamples.mean(axis=1), 0.001))


# --- computation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_logit_is_that_of_the_probability(kind: str) -> None:
    model = trained(kind)
    for image in positives(4):
        batch = image[np.newaxis, ..., np.newaxis]
        logits = []
        for view in gradcam._views(model):
            with gradcam.tf.GradientTape() as tape:
                maps, logit = gradcam._maps_and_logit(view, gradcam.tf.constant(batch), tape)
            assert tape.gradient(logit, maps).shape == maps.shape
            logits.append(float(logit[0]))
        probability = float(model(batch, training=False)[0, 0])
        assert np.mean(1 / (1 + np.exp(-np.array(logits)))) == pytest.approx(probability, abs=1e-5)


def by_hand(*, head: str, kernel: NDArray[Any]) -> keras.Model:
    """Two feature maps of a 6 x 6 image, gray values and their negative, under a dense layer."""
    image = keras.Input((6, 6, 1), dtype="uint8")
    maps = layers.Conv2D(2, 1)(layers.Rescaling(1 / 255)(image))
    pooling = layers.Flatten() if head == "flatten" else layers.GlobalAveragePooling2D()
    activation = "softmax" if kernel.shape[1] > 1 else "sigmoid"
    model = keras.Model(image, layers.Dense(kernel.shape[1], activation=activation)(pooling(maps)))
    model.layers[2].set_weights([np.array([[[[1.0, -1.0]]]]), np.array([0.0, 1.0])])
    model.layers[-1].set_weights([kernel, np.linspace(-1, 1, kernel.shape[1])])
    return model


SMALL_IMAGE = np.random.default_rng(3).integers(0, 256, (6, 6)).astype(np.uint8)
SCALED = SMALL_IMAGE / 255
MAPS = np.stack([SCALED, 1 - SCALED], axis=-1)


def as_heat(values: NDArray[Any]) -> NDArray[Any]:
    return values.clip(0) / values.max()


def test_pooled_maps_are_weighted_by_the_weights_of_the_sigmoid() -> None:
    model = by_hand(head="avg", kernel=np.array([[2.0], [1.0]]))
    expected = as_heat(MAPS @ [2.0, 1.0])
    assert heatmap(model, SMALL_IMAGE) == pytest.approx(expected, abs=1e-5)


def test_all_pathogens_of_a_softmax_count_as_pneumonia() -> None:
    kernel = np.array([[0.5, 3.0, -1.0], [1.0, -2.0, 2.0]])
    model = by_hand(head="avg", kernel=kernel)
    scores = MAPS.mean(axis=(0, 1)) @ kernel + [-1, 0, 1]
    weights = np.exp(scores[1:]) / np.exp(scores[1:]).sum()
    expected = as_heat(MAPS @ (kernel[:, 1:] @ weights - kernel[:, 0]))
    assert heatmap(model, SMALL_IMAGE) == pytest.approx(expected, abs=1e-5)


def test_flattened_maps_are_weighted_by_position() -> None:
    kernel = np.random.default_rng(4).normal(size=(6, 6, 2))
    model = by_hand(head="flatten", kernel=kernel.reshape(72, 1))
    expected = as_heat((MAPS * kernel).sum(axis=-1))
    assert heatmap(model, SMALL_IMAGE) == pytest.approx(expected, abs=1e-5)


def test_without_evidence_the_heatmap_is_0() -> None:
    heat = heatmap(by_hand(head="avg", kernel=np.array([[-2.0], [-1.0]])), SMALL_IMAGE)
    assert heat.shape == (6, 6)
    assert heat.dtype == np.float32
    assert not heat.any()


def test_the_mean_map_weights_all_maps_equally() -> None:
    one, other = np.zeros((2, 2, 2), np.float32)
    one[0, 0], other[0, 0], other[1, 1] = 1, 0.5, 1
    assert np.allclose(mean_map([one, other]), [[1, 0], [0, 2 / 3]])
    assert not mean_map([np.zeros((2, 2), np.float32)]).any()


def test_layers_with_stride_2_draw_no_grid() -> None:
    image = keras.Input((SIDE, SIDE, 1), dtype="uint8")
    frozen = layers.Rescaling(1 / 255)(layers.Resizing(8, 8)(image))
    maps = keras.Input((8, 8, 1))
    coarse = layers.Conv2D(1, 1, 2, kernel_initializer="ones")(maps)
    unit = layers.Dense(1, activation="sigmoid", kernel_initializer="ones")
    tuned = keras.Model(maps, unit(layers.GlobalAveragePooling2D()(coarse)))
    heat = heatmap(keras.Model(image, tuned(frozen)), np.full((SIDE, SIDE), 200, np.uint8))
    assert heat == pytest.approx(np.ones((SIDE, SIDE)), abs=1e-5)


# --- test-time augmentation ----------------------------------------------------------------------


def rescaled(margin: int) -> keras.Model:
    """A network that crops the margins of the image, or pads it with black, and whose feature maps
    are the result at 16 x 16.
    """
    image = keras.Input((SIDE, SIDE, 1), dtype="uint8")
    rescale = layers.Cropping2D(margin) if margin > 0 else layers.ZeroPadding2D(-margin)
    view = keras.Input((None, None, 1), dtype="uint8")
    frozen = keras.Model(view, layers.Rescaling(1 / 255)(layers.Resizing(16, 16)(view)))
    maps = keras.Input((16, 16, 1))
    unit = layers.Dense(1, activation="sigmoid", kernel_initializer="ones")
    tuned = keras.Model(maps, unit(layers.GlobalAveragePooling2D()(maps)))
    return keras.Model(image, tuned(frozen(rescale(image))))


@pytest.mark.parametrize("margin", [8, -8])
@pytest.mark.parametrize(("row", "column"), [(20, 44), (44, 22)])
def test_a_rescaled_view_points_at_the_same_position(margin: int, row: int, column: int) -> None:
    image = np.zeros((SIDE, SIDE), np.uint8)
    image[row - 4 : row + 4, column - 4 : column + 4] = 255
    heat = heatmap(rescaled(margin), image)
    places = np.arange(SIDE) + 0.5
    assert np.average(places, weights=heat.sum(axis=1)) == pytest.approx(row, abs=1.2)
    assert np.average(places, weights=heat.sum(axis=0)) == pytest.approx(column, abs=1.2)


def test_the_map_of_a_cropped_view_is_extended_by_its_edges() -> None:
    image = np.zeros((SIDE, SIDE), np.uint8)
    image[:, 8:12] = 255  # at the left edge of what is left of the image
    heat = heatmap(rescaled(8), image)
    assert np.allclose(heat[:, :8], heat[:, 8:9])
    assert heat[:, 8].min() > 0.9


# --- overlay -------------------------------------------------------------------------------------


def test_the_overlay_is_the_image_where_the_heatmap_is_0() -> None:
    image = drawn(0, "none")
    heat = np.zeros((SIDE, SIDE), np.float32)
    heat[20:30, 20:30] = np.linspace(0.5, 1, 100).reshape(10, 10)
    picture = overlay(image, heat)
    assert (picture.dtype, picture.shape) == (np.uint8, (SIDE, SIDE, 3))
    pixels = picture.astype(int)
    gray = np.broadcast_to(image[..., np.newaxis], pixels.shape)
    assert np.array_equal(pixels[heat == 0], gray[heat == 0])
    assert (np.ptp(pixels[heat > 0], axis=-1) > 20).all()  # colored
    change = np.abs(pixels - gray)[20:30, 20:30].sum(axis=-1)
    assert change[-1].mean() > change[0].mean()


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of Keras models, with the folder of exported ones."""
    folder = tmp_path_factory.mktemp("models")
    export_with_keras(folder)
    return folder


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    """A folder of four radiographs, two of the same name and one with a numbered name."""
    folder = tmp_path / "patients"
    (folder / "more").mkdir(parents=True)
    for number, name in enumerate(("1.png", "1-2.png", "2.png", "more/1.png")):
        iio.imwrite(folder / name, drawn(number, "bacteria"))
    return folder


def predict(folder: Path, models: Path, *arguments: object) -> None:
    chosen = cli.parser().parse_args(
        ["predict", *map(str, (folder, "--models", models / "exported", *arguments))]
    )
    chosen.run(chosen)


@pytest.mark.parametrize("variant", ["bright", "both"])
def test_each_predicted_file_has_a_heatmap(
    variant: str, models: Path, patients: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    into = patients.parent / "explained"
    into.mkdir()
    (into / "1.explained.png").write_bytes(b"old")
    chosen = ("--variant", variant, "--format", "json")
    printed = []
    for explain in ((), ("--explain", "--into", into)):
        predict(patients, models, *chosen, *explain)
        printed.append(json.loads(capsys.readouterr().out)["images"])
    pictures = {row["file"]: row.pop("picture") for row in printed[1]}
    assert printed[1] == [{k: v for k, v in row.items() if k != "picture"} for row in printed[0]]
    named = {"1-2.png": "1-2", "1.png": "1", "2.png": "2", "more/1.png": "1-3"}
    assert len(list(into.iterdir())) == len(named)
    predictor = Predictor(models / "exported", variant)
    explainer = Explainer(models, predictor.members)
    for file, name in named.items():
        picture = into / f"{name}{HEATMAP_SUFFIX}"
        assert pictures[str(patients / file)] == str(picture)
        seen = predictor.preprocess(predictor.read(patients / file))
        assert np.array_equal(iio.imread(picture), explainer.overlay(seen))


def test_radiographs_are_not_replaced_and_heatmaps_are_not_predicted(
    models: Path, patients: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file: file.read_bytes() for file in patients.rglob("*.png")}
    for _ in range(2):
        predict(patients, models, "--explain", "--into", patients)
        assert capsys.readouterr().out.count("heatmap: ") == len(before)
    assert {file: file.read_bytes() for file in before} == before


def test_files_without_a_heatmap_do_not_stop_the_others(
    models: Path,
    patients: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (patients / "3.png").write_bytes(b"no image")
    read, times = Predictor.read, Counter[str]()

    def vanishing(self: Predictor, path: Path) -> Radiograph:
        times[path.name] += 1
        if path.name == "2.png" and times[path.name] == 2:
            path.unlink()
        return read(self, path)

    monkeypatch.setattr(Predictor, "read", vanishing)
    with pytest.raises(SystemExit) as caught:
        predict(patients, models, "--explain", "--into", patients.parent / "explained")
    assert caught.value.code == cli.FAILED
    out = capsys.readouterr().out
    assert out.count("heatmap: ") == 3
    assert "2.png: No such file" in out and "3.png: cannot identify" in out


def test_a_missing_keras_model_is_named_before_any_prediction(
    patients: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "exported").mkdir()
    export(tmp_path / "exported")
    with pytest.raises(CxrError, match=r"bright\.keras is missing"):
        predict(patients, tmp_path, "--explain")
    assert not capsys.readouterr().out


def test_a_heatmap_that_cannot_be_written_leaves_the_old_one(
    models: Path, patients: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = patients / "1.explained.png"
    old.write_bytes(b"old")

    def full(file: Path, content: bytes) -> None:
        file.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CxrError, match=r"1\.explained\.png cannot be written"):
        predict(patients / "1.png", models, "--explain", "--into", patients)
    assert old.read_bytes() == b"old"
