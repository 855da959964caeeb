"""Heatmaps follow the formula, depend on the weights, and point at the disease.

The networks are small versions of the variants, trained for seconds on phantoms. Where the disease
is drawn is known: two phantoms from the same generator state, with and without it, differ there.
"""

import csv
import io
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
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
from cxr.inference.predict import HEATMAP_SUFFIX, Prediction, Predictor
from cxr.inference.radiograph import Radiograph
from cxr.models import backbones
from cxr.models.networks import apply, small_cnn, transfer_head
from cxr.params import read_params
from cxr.tools.project_copy import PROJECT
from cxr.training.finetuning import whole_model, with_outputs

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
    """Like transfer: a backbone, which is trained here as well, and a head."""
    images, positive = training()
    image = keras.Input((SIDE, SIDE, 1), dtype="uint8")
    rgb = keras.Input((None, None, 3))
    maps = layers.Conv2D(16, 3, 2, activation="relu")(rgb)
    maps = layers.Conv2D(32, 3, 2, activation="relu")(maps)
    backbone = keras.Model(rgb, maps, name="backbone")
    params = PARAMS.transfer.model_copy(update={"backbone": "resnet50v2"})  # takes small images
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "load_backbone", lambda *_: backbone)
        model = backbones.with_head(transfer_head((32,), params), image, params)
    backbone.trainable = True
    fit(model, images, positive, 12)
    return model


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


VARIANTS = {**{kind: [kind] for kind in KINDS}, "ensemble": ["transfer", "finetuned"]}


def maps_of(models: list[keras.Model], images: list[Gray]) -> list[Heat]:
    return [mean_map([heatmap(model, image) for model in models]) for image in images]


def positives(count: int = len(HELD_OUT)) -> list[Gray]:
    return [drawn(number, "bacteria") for number in HELD_OUT[:count]]


# --- sanity: heatmaps depend on the weights (Adebayo 2018, 10.48550/arXiv.1810.03292) ------------


