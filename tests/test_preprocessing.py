"""Images of the folder -> arrays of the splits, row by row."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr import preprocessing
from cxr.arrays import open_split
from cxr.cleaning import read_prepared
from cxr.demo import PROJECT
from cxr.images import ImageError
from cxr.labels import LABELS, SPLITS
from cxr.manifest import verify
from cxr.params import read_params
from cxr.preprocessing import cache_splits, class_balance

PARAMS = read_params(PROJECT / "params.yaml").image.model_copy(update={"size": 16})
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
        Image.fromarray(pixels).save(path)
    return folder


@pytest.fixture(scope="module")
def manifest(raw: Path) -> pd.DataFrame:
    return verify(raw, "error").images


def mixed(manifest: pd.DataFrame) -> pd.Series:
    """Splits that differ from those of the folder: 15, 10 and 5 images, not in one piece."""
    return pd.Series(list("aabcab") * 5, index=manifest.index).map(
        {"a": "train", "b": "val", "c": "test"}
    )


@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
@pytest.mark.parametrize("chunk", [1, 4, 256])
def test_arrays_are_the_files_row_by_row(
    raw: Path,
    manifest: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    resize: Any,
    chunk: int,
) -> None:
    monkeypatch.setattr(preprocessing, "CHUNK", chunk)
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


def test_index_keeps_what_is_known_but_neither_split_nor_sha256(
    raw: Path, manifest: pd.DataFrame, tmp_path: Path
) -> None:
    """The split of the folder would contradict that of the array."""
    cache_splits(raw, manifest, mixed(manifest), PARAMS, tmp_path)
    for name in SPLITS:
        index = open_split(tmp_path / name).index
        assert not {"split", "sha256"} & set(index.columns)
        wanted = manifest[mixed(manifest) == name]
        for column in KEPT:
            assert list(index[column]) == list(wanted[column].astype(str))
    assert (index["patient"] == index["path"]).all()  # names without a pattern


def test_no_more_than_a_chunk_is_decoded_ahead(
    raw: Path, manifest: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []

    def counted(*arguments: Any) -> Any:
        decoded.append(arguments)
        return read_prepared(*arguments)

    def stops_early(folder: Path, images: Iterable[Any], index: pd.DataFrame) -> None:
        next(iter(images))

    monkeypatch.setattr(preprocessing, "CHUNK", 3)
    monkeypatch.setattr(preprocessing, "read_prepared", counted)
    monkeypatch.setattr(preprocessing, "write_split", stops_early)
    cache_splits(raw, manifest, mixed(manifest), PARAMS, tmp_path)
    assert 3 <= len(decoded) <= 3 * len(SPLITS)


@pytest.mark.parametrize("damage", ["emptied", "truncated", "removed", "replaced"])
@pytest.mark.parametrize("row", [0, 9])
def test_image_that_changed_since_it_was_verified(
    raw: Path, manifest: pd.DataFrame, tmp_path: Path, damage: str, row: int
) -> None:
    name = manifest["path"][mixed(manifest) == "val"].iloc[row]
    copy = tmp_path / "raw"
    for path in manifest["path"]:
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        (copy / path).write_bytes((raw / path).read_bytes())
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
    with pytest.raises(ImageError) as caught:
        cache_splits(copy, manifest, mixed(manifest), PARAMS, arrays)
    assert str(copy / name) in str(caught.value)
    assert not (arrays / "val").exists()
    assert not list(arrays.glob(".part-*"))


def test_class_balance_counts_every_split_and_class() -> None:
    manifest = pd.DataFrame({"label": ["NORMAL"] * 3 + ["PNEUMONIA"] * 4, "split": ["test"] * 7})
    assigned = pd.Series(["train", "train", "val", "train", "test", "test", "test"])
    found = class_balance(manifest, assigned)
    assert list(found.columns) == ["split", "label", "images"]
    assert found.to_numpy().tolist() == [
        ["train", "NORMAL", 2],
        ["train", "PNEUMONIA", 1],
        ["val", "NORMAL", 1],
        ["val", "PNEUMONIA", 0],
        ["test", "NORMAL", 0],
        ["test", "PNEUMONIA", 3],
    ]
