"""Tests of the synthetic radiographs: layout, determinism, and no give-away of the class."""

import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import roc_auc_score

from benchmarks import pipeline
from cxr.common.arrays import Split
from cxr.data import manifest, phantom, preprocess, shortcuts
from cxr.errors import CxrError
from cxr.params import read_params
from cxr.tools import demo, project_copy

PATIENTS = 40
SIDE = 32
NAME = {
    "PNEUMONIA": re.compile(r"(?P<patient>person\d+_(?:bacteria|virus))_(?P<image>\d+)\.jpeg"),
    "NORMAL": re.compile(r"(?P<patient>(?:NORMAL2-)?IM-\d{4})-(?P<image>\d{4})\.jpeg"),
}


def make(root: Path, patients: int = PATIENTS, seed: int = 3, **options: str) -> dict[str, bytes]:
    """Bytes of every written file by its path below root."""
    count = phantom.generate(root, patients=patients, seed=seed, short_side=SIDE, **options)
    files = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.*")}
    assert len(files) == count
    return files


def parse(name: str) -> tuple[str, str, str, int]:
    """Split, class, patient and image number of a file."""
    split, label, file = name.split("/")
    match = NAME[label].fullmatch(file)
    assert match, name
    return split, label, match["patient"], int(match["image"])


def image_of(seed: int, pathogen: str, short_side: int = SIDE) -> NDArray[np.uint8]:
    return phantom.generate_image(np.random.default_rng(seed), pathogen, short_side=short_side)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return make(tmp_path_factory.mktemp("phantoms"))


def test_files_depend_on_the_seed_and_not_on_the_number_of_patients(
    files: dict[str, bytes], tmp_path: Path
) -> None:
    assert make(tmp_path / "again") == files
    assert make(tmp_path / "fewer", patients=17).items() < files.items()
    other = make(tmp_path / "other", seed=4)
    assert not set(files.values()) & set(other.values())


def patient_distances(folder: Path) -> NDArray[np.int64]:
    """Bits by which the hashes of images of different patients differ, over all pairs."""
    images = manifest.verify(folder, "error").images
    bits = np.array([list(bytes.fromhex(value)) for value in images["phash"]], np.uint8)
    differ = np.bitwise_count(bits[:, np.newaxis] ^ bits).sum(axis=2, dtype=np.int64)
    patients = images["patient"].to_numpy()
    return differ[patients[:, np.newaxis] != patients]


def settings_of(source: dict[str, object]) -> dict[str, int]:
    """Arguments of `generate` by changed parameters; the rest is as in params.yaml."""
    defaults = read_params(project_copy.PROJECT / "params.yaml").data.phantom
    return {
        name: int(str(source.get(f"data.phantom.{name}", getattr(defaults, name))))
        for name in ("patients", "short_side")
    }


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize(
    "settings",
    [settings_of(demo.SETTINGS), settings_of(pipeline.SETTINGS)],
    ids=["demo", "benchmark"],
)
def test_patients_of_the_demo_and_the_benchmark_are_far_apart(
    tmp_path: Path, settings: dict[str, int], seed: int
) -> None:
    phantom.generate(tmp_path, seed=seed, **settings)
    assert patient_distances(tmp_path).min() >= phantom.MIN_DISTANCE == 40


@pytest.mark.parametrize("source", [demo.SETTINGS, pipeline.SETTINGS], ids=["demo", "benchmark"])
def test_demo_and_benchmark_stop_at_leakage(source: dict[str, object]) -> None:
    default = read_params(project_copy.PROJECT / "params.yaml").data.on_leak
    assert source.get("data.on_leak", default) == "error"


def test_a_patient_too_close_to_an_earlier_one_is_generated_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = make(tmp_path / "usual", patients=10)
    closest = int(patient_distances(tmp_path / "usual").min())
    monkeypatch.setattr(phantom, "MIN_DISTANCE", closest + 2)
    redrawn = make(tmp_path / "redrawn", patients=10)
    assert patient_distances(tmp_path / "redrawn").min() >= closest + 2
    unchanged = {parse(name)[2] for name, _ in usual.items() & redrawn.items()}
    assert 7 <= len(unchanged) < 10
    assert make(tmp_path / "fewer", patients=9).items() < redrawn.items()


def test_too_many_patients_to_differ_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phantom, "MIN_DISTANCE", 200)
    with pytest.raises(CxrError, match=r"reduce data\.phantom\.patients"):
        phantom.generate(tmp_path, patients=8, seed=1, short_side=SIDE)


def as_split(folder: Path) -> dict[str, Split]:
    """The published splits of generated images, as the networks see them."""
    params = read_params(project_copy.PROJECT / "params.yaml").image.model_copy(
        update={"input_size": 64}
    )
    found = {}
    for name, index in manifest.verify(folder, "error").images.groupby("split"):
        files = [folder / path for path in index["path"]]
        found[str(name)] = Split(np.stack(list(preprocess.read_all(files, params))), index)
    return found


@pytest.mark.parametrize("shortcut", ["none", "device"])
def test_device_predicts_the_label_in_training_but_not_in_test(
    tmp_path: Path, shortcut: str
) -> None:
    phantom.generate(tmp_path, patients=160, seed=1, short_side=80, shortcut=shortcut)
    aucs = shortcuts.single_feature_auc(as_split(tmp_path))
    marker = aucs["edges_top_right"]
    if shortcut == "device":
        assert marker["train"] > 0.9
        assert abs(marker["test"] - 0.5) < 0.2
    else:
        assert all(auc["train"] <= shortcuts.MAX_AUC for auc in aucs.values())