def every_layer(model: keras.Model) -> Iterator[keras.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from every_layer(layer)
        elif layer.weights:
            yield layer


def randomized(model: keras.Model, kinds: type[keras.Layer], seed: int) -> keras.Model:
    """A copy whose layers of some kinds have random weights of the trained standard deviation."""
    rng = np.random.default_rng(seed)
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for layer in every_layer(copy):
        if isinstance(layer, kinds):
            trained = layer.get_weights()
            layer.set_weights([rng.normal(0, one.std() + 0.01, one.shape) for one in trained])
    return copy


def rank_correlation(one: Heat, other: Heat) -> float:
    """Spearman's rank correlation; 0 if a map is constant."""
    ranks = [np.unique(heat, return_inverse=True)[1].ravel().astype(float) for heat in (one, other)]
    return float(np.corrcoef(ranks)[0, 1]) if all(of.any() for of in ranks) else 0.0


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [layers.Dense, layers.Layer], ids=["head", "all"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_random_weights_change_the_heatmap(variant: str, kinds: type[keras.Layer]) -> None:
    models = [trained(kind) for kind in VARIANTS[variant]]
    images = positives(4)
    known = maps_of(models, images)
    assert all(map(np.array_equal, known, maps_of(models, images)))
    correlations = [
        rank_correlation(*pair)
        for seed in range(4)
        for pair in zip(
            known,
            maps_of([randomized(model, kinds, seed) for model in models], images),
            strict=True,
        )
    ]
    assert np.mean(correlations) < 0.5, correlations


# --- localization: the heatmap points at the drawn opacity ---------------------------------------


@pytest.mark.parametrize("kind", ["small", "finetuned"])
def test_the_heatmap_points_at_the_drawn_opacity(
    kind: str, record_property: Callable[[str, object], None]
) -> None:
    """More than a uniform map, and more than the maps of other images: a map that always shows the
    middle of the lungs fails.
    """
    found = np.stack(maps_of([trained(kind)], positives()))
    masks = np.stack([opacity(number) for number in HELD_OUT])
    assert found.any(axis=(1, 2)).all()
    mass = found / found.sum(axis=(1, 2), keepdims=True)
    inside = np.tensordot(mass, masks.astype(np.float32), ((1, 2), (1, 2)))  # of map, in opacity
    own, area = inside.diagonal(), masks.mean(axis=(1, 2))
    of_others = (inside.sum(axis=0) - own) / (len(own) - 1)
    peaks = found.reshape(len(found), -1).argmax(axis=1)
    figures = {
        "images": len(own),
        "fraction of the map in the opacity": own.mean(),
        "that of other images' maps": of_others.mean(),
        "fraction of the area": area.mean(),
        "peaks in the opacity": np.mean(masks.reshape(len(masks), -1)[range(len(masks)), peaks]),
        "peaks of other images": np.mean(masks.reshape(len(masks), -1)[:, peaks]),
    }
    text = f"{kind}: " + ", ".join(f"{name} {value:.3g}" for name, value in figures.items())
    record_property("figures", text)
    print(text)
    assert lower_bound(own - 2 * area) > 0, text
    assert lower_bound(own - 1.2 * of_others) > 0, text


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


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_heatmap_has_the_range_0_to_1_and_the_size_of_the_image(variant: str) -> None:
    for heat in maps_of([trained(kind) for kind in VARIANTS[variant]], positives(4)):
        assert (heat.shape, heat.dtype) == ((SIDE, SIDE), np.float32)
        assert heat.min() >= 0
        assert heat.max() == 1


WRONG = {
    r"float64 \(64, 64\)": np.zeros((SIDE, SIDE)),
    r"uint8 \(63, 64\)": np.zeros((SIDE - 1, SIDE), np.uint8),
    r"uint8 \(64, 64, 1\)": np.zeros((SIDE, SIDE, 1), np.uint8),
}


@pytest.mark.parametrize("got", WRONG)
def test_an_image_of_another_shape_or_dtype_is_refused(got: str) -> None:
    with pytest.raises(ValueError, match=rf"uint8 \(64, 64\), got {got}"):
        heatmap(trained("small"), WRONG[got])


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


class Known(Predictor):
    """Predicts the same for every radiograph, without a network."""

    def __init__(self, folder: Path, variant: str) -> None:
        self.variant, self.image, self.threshold = variant, PREPARED, 0.5
        self.members = dict.fromkeys(VARIANTS[variant])
        self.trained = folder.parent

    def predict_batch(self, radiographs: list[Radiograph]) -> list[Prediction]:
        one = Prediction(
            probability=0.75,
            decision="PNEUMONIA",
            confidence=0.7,
            ood_score=0.2,
            warnings=(),
            variant=self.variant,
            threshold=self.threshold,
        )
        return [one] * len(radiographs)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cli, "Predictor", Known)
    folder = tmp_path / "models"
    folder.mkdir()
    for kind in KINDS:
        trained(kind).save(folder / f"{kind}.keras")
    return folder


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    """A folder of three radiographs, two of the same name, and a damaged file."""
    folder = tmp_path / "patients"
    (folder / "more").mkdir(parents=True)
    for name in ("1.png", "2.png", "more/1.png"):
        iio.imwrite(folder / name, drawn(len(name), "bacteria"))
    (folder / "3.png").write_bytes(b"no image")
    return folder


def predict(*arguments: object) -> None:
    chosen = cli.parser().parse_args(["predict", *map(str, arguments)])
    chosen.run(chosen)


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_predicted_file_has_a_heatmap(
    variant: str, models: Path, patients: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    into = models.parent / "explained"
    into.mkdir()
    (into / "1.png").write_bytes(b"other")
    (into / "1.explained.png").write_bytes(b"old")
    common = (patients, "--variant", variant, "--models", models / "exported", "--format", "csv")
    printed = []
    for explain in ((), ("--explain", "--into", into)):
        with pytest.raises(SystemExit) as caught:
            predict(*common, *explain)
        assert caught.value.code == cli.FAILED
        printed.append(capsys.readouterr())
    rows = [list(csv.DictReader(io.StringIO(one.out))) for one in printed]
    pictures = {row["file"]: row.pop("picture") for row in rows[1]}
    assert {row.pop("picture") for row in rows[0]} == {""}
    assert rows[0] == rows[1] and printed[0].err == printed[1].err
    assert printed[0].out.count("0.75") == 3
    named = {"1": "1.png", "2": "2.png", "1-2": "more/1.png"}
    assert {file.name for file in into.iterdir()} == {
        "1.png",
        *(f"{n}{HEATMAP_SUFFIX}" for n in named),
    }
    assert (into / "1.png").read_bytes() == b"other"
    assert pictures.pop(str(patients / "3.png")) == ""
    explainer = Explainer(models, VARIANTS[variant])
    for name, file in named.items():
        expected = explainer.overlay(iio.imread(patients / file))
        picture = into / f"{name}{HEATMAP_SUFFIX}"
        assert pictures[str(patients / file)] == str(picture)
        assert np.array_equal(iio.imread(picture), expected)


def test_radiographs_are_not_replaced_and_heatmaps_are_not_predicted(
    models: Path, patients: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (patients / "3.png").unlink()
    before = {file: file.read_bytes() for file in patients.rglob("*.png")}
    chosen = ("--variant", "small", "--models", models / "exported", "--explain")
    for _ in range(2):
        predict(patients, *chosen, "--into", patients)
        assert capsys.readouterr().out.count("heatmap: ") == len(before)
    assert {file: file.read_bytes() for file in before} == before
    assert len(list(patients.iterdir())) == 3 + len(before)


def test_a_file_that_vanishes_before_its_heatmap_does_not_stop_the_others(
    models: Path,
    patients: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    read, times = Predictor.read, Counter[str]()

    def vanishing(self: Predictor, path: Path) -> Radiograph:
        times[path.name] += 1
        if path.name == "2.png" and times[path.name] == 2:
            path.unlink()
        return read(self, path)

    monkeypatch.setattr(Predictor, "read", vanishing)
    with pytest.raises(SystemExit):
        predict(
            *(patients, "--variant", "small", "--models", models / "exported"),
            *("--explain", "--into", models.parent / "explained"),
        )
    out = capsys.readouterr().out
    assert out.count("heatmap: ") == 2 and "2.png: No such file" in out


def test_numbered_heatmaps_do_not_replace_those_of_files_with_such_names(
    models: Path, patients: Path
) -> None:
    shutil.copy(patients / "2.png", patients / "1-2.png")
    (patients / "3.png").unlink()
    into = models.parent / "explained"
    predict(patients, "--variant", "small", "--models", models / "x", "--explain", "--into", into)
    expected = {f"{name}{HEATMAP_SUFFIX}" for name in ("1", "2", "1-2", "1-3")}
    assert {file.name for file in into.iterdir()} == expected


def test_a_missing_keras_model_is_named_before_any_prediction(
    models: Path, patients: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (models / "finetuned.keras").unlink()
    with pytest.raises(CxrError, match=r"finetuned\.keras is missing"):
        predict(patients, "--variant", "ensemble", "--models", models / "exported", "--explain")
    assert not capsys.readouterr().out


def test_a_heatmap_that_cannot_be_written_leaves_the_old_one(
    models: Path, patients: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    into = models.parent / "explained"
    into.mkdir()
    (into / "1.explained.png").write_bytes(b"old")

    def full(file: Path, content: bytes) -> None:
        file.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CxrError, match=r"1\.explained\.png cannot be written"):
        predict(
            *(patients / "1.png", "--variant", "small", "--models", models / "exported"),
            *("--explain", "--into", into),
        )
    assert [file.name for file in into.iterdir()] == ["1.explained.png"]
    assert (into / "1.explained.png").read_bytes() == b"old"
