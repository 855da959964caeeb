"""Images of the folder -> arrays of the splits, row by row."""

import itertools
import json
import shutil
from collections.abc import Iterable
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


# --- other file names, by the stages themselves --------------------------------------------------


class Project:
    """A project of images whose names do not contain the patient; `patients` has it by path."""

    def __init__(self, folder: Path, phantoms: Path) -> None:
        self.patients: dict[str, str] = {}
        self.settings: dict[str, Any] = {
            **{"data.source": "directory", "data.directory": "mine", "data.on_leak": "warn"},
            **{"image.input_size": 32, "split.val_fraction": 0.3},
        }
        copy_project(folder)
        for number, file in enumerate(sorted(phantoms.rglob("*.jpeg"))):
            path = PurePosixPath(file.relative_to(phantoms).as_posix())
            new = path.with_name(f"scan{number}.jpg")
            self.patients[str(new)], _ = identify(path, path.parts[1])
            (folder / "mine" / new).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, folder / "mine" / new)

    def run(self, stage: ModuleType, **settings: str) -> None:
        self.settings |= {key.replace("__", "."): value for key, value in settings.items()}
        set_params(Path("params.yaml"), self.settings)
        stage.main()

    def metrics(self, name: str) -> Any:
        return json.loads(Path(f"metrics/{name}.json").read_text())

    def patients_in_two_splits(self) -> int:
        index = pd.concat(
            pd.read_csv(f"data/arrays/{split}/index.csv").assign(split=split) for split in SPLITS
        )
        splits = index.groupby(index["path"].map(self.patients))["split"].nunique()
        return int((splits > 1).sum())


@pytest.fixture
def project(tmp_path: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path, phantoms)


def test_unknown_patients_prevent_a_split_by_patient_until_given(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    count = len(project.patients)
    project.run(stages.fetch)
    assert f"the patient of {count} of {count} images" in capsys.readouterr().out
    assert project.metrics("data")["unknown_patients"] == count
    with pytest.raises(CxrError, match=f"patient of {count} of {count} images"):
        project.run(stages.preprocess)
    assert not Path("data/arrays").exists()
    project.run(stages.preprocess, split__group_by="image")
    assert project.metrics("guards")["leaks"]["patient"] is None
    assert project.patients_in_two_splits() > 0
    rows = [f"{path},{patient}" for path, patient in project.patients.items()]
    Path("patients.csv").write_text("\n".join(["path,patient", *rows]))
    project.run(stages.fetch, data__patients="patients.csv", split__group_by="patient")
    project.run(stages.preprocess)
    assert project.metrics("data")["unknown_patients"] == 0
    assert project.metrics("guards")["leaks"]["patient"] == 0
    assert project.patients_in_two_splits() == 0


def test_files_left_out_are_in_the_metrics(project: Project) -> None:
    for name in ("notes.txt", ".DS_Store", "train/COVID/x.jpeg"):
        Path("mine", name).parent.mkdir(exist_ok=True)
        Path("mine", name).write_bytes(b"x")
    with pytest.raises(CxrError, match=r"data\.directory is 'mine': (?s:.*)train/COVID: 1 image"):
        project.run(stages.fetch)
    project.run(stages.fetch, data__on_unplaced="skip")
    counts = {"stray": 1, "nested": 0, "other": 1, "links": 0, "unplaced": 1}
    assert project.metrics("data")["left_out"] == counts
    project.run(stages.fetch)  # the copy is used again
    assert project.metrics("data")["left_out"] == counts
