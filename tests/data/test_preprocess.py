"""Images of the folder -> arrays of the splits, row by row."""

import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import imageio.v3 as iio
import numpy as np
import pandas as pd
import pytest

import stages.fetch
import stages.preprocess
from cxr.common.arrays import open_split
from cxr.common.names import LABELS, SPLITS
from cxr.data import preprocess
from cxr.data.images import ImageError
from cxr.data.manifest import identify, verify
from cxr.data.preprocess import cache_splits, class_balance
from cxr.data.transforms import read_prepared
from cxr.errors import CxrError
from cxr.params import read_params
from cxr.tools.project_copy import PROJECT, copy_project, set_params

PARAMS = read_params(PROJECT / "params.yaml").image.model_copy(update={"input_size": 16})
KEPT = ["path", "label", "patient", "pathogen", "width", "height"]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 images of different sizes and contents. Do not change it."""
    folder = tmp_path_factory.mktemp("raw")
    random = np.random.default_rng(4)
    for split, label, number in itertools.product(SPLITS, LABELS, range(5)):
        path = folder / split / label / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (20 + 3 * number, 30), np.uint8)
        iio.imwrite(path, pixels)
    return folder


@pytest.fixture(scope="module")
def manifest(raw: Path) -> pd.DataFrame:
    return verify(raw, "error").images


def mixed(manifest: pd.DataFrame) -> pd.Series:
    """Splits that differ from those of the folder: 15, 10 and 5 images, not in one piece."""
    return pd.Series(list("aabcab") * 5, index=manifest.index).map(
        {"a": "train", "b": "val", "c": "test"}
    )


@pytest.mark.parametrize("resize", ["crop", "stretch", "letterbox"])
@pytest.mark.parametrize("chunk", [1, 4, 256])
def test_arrays_match_the_files_row_by_row(
    raw: Path,
    manifest: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    resize: Any,
    chunk: int,
) -> None:
    monkeypatch.setattr(preprocess, "CHUNK_IMAGES", chunk)
    assigned = mixed(manifest)
    params = PARAMS.model_copy(update={"resize": resize})
    cache_splits(raw, manifest, assigned, params, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(SPLITS)
    for name, count in zip(SPLITS, (15, 10, 5), strict=True):
        split = open_split(tmp_path / name)
        assert split.images.shape == (count, 16, 16)
        assert list(split.index["path"]) == list(manifest["path"][assigned == name])
        for pixels, path in zip(split.images, split.index["path"], strict=True):
            np.testing.assert_array_equal(pixels, read_prepared(raw / path, params))


def test_index_has_the_manifest_columns_except_split_and_hashes(
    raw: Path, manifest: pd.DataFrame, tmp_path: Path
) -> None:
    """The split of the folder would contradict that of the array."""
    cache_splits(raw, manifest, mixed(manifest), PARAMS, tmp_path)
    for name in SPLITS:
        index = open_split(tmp_path / name).index
        assert not {"split", "sha256"} & set(index.columns)
        expected = manifest[mixed(manifest) == name]
        for column in KEPT:
            assert list(index[column]) == list(expected[column].astype(str))
    assert (index["patient"] == index["path"]).all()  # names without a pattern


def test_at_most_one_chunk_is_decoded_ahead(
    raw: Path, manifest: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []

    def counted(*arguments: Any) -> Any:
        decoded.append(arguments)
        return read_prepared(*arguments)

    def stops_early(folder: Path, images: Iterable[Any], index: pd.DataFrame) -> None:
        next(iter(images))

    monkeypatch.setattr(preprocess, "CHUNK_IMAGES", 3)
    monkeypatch.setattr(preprocess, "read_prepared", counted)
    monkeypatch.setattr(preprocess, "write_split", stops_early)
    cache_splits(raw, manifest, mixed(manifest), PARAMS, tmp_path)
    assert 3 <= len(decoded) <= 3 * len(SPLITS)


@pytest.mark.parametrize("damage", ["emptied", "truncated", "removed", "replaced"])
@pytest.mark.parametrize("row", [0, 9])
def test_an_image_changed_since_verification(
    raw: Path, manifest: pd.DataFrame, tmp_path: Path, damage: str, row: int
) -> None:
    name = manifest["path"][mixed(manifest) == "val"].iloc[row]
    copy = shutil.copytree(raw, tmp_path / "raw")
    match damage:
        case "replaced":
            (copy / name).write_bytes((raw / manifest["path"].iloc[0]).read_bytes())
        case "removed":
            (copy / name).unlink()
        case "emptied":
            (copy / name).write_bytes(b"")
        case "truncated":
            (copy / name).write_bytes((raw / name).read_bytes()[:200])
    arrays = tmp_path / "arrays"
    reason = "No such file" if damage == "removed" else "changed since it was verified"
    with pytest.raises(ImageError, match=f"^{copy / name}: {reason}"):
        cache_splits(copy, manifest, mixed(manifest), PARAMS, arrays)
    assert not (arrays / "val").exists()
    assert not list(arrays.glob(".part-*"))


def test_class_balance_counts_every_split_and_class() -> None:
    manifest = pd.DataFrame({"label": ["NORMAL"] * 3 + ["PNEUMONIA"] * 4, "split": ["test"] * 7})
    assigned = pd.Series(["train", "train", "val", "train", "test", "test", "test"])
    found = class_balance(manifest, assigned)
    assert list(found.columns) == ["split", "label", "group", "images"]
    assert list(found["group"]) == list(found["split"] + " " + found["label"])
    assert found.drop(columns="group").to_numpy().tolist() == [
        ["train", "NORMAL", 2],
        ["train", "PNEUMONIA", 1],
        ["val", "NORMAL", 1],
        ["val", "PNEUMONIA", 0],
        ["test", "NORMAL", 0],
        ["test", "PNEUMONIA", 3],
    ]


# --- foreign names, by the stages themselves -----------------------------------------------------


def of_third_version(patient: str, number: int, label: str) -> str:
    """As `VIRUS-1000007-0001_jpeg.rf.0a0a0a.jpg`, exported by another program."""
    kind = "NORMAL" if label == "NORMAL" else patient.split("_")[1].upper()
    digits = int(hashlib.sha256(patient.encode()).hexdigest()[:6], 16)
    return f"{kind}-{digits}-{number:04}_jpeg.rf.{'0a' * 16}.jpg"


def without_patient(patient: str, number: int, label: str) -> str:
    return f"scan{hashlib.sha256(f'{patient}{number}'.encode()).hexdigest()[:8]}.jpg"


class Foreign:
    """A project of images with other names; `patients` gives the patient by path."""

    def __init__(self, folder: Path, phantoms: Path, rename: Callable[..., str]) -> None:
        self.patients: dict[str, str] = {}
        self.settings = {
            **{"data.source": "directory", "data.directory": "mine", "data.on_leak": "warn"},
            **{"image.input_size": 32, "split.val_fraction": 0.3},
        }
        copy_project(folder)
        for number, file in enumerate(sorted(phantoms.rglob("*.jpeg"))):
            path = PurePosixPath(file.relative_to(phantoms).as_posix())
            patient, _ = identify(path, path.parts[1])
            new = path.with_name(rename(patient, number, path.parts[1]))
            self.patients[str(new)] = patient
            (folder / "mine" / new).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, folder / "mine" / new)

    def run(self, stage: ModuleType, **settings: str) -> None:
        self.settings |= {key.replace("__", "."): value for key, value in settings.items()}
        set_params(Path("params.yaml"), self.settings)
        stage.main()

    def metrics(self, name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(Path(f"metrics/{name}.json").read_text())
        return content

    def patients_in_two_splits(self) -> int:
        index = [pd.read_csv(f"data/arrays/{split}/index.csv") for split in SPLITS]
        tables = [one.assign(split=n) for n, one in enumerate(index)]
        whole = pd.concat(tables)
        return int((whole.groupby(whole["path"].map(self.patients))["split"].nunique() > 1).sum())


@pytest.fixture
def foreign(
    tmp_path: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Foreign:
    monkeypatch.chdir(tmp_path)
    return Foreign(tmp_path, phantoms, request.param)


@pytest.mark.parametrize("foreign", [of_third_version], indirect=True)
def test_known_names_of_any_version_are_split_by_patient(foreign: Foreign) -> None:
    foreign.run(stages.fetch)
    foreign.run(stages.preprocess)
    assert foreign.metrics("data")["unknown_patients"] == 0
    assert foreign.metrics("data")["unknown_pathogens"] == 0
    assert foreign.metrics("data")["patients"] == len(set(foreign.patients.values()))
    assert foreign.metrics("guards")["leaks"]["patient"] == 0
    assert foreign.patients_in_two_splits() == 0


@pytest.mark.parametrize("foreign", [without_patient], indirect=True)
def test_unknown_patients_prevent_a_split_by_patient_until_given(
    foreign: Foreign, capsys: pytest.CaptureFixture[str]
) -> None:
    count = len(foreign.patients)
    foreign.run(stages.fetch)
    assert f"the patient of {count} of {count} images" in capsys.readouterr().out
    assert foreign.metrics("data")["unknown_patients"] == count
    with pytest.raises(CxrError, match=f"patient of {count} of {count} images"):
        foreign.run(stages.preprocess)
    assert not Path("data/arrays").exists()
    foreign.run(stages.preprocess, split__group_by="image")
    assert foreign.metrics("guards")["leaks"]["patient"] is None
    assert foreign.patients_in_two_splits() > 0
    rows = [f"{path},{patient}" for path, patient in foreign.patients.items()]
    Path("patients.csv").write_text("\n".join(["path,patient", *rows]))
    foreign.run(stages.fetch, data__patients="patients.csv", split__group_by="patient")
    foreign.run(stages.preprocess)
    assert foreign.metrics("data")["unknown_patients"] == 0
    assert foreign.metrics("guards")["leaks"]["patient"] == 0
    assert foreign.patients_in_two_splits() == 0


@pytest.mark.parametrize("foreign", [of_third_version], indirect=True)
def test_files_left_out_are_in_the_metrics(foreign: Foreign) -> None:
    for name in ("notes.txt", ".DS_Store", "train/COVID/x.jpeg"):
        Path("mine", name).parent.mkdir(exist_ok=True)
        Path("mine", name).write_bytes(b"x")
    with pytest.raises(CxrError, match=r"data\.directory is 'mine': (?s:.*)train/COVID: 1 image"):
        foreign.run(stages.fetch)
    foreign.run(stages.fetch, data__on_unplaced="skip")
    counts = {"stray": 1, "nested": 0, "other": 1, "links": 0, "unplaced": 1}
    assert foreign.metrics("data")["left_out"] == counts
    foreign.run(stages.fetch)  # the copy is used again
    assert foreign.metrics("data")["left_out"] == counts
