"""What a map shows: what the formula says, what training put there, and where the disease is.

The networks are built as those of the variants are, of small parts, and trained for seconds on
phantoms. Of these is known where the disease was drawn: two are drawn from one state of the
generator, with and without it, and differ there.
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
from cxr.inference.predict import EXPLAINED, ImagePrediction, Predictor
from cxr.inference.radiograph import Radiograph
from cxr.models import backbones
from cxr.models.networks import apply, small_cnn, transfer_head
from cxr.params import read_params
from cxr.tools.project_copy import PROJECT
from cxr.training.finetuning import whole_model, with_outputs

SIDE = 64
PARAMS = read_params(PROJECT / "params.yaml")
PREPARED = PARAMS.image.model_copy(update={"input_size": SIDE})
HELD_OUT = range(1000, 1060)  # numbers of phantoms that no network was trained on
Grey = NDArray[np.uint8]
Heat = NDArray[np.float32]


# --- phantoms and networks trained on them -------------------------------------------------------


@cache
def drawn(number: int, pathogen: str) -> Grey:
    """A phantom as the networks see it, uint8 (SIDE, SIDE)."""
    rng = np.random.default_rng([8, number])
    return prepare(
        Image.fromarray(phantom.generate_image(rng, pathogen, short_side=SIDE)), PREPARED
    )


def opacity(number: int) -> NDArray[np.bool_]:
    """Where the disease of `drawn(number, "bacteria")` adds half of its most, or more."""
    added = drawn(number, "bacteria").astype(float) - drawn(number, "none")
    return added > added.max() / 2


@cache
def training() -> tuple[Grey, NDArray[np.int64]]:
    """Phantoms (N, SIDE, SIDE, 1), and which of them are ill (N,)."""
    ill = np.arange(600) % 2
    images = [drawn(number, ("none", "bacteria")[is_ill]) for number, is_ill in enumerate(ill)]
    return np.stack(images)[..., np.newaxis], ill


def fit(model: keras.Model, rows: Any, targets: Any, epochs: int) -> None:
    loss = "categorical_crossentropy" if model.output_shape[-1] > 1 else "binary_crossentropy"
    model.compile(keras.optimizers.Adam(0.002), loss)
    model.fit(rows, targets, batch_size=16, epochs=epochs, verbose=0)


def small() -> keras.Model:
    """As baseline and augmented."""
    images, ill = training()
    milder = {"filters": (16, 16), "dense_units": 32, "conv_dropout": 0.1, "dense_dropout": 0.1}
    image = keras.Input((SIDE, SIDE, 1), dtype="uint8")
    stack = small_cnn(PARAMS.model.model_copy(update=milder))
    model = keras.Model(image, apply(stack, image), name="small")
    fit(model, images, ill, 8)
    return model


def transfer() -> keras.Model:
    """As transfer: a backbone, which is trained here as well, and a head."""
    images, ill = training()
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
    fit(model, images, ill, 12)
    return model


def finetuned() -> keras.Model:
    """As finetuned: a frozen and a trained half, softmax over three classes, three views."""
    images, ill = training()
    view = keras.Input((None, None, 1), dtype="uint8")
    grey = layers.Rescaling(1 / 255)(layers.Resizing(SIDE, SIDE)(view))
    lower_input = keras.Input((SIDE, SIDE, 1))
    lower = keras.Model(lower_input, layers.MaxPooling2D(4)(layers.Conv2D(8, 3)(lower_input)))
    frozen = keras.Model(view, lower(grey))
    activations = keras.Input(frozen.output_shape[1:])
    maps = layers.MaxPooling2D()(layers.Conv2D(16, 3, activation="relu")(activations))
    maps = layers.Conv2D(32, 3, activation="relu")(maps)
    learner = with_outputs(keras.Model(activations, maps), PARAMS.finetune)
    virus = np.zeros(len(ill))
    fit(learner, np.asarray(frozen(images)), np.column_stack([1 - ill, ill, virus]), 12)
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


def maps_of(models: list[keras.Model], images: list[Grey]) -> list[Heat]:
    return [mean_map([heatmap(model, image) for model in models]) for image in images]


def ill(count: int = len(HELD_OUT)) -> list[Grey]:
    return [drawn(number, "bacteria") for number in HELD_OUT[:count]]


# --- sanity: the map follows from the weights (Adebayo 2018, 10.48550/arXiv.1810.03292) ----------


def every_layer(model: keras.Model) -> Iterator[keras.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from every_layer(layer)
        elif layer.weights:
            yield layer


def randomised(model: keras.Model, kinds: type[keras.Layer], seed: int) -> keras.Model:
    """A copy in which layers of some kinds have random weights, spread as the trained ones are."""
    rng = np.random.default_rng(seed)
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for layer in every_layer(copy):
        if isinstance(layer, kinds):
            trained = layer.get_weights()
            layer.set_weights([rng.normal(0, one.std() + 0.01, one.shape) for one in trained])
    return copy


def rank_correlation(one: Heat, other: Heat) -> float:
    """Spearman's, 0 where a map is the same everywhere."""
    ranks = [np.unique(heat, return_inverse=True)[1].ravel().astype(float) for heat in (one, other)]
    return float(np.corrcoef(ranks)[0, 1]) if all(of.any() for of in ranks) else 0.0


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [layers.Dense, layers.Layer], ids=["head", "all"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_random_weights_give_another_map(variant: str, kinds: type[keras.Layer]) -> None:
    models = [trained(kind) for kind in VARIANTS[variant]]
    images = ill(4)
    known = maps_of(models, images)
    assert all(map(np.array_equal, known, maps_of(models, images)))
    correlations = [
        rank_correlation(*pair)
        for seed in range(4)
        for pair in zip(
            known,
            maps_of([randomised(model, kinds, seed) for model in models], images),
            strict=True,
        )
    ]
    assert np.mean(correlations) < 0.5, correlations


# --- localisation: the map points at what was drawn ----------------------------------------------


@pytest.mark.parametrize("kind", ["small", "finetuned"])
def test_the_map_points_at_the_drawn_opacity(
    kind: str, record_property: Callable[[str, object], None]
) -> None:
    """More than an even map does, and more than the maps of other images do: a map that shows the
    middle of the lungs whatever the image would not pass.
    """
    found = np.stack(maps_of([trained(kind)], ill()))
    masks = np.stack([opacity(number) for number in HELD_OUT])
    assert found.any(axis=(1, 2)).all()
    mass = found / found.sum(axis=(1, 2), keepdims=True)
    inside = np.tensordot(mass, masks.astype(np.float32), ((1, 2), (1, 2)))  # of map, in opacity
    own, area = inside.diagonal(), masks.mean(axis=(1, 2))
    of_others = (inside.sum(axis=0) - own) / (len(own) - 1)
    peaks = found.reshape(len(found), -1).argmax(axis=1)
    figures = {
        "images": len(own),
        "share of the map in the opacity": own.mean(),
        "that of other images' maps": of_others.mean(),
        "share of the area": area.mean(),
        "peaks in the opacity": np.mean(masks.reshape(len(masks), -1)[range(len(masks)), peaks]),
        "peaks of other images": np.mean(masks.reshape(len(masks), -1)[:, peaks]),
    }
    told = f"{kind}: " + ", ".join(f"{name} {value:.3g}" for name, value in figures.items())
    record_property("figures", told)
    print(told)
    assert lower_bound(own - 2 * area) > 0, told
    assert lower_bound(own - 1.2 * of_others) > 0, told


def lower_bound(differences: NDArray[np.floating[Any]]) -> float:
    """Of the mean, one in a thousand, by a paired bootstrap."""
    draws = np.random.default_rng(0).choice(differences, (10_000, len(differences)))
    return float(np.quantile(draws.mean(axis=1), 0.001))


# --- what is computed ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_logit_is_that_of_the_probability(kind: str) -> None:
    model = trained(kind)
    for image in ill(4):
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
    """Two maps of an image of 6 x 6, its grey values and their negative, under a dense layer."""
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


def test_averaged_maps_are_weighted_by_the_sigmoid_units_weights() -> None:
    model = by_hand(head="avg", kernel=np.array([[2.0], [1.0]]))
    expected = as_heat(MAPS @ [2.0, 1.0])
    assert heatmap(model, SMALL_IMAGE) == pytest.approx(expected, abs=1e-5)


def test_of_a_softmax_all_kinds_of_pneumonia_speak_for_it() -> None:
    kernel = np.array([[0.5, 3.0, -1.0], [1.0, -2.0, 2.0]])
    model = by_hand(head="avg", kernel=kernel)
    scores = MAPS.mean(axis=(0, 1)) @ kernel + [-1, 0, 1]
    shares = np.exp(scores[1:]) / np.exp(scores[1:]).sum()
    expected = as_heat(MAPS @ (kernel[:, 1:] @ shares - kernel[:, 0]))
    assert heatmap(model, SMALL_IMAGE) == pytest.approx(expected, abs=1e-5)


def test_flattened_maps_are_weighted_place_by_place() -> None:
    kernel = np.random.default_rng(4).normal(size=(6, 6, 2))
    model = by_hand(head="flatten", kernel=kernel.reshape(72, 1))
    expected = as_heat((MAPS * kernel).sum(axis=-1))
    assert heatmap(model, SMALL_IMAGE) == pytest.approx(expected, abs=1e-5)


def test_nothing_is_shown_where_nothing_speaks_for_pneumonia() -> None:
    heat = heatmap(by_hand(head="avg", kernel=np.array([[-2.0], [-1.0]])), SMALL_IMAGE)
    assert heat.shape == (6, 6)
    assert heat.dtype == np.float32
    assert not heat.any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_map_reaches_from_0_to_1_in_the_images_frame(variant: str) -> None:
    for heat in maps_of([trained(kind) for kind in VARIANTS[variant]], ill(4)):
        assert (heat.shape, heat.dtype) == ((SIDE, SIDE), np.float32)
        assert heat.min() >= 0
        assert heat.max() == 1


WRONG = {
    r"float64 \(64, 64\)": np.zeros((SIDE, SIDE)),
    r"uint8 \(63, 64\)": np.zeros((SIDE - 1, SIDE), np.uint8),
    r"uint8 \(64, 64, 1\)": np.zeros((SIDE, SIDE, 1), np.uint8),
}


@pytest.mark.parametrize("told", WRONG)
def test_an_image_that_the_model_does_not_take_is_refused(told: str) -> None:
    with pytest.raises(ValueError, match=rf"takes uint8 \(64, 64\), not {told}"):
        heatmap(trained("small"), WRONG[told])


def test_of_several_maps_each_weighs_the_same() -> None:
    one, other = np.zeros((2, 2, 2), np.float32)
    one[0, 0], other[0, 0], other[1, 1] = 1, 0.5, 1
    assert np.allclose(mean_map([one, other]), [[1, 0], [0, 2 / 3]])
    assert not mean_map([np.zeros((2, 2), np.float32)]).any()


def test_layers_that_look_at_every_second_place_draw_no_grid() -> None:
    image = keras.Input((SIDE, SIDE, 1), dtype="uint8")
    frozen = layers.Rescaling(1 / 255)(layers.Resizing(8, 8)(image))
    maps = keras.Input((8, 8, 1))
    coarse = layers.Conv2D(1, 1, 2, kernel_initializer="ones")(maps)
    unit = layers.Dense(1, activation="sigmoid", kernel_initializer="ones")
    tuned = keras.Model(maps, unit(layers.GlobalAveragePooling2D()(coarse)))
    heat = heatmap(keras.Model(image, tuned(frozen)), np.full((SIDE, SIDE), 200, np.uint8))
    assert heat == pytest.approx(np.ones((SIDE, SIDE)), abs=1e-5)


# --- views from nearer and farther ---------------------------------------------------------------


def zoomed(margin: int) -> keras.Model:
    """A network that sees the image with its margins cut off, or black ones added, and whose maps
    are what it sees, at 16 x 16.
    """
    image = keras.Input((SIDE, SIDE, 1), dtype="uint8")
    look = layers.Cropping2D(margin) if margin > 0 else layers.ZeroPadding2D(-margin)
    view = keras.Input((None, None, 1), dtype="uint8")
    frozen = keras.Model(view, layers.Rescaling(1 / 255)(layers.Resizing(16, 16)(view)))
    maps = keras.Input((16, 16, 1))
    unit = layers.Dense(1, activation="sigmoid", kernel_initializer="ones")
    tuned = keras.Model(maps, unit(layers.GlobalAveragePooling2D()(maps)))
    return keras.Model(image, tuned(frozen(look(image))))


@pytest.mark.parametrize("margin", [8, -8])
@pytest.mark.parametrize(("row", "column"), [(20, 44), (44, 22)])
def test_a_zoomed_view_points_at_the_same_place(margin: int, row: int, column: int) -> None:
    image = np.zeros((SIDE, SIDE), np.uint8)
    image[row - 4 : row + 4, column - 4 : column + 4] = 255
    heat = heatmap(zoomed(margin), image)
    places = np.arange(SIDE) + 0.5
    assert np.average(places, weights=heat.sum(axis=1)) == pytest.approx(row, abs=1.2)
    assert np.average(places, weights=heat.sum(axis=0)) == pytest.approx(column, abs=1.2)


def test_a_map_goes_on_where_a_view_from_nearer_ends() -> None:
    image = np.zeros((SIDE, SIDE), np.uint8)
    image[:, 8:12] = 255  # at the left edge of what is left of the image
    heat = heatmap(zoomed(8), image)
    assert np.allclose(heat[:, :8], heat[:, 8:9])
    assert heat[:, 8].min() > 0.9


# --- pictures ------------------------------------------------------------------------------------


def test_the_picture_is_the_image_where_the_map_is_0() -> None:
    image = drawn(0, "none")
    heat = np.zeros((SIDE, SIDE), np.float32)
    heat[20:30, 20:30] = np.linspace(0.5, 1, 100).reshape(10, 10)
    picture = overlay(image, heat)
    assert (picture.dtype, picture.shape) == (np.uint8, (SIDE, SIDE, 3))
    pixels = picture.astype(int)
    grey = np.broadcast_to(image[..., np.newaxis], pixels.shape)
    assert np.array_equal(pixels[heat == 0], grey[heat == 0])
    assert (np.ptp(pixels[heat > 0], axis=-1) > 20).all()  # coloured
    change = np.abs(pixels - grey)[20:30, 20:30].sum(axis=-1)
    assert change[-1].mean() > change[0].mean()


# --- the command ---------------------------------------------------------------------------------


class Known(Predictor):
    """Answers the same to every radiograph, by no network."""

    def __init__(self, folder: Path, variant: str) -> None:
        self.variant, self.image, self.threshold = variant, PREPARED, 0.5
        self.members = dict.fromkeys(VARIANTS[variant])
        self.trained = folder.parent

    def answers(self, radiographs: list[Radiograph]) -> list[ImagePrediction]:
        return [ImagePrediction(0.75, "PNEUMONIA", 0.7, 0.2, ()) for _ in radiographs]


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
    """A folder of three radiographs, two of one name, and a file that is none."""
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
def test_each_answered_file_has_a_picture(
    variant: str, models: Path, patients: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    into = models.parent / "explained"
    into.mkdir()
    (into / "1.png").write_bytes(b"other")
    (into / "1.explained.png").write_bytes(b"old")
    common = (patients, "--variant", variant, "--models", models / "exported", "--format", "csv")
    told = []
    for explain in ((), ("--explain", "--into", into)):
        with pytest.raises(SystemExit) as caught:
            predict(*common, *explain)
        assert caught.value.code == cli.FAILED
        told.append(capsys.readouterr())
    rows = [list(csv.DictReader(io.StringIO(one.out))) for one in told]
    pictures = {row["file"]: row.pop("picture") for row in rows[1]}
    assert {row.pop("picture") for row in rows[0]} == {""}
    assert rows[0] == rows[1] and told[0].err == told[1].err
    assert told[0].out.count("0.75") == 3
    named = {"1": "1.png", "2": "2.png", "1-2": "more/1.png"}
    assert {file.name for file in into.iterdir()} == {"1.png", *(f"{n}{EXPLAINED}" for n in named)}
    assert (into / "1.png").read_bytes() == b"other"
    assert pictures.pop(str(patients / "3.png")) == ""
    explainer = Explainer(models, VARIANTS[variant])
    for name, file in named.items():
        expected = explainer.overlay(iio.imread(patients / file))
        picture = into / f"{name}{EXPLAINED}"
        assert pictures[str(patients / file)] == str(picture)
        assert np.array_equal(iio.imread(picture), expected)


def test_radiographs_are_not_replaced_and_pictures_are_not_judged(
    models: Path, patients: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (patients / "3.png").unlink()
    before = {file: file.read_bytes() for file in patients.rglob("*.png")}
    chosen = ("--variant", "small", "--models", models / "exported", "--explain")
    for _ in range(2):
        predict(patients, *chosen, "--into", patients)
        assert capsys.readouterr().out.count("explained: ") == len(before)
    assert {file: file.read_bytes() for file in before} == before
    assert len(list(patients.iterdir())) == 3 + len(before)


def test_a_file_that_vanishes_before_its_picture_does_not_stop_the_others(
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
    assert out.count("explained: ") == 2 and "2.png: No such file" in out


def test_a_file_that_has_the_number_in_its_name_keeps_its_picture(
    models: Path, patients: Path
) -> None:
    shutil.copy(patients / "2.png", patients / "1-2.png")
    (patients / "3.png").unlink()
    into = models.parent / "explained"
    predict(patients, "--variant", "small", "--models", models / "x", "--explain", "--into", into)
    expected = {f"{name}{EXPLAINED}" for name in ("1", "2", "1-2", "1-3")}
    assert {file.name for file in into.iterdir()} == expected


def test_a_missing_network_is_named_before_anything_is_answered(
    models: Path, patients: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (models / "finetuned.keras").unlink()
    with pytest.raises(CxrError, match=r"finetuned\.keras is missing"):
        predict(patients, "--variant", "ensemble", "--models", models / "exported", "--explain")
    assert not capsys.readouterr().out


def test_a_picture_that_cannot_be_written_leaves_the_old_one(
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
