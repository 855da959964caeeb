"""Tests of the synthetic radiographs: layout, determinism, and no give-away of the class."""

import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import roc_auc_score

from cxr import phantom

PATIENTS = 40
SIDE = 32
NAME = {
    "PNEUMONIA": re.compile(r"(?P<patient>person\d+_(?:bacteria|virus))_(?P<image>\d+)\.jpeg"),
    "NORMAL": re.compile(r"(?P<patient>(?:NORMAL2-)?IM-\d{4})-(?P<image>\d{4})\.jpeg"),
}


def make(root: Path, patients: int = PATIENTS, seed: int = 3) -> dict[str, bytes]:
    """Bytes of every written file by its path below root."""
    count = phantom.generate(root, patients=patients, seed=seed, short_side=SIDE)
    files = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.*")}
    assert len(files) == count
    return files


def parse(name: str) -> tuple[str, str, str, int]:
    """Split, class, patient and image number of a file."""
    split, label, file = name.split("/")
    match = NAME[label].fullmatch(file)
    assert match, name
    return split, label, match["patient"], int(match["image"])


def draw(seed: int, pathogen: str, side: int = SIDE) -> NDArray[np.uint8]:
    return phantom.draw(np.random.default_rng(seed), pathogen, short_side=side)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return make(tmp_path_factory.mktemp("phantoms"))


def test_same_arguments_give_same_bytes(files: dict[str, bytes], tmp_path: Path) -> None:
    assert make(tmp_path) == files


def test_other_seed_gives_other_images(files: dict[str, bytes], tmp_path: Path) -> None:
    other = make(tmp_path, seed=4)
    assert not set(files.values()) & set(other.values())


def test_more_patients_leave_earlier_files_alone(files: dict[str, bytes], tmp_path: Path) -> None:
    fewer = make(tmp_path, patients=17)
    assert fewer.items() < files.items()


def test_every_split_and_class_has_its_share(files: dict[str, bytes]) -> None:
    placed = {parse(name)[:3] for name in files}
    count = Counter((split, label) for split, label, _ in placed)
    assert len(placed) == PATIENTS
    assert count["val", "NORMAL"] == count["val", "PNEUMONIA"] == 1
    assert sum(n for (_, label), n in count.items() if label == "PNEUMONIA") == 0.6 * PATIENTS
    for label in ("NORMAL", "PNEUMONIA"):
        share = count["test", label] / (count["test", label] + count["train", label])
        assert 0.1 < share < 0.25


@pytest.mark.parametrize("patients", [8, 9, 10, 11, 12])
def test_few_patients_fill_every_folder(tmp_path: Path, patients: int) -> None:
    folders = {parse(name)[:2] for name in make(tmp_path, patients)}
    assert folders == {(s, c) for s in ("train", "test", "val") for c in NAME}


def test_no_patient_is_in_two_splits(files: dict[str, bytes]) -> None:
    splits = defaultdict(set)
    for split, _, patient, _ in map(parse, files):
        splits[patient].add(split)
    assert all(len(found) == 1 for found in splits.values())


def test_number_is_shared_by_patients_of_different_splits(files: dict[str, bytes]) -> None:
    split = {patient: split for split, _, patient, _ in map(parse, files)}
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


def test_files_are_grey_jpeg_of_varying_size(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("patients", [-1, 0, 7])
def test_too_few_patients_are_refused(tmp_path: Path, patients: int) -> None:
    with pytest.raises(ValueError, match=f"at least 8, got {patients}"):
        phantom.generate(tmp_path / "data", patients=patients, seed=0)
    assert not (tmp_path / "data").exists()


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pathogen must be one of"):
        draw(0, "fungus")
    with pytest.raises(ValueError, match="short_side must be at least 32, got 31"):
        draw(0, "none", side=31)
    with pytest.raises(ValueError, match="short_side must be at least 32, got 0"):
        phantom.generate(tmp_path / "data", patients=8, seed=0, short_side=0)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("pathogen", phantom.PATHOGENS)
def test_drawing_is_a_grey_image_that_uses_the_range(pathogen: str) -> None:
    image = draw(5, pathogen, side=128)
    assert image.dtype == np.uint8
    assert image.ndim == 2
    assert 102 <= image.shape[0] <= image.shape[1]
    assert np.ptp(image) > 100
    assert np.array_equal(image, draw(5, pathogen, side=128))


@pytest.mark.parametrize("pathogen", ["bacteria", "virus"])
@pytest.mark.parametrize("seed", range(10))
def test_pneumonia_makes_the_lungs_denser(seed: int, pathogen: str) -> None:
    healthy, ill = lung_density(draw(seed, "none", 128)), lung_density(draw(seed, pathogen, 128))
    assert ill > 1.02 * healthy


def lung_density(image: NDArray[np.uint8]) -> float:
    """Brightness of the middle of the chest relative to the belly, whatever the exposure."""
    height, width = image.shape
    middle = slice(width // 2 - int(0.3 * height), width // 2 + int(0.3 * height))
    lungs = image[int(0.2 * height) : int(0.65 * height), middle]
    return float(lungs.mean() / image[int(0.85 * height) :, middle].mean())


def test_brightness_and_shape_do_not_tell_the_class() -> None:
    pathogens = ["none", "bacteria", "none", "virus"] * 200
    images = [draw(seed, pathogen) for seed, pathogen in enumerate(pathogens)]
    ill = [pathogen != "none" for pathogen in pathogens]
    features = {
        "brightness": [image.mean() for image in images],
        "aspect ratio": [image.shape[1] / image.shape[0] for image in images],
        "height": [image.shape[0] for image in images],
    }
    for name, values in features.items():
        assert 0.4 < roc_auc_score(ill, values) < 0.6, name