def test_device_does_not_change_the_anatomy(files: dict[str, bytes], tmp_path: Path) -> None:
    """In train, the scanner imaged no NORMAL and all PNEUMONIA."""
    device = make(tmp_path, shortcut="device")
    assert device.keys() == files.keys()
    same = {name: files[name] == device[name] for name in files}
    assert all(same[name] == ("NORMAL" in name) for name in same if not name.startswith("test"))
    in_test = {(parse(name)[1], same[name]) for name in same if name.startswith("test")}
    assert in_test == {(label, is_same) for label in NAME for is_same in (False, True)}


def test_every_split_and_class_has_images(files: dict[str, bytes]) -> None:
    placed = {parse(name)[:3] for name in files}
    count = Counter((split, label) for split, label, _ in placed)
    assert len(placed) == PATIENTS
    assert count["val", "NORMAL"] == count["val", "PNEUMONIA"] == 1
    assert sum(n for (_, label), n in count.items() if label == "PNEUMONIA") == 0.6 * PATIENTS
    for label in ("NORMAL", "PNEUMONIA"):
        fraction = count["test", label] / (count["test", label] + count["train", label])
        assert 0.1 < fraction < 0.25


@pytest.mark.parametrize("patients", range(8, 13))
def test_few_patients_fill_every_folder(tmp_path: Path, patients: int) -> None:
    folders = {parse(name)[:2] for name in make(tmp_path, patients)}
    assert folders == {(split, label) for split in ("train", "test", "val") for label in NAME}


def test_numbers_of_patients_are_shared_by_series_of_different_splits(
    files: dict[str, bytes],
) -> None:
    placed = {parse(name)[::2] for name in files}
    split = {patient: split for split, patient in placed}
    assert len(split) == len(placed)  # no patient is in two splits
    assert split["person2_bacteria"] == "test"
    assert split["person2_virus"] == "train"
    assert {"IM-0002", "NORMAL2-IM-0002"} <= set(split)


def test_images_are_numbered_like_the_real_ones(files: dict[str, bytes]) -> None:
    images = defaultdict(list)
    for _, _, patient, image in map(parse, files):
        images[patient].append(image)
    assert {len(found) for found in images.values()} == {1, 2, 3, 4}
    for pathogen in ("bacteria", "virus"):  # one running number through the whole series
        run = sorted(m for who, found in images.items() if who.endswith(pathogen) for m in found)
        assert run == list(range(1, len(run) + 1))
    for who, found in images.items():  # each patient's images counted from one
        assert "IM" not in who or sorted(found) == list(range(1, len(found) + 1))


def test_files_are_gray_jpegs_of_varying_size(tmp_path: Path) -> None:
    make(tmp_path)
    sizes = []
    for path in tmp_path.rglob("*.jpeg"):
        with Image.open(path) as image:
            assert (image.format, image.mode) == ("JPEG", "L")
            sizes.append(image.size)
    width, height = np.array(sizes).T
    assert height.min() >= round(0.8 * SIDE)
    assert height.max() <= round(1.25 * SIDE)
    assert np.ptp(height) > 0.3 * SIDE
    assert np.ptp(width / height) > 0.3


@pytest.mark.parametrize("pathogen", phantom.PATHOGENS)
def test_an_image_is_gray_and_uses_the_range(pathogen: str) -> None:
    image = image_of(5, pathogen, short_side=128)
    assert image.dtype == np.uint8
    assert image.ndim == 2
    assert 102 <= image.shape[0] <= image.shape[1]
    assert np.ptp(image) > 100
    assert np.array_equal(image, image_of(5, pathogen, short_side=128))


@pytest.mark.parametrize("pathogen", ["bacteria", "virus"])
@pytest.mark.parametrize("seed", range(10))
def test_pneumonia_makes_the_lungs_denser(seed: int, pathogen: str) -> None:
    negative, positive = (
        lung_density(image_of(seed, "none", 128)),
        lung_density(image_of(seed, pathogen, 128)),
    )
    assert positive > 1.02 * negative


def lung_density(image: NDArray[np.uint8]) -> float:
    """Brightness of the middle of the chest relative to the belly, whatever the exposure."""
    height, width = image.shape
    middle = slice(width // 2 - int(0.3 * height), width // 2 + int(0.3 * height))
    lungs = image[int(0.2 * height) : int(0.65 * height), middle]
    return float(lungs.mean() / image[int(0.85 * height) :, middle].mean())


def test_brightness_and_shape_do_not_predict_the_class() -> None:
    pathogens = ["none", "bacteria", "none", "virus"] * 200
    images = [image_of(seed, pathogen) for seed, pathogen in enumerate(pathogens)]
    is_positive = [pathogen != "none" for pathogen in pathogens]
    features = {
        "brightness": [image.mean() for image in images],
        "aspect ratio": [image.shape[1] / image.shape[0] for image in images],
        "height": [image.shape[0] for image in images],
    }
    for name, values in features.items():
        assert 0.4 < roc_auc_score(is_positive, values) < 0.6, name
