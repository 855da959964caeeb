"""Array cache: row-wise writing, memory-mapped reading, damaged files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from cxr.common.arrays import batches, evenly_spaced, open_rows, open_split, write_rows, write_split
from cxr.common.files import remove
from cxr.errors import CxrError


def images(count: int, height: int = 4, width: int = 5) -> NDArray[np.uint8]:
    return np.random.default_rng(2).integers(0, 256, (count, height, width), np.uint8)


def index(count: int) -> pd.DataFrame:
    labels = ["PNEUMONIA" if number % 3 else "NORMAL" for number in range(count)]
    return pd.DataFrame({"path": [f"{n}.png" for n in range(count)], "label": labels})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", "int64", ">i2", "bool"])
@pytest.mark.parametrize("shape", [(3,), (1, 2), (3, 4, 5), (2, 3, 4, 5), (4, 0), (0, 3)])
def test_file_equals_that_of_numpy(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(1).integers(0, 2**7, shape).astype(dtype)
    write_rows(tmp_path / "rows.npy", iter(array), shape, dtype)
    np.save(tmp_path / "saved.npy", array)
    assert (tmp_path / "rows.npy").read_bytes() == (tmp_path / "saved.npy").read_bytes()
    assert names(tmp_path) == ["rows.npy", "saved.npy"]


def test_rows_are_memory_mapped_read_only(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    write_rows(tmp_path / "rows.npy", iter(array), array.shape, "float32")
    rows = open_rows(tmp_path / "rows.npy")
    np.testing.assert_array_equal(rows, array)
    assert isinstance(rows, np.memmap)
    assert not rows.flags.writeable


@pytest.mark.parametrize("length", [None, 0, 60, 130])
def test_missing_or_truncated_rows_raise(tmp_path: Path, length: int | None) -> None:
    file = tmp_path / "rows.npy"
    if length is not None:
        write_rows(file, iter(np.zeros((3, 4))), (3, 4), "float64")
        file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(CxrError, match=r"rows\.npy.*dvc repro"):
        open_rows(file)


def test_blocks_of_any_memory_layout_and_dtype(tmp_path: Path) -> None:
    array = np.arange(24.0).reshape(6, 4)
    blocks = [array[:1], np.asfortranarray(array[1:4]), array[4:].astype(np.int32)]
    write_rows(tmp_path / "rows.npy", iter(blocks), (6, 4), "float32")
    rows = np.load(tmp_path / "rows.npy")
    np.testing.assert_array_equal(rows, array)
    assert rows.dtype == np.float32


def test_rows_are_written_one_by_one(tmp_path: Path) -> None:
    """Few rows are in memory at a time, and the file appears after the last one."""
    alive = []

    class Row(np.ndarray):
        def __del__(self) -> None:
            alive.remove(id(self))

    def rows() -> Iterator[Any]:
        for _ in range(100):
            row = np.zeros(10, np.uint8).view(Row)
            alive.append(id(row))
            yield row
            assert len(alive) < 10
            assert not (tmp_path / "rows.npy").exists()

    write_rows(tmp_path / "rows.npy", rows(), (100, 10), "uint8")
    assert np.load(tmp_path / "rows.npy").shape == (100, 10)


@pytest.mark.parametrize("shape", [(0, 3), (3, 3), (5, 3), (8, 3), (4, 2), (4, 4)])
def test_rows_that_do_not_fill_the_shape_write_no_file(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    with pytest.raises(ValueError, match="do not fill"):
        write_rows(tmp_path / "rows.npy", iter(np.zeros(shape)), (4, 3), "float32")
    assert names(tmp_path) == []


@pytest.mark.parametrize("count", [1, 2, 7])
def test_split_round_trip(tmp_path: Path, count: int) -> None:
    folder = tmp_path / "arrays" / "train"
    write_split(folder, iter(images(count)), index(count))
    split = open_split(folder)
    np.testing.assert_array_equal(split.images, images(count))
    assert split.images.dtype == np.uint8
    pd.testing.assert_frame_equal(split.index, index(count), check_dtype=False)
    assert names(tmp_path / "arrays") == ["train"]
    assert names(folder) == ["images.npy", "index.csv"]


def test_labels_are_class_indices_by_row(tmp_path: Path) -> None:
    write_split(tmp_path / "train", images(5), index(5))
    labels = open_split(tmp_path / "train").labels
    np.testing.assert_array_equal(labels, [0, 1, 1, 0, 1])
    assert labels.dtype == np.int64


@pytest.mark.parametrize("text", ["0012", "NA", "", "1e5", "nan", "a,b"])
def test_index_values_stay_strings(tmp_path: Path, text: str) -> None:
    write_split(tmp_path / "train", images(1), index(1).assign(patient=text))
    assert list(open_split(tmp_path / "train").index["patient"]) == [text]


@pytest.mark.parametrize(
    "array",
    [
        images(0),
        images(2),
        images(4),
        images(3).astype(np.float32),
        images(3)[:, 0],
        images(3)[..., np.newaxis],
        np.array([None] * 3),
    ],
)
def test_images_not_matching_the_index_raise(tmp_path: Path, array: NDArray[np.generic]) -> None:
    write_split(tmp_path / "train", images(3), index(3))
    np.save(tmp_path / "train" / "images.npy", array)
    with pytest.raises(CxrError) as caught:
        open_split(tmp_path / "train")
    assert str(tmp_path / "train") in str(caught.value)


@pytest.mark.parametrize("missing", ["train/images.npy", "train/index.csv", "train"])
def test_missing_file(tmp_path: Path, missing: str) -> None:
    write_split(tmp_path / "train", images(3), index(3))
    remove(tmp_path / missing)
    with pytest.raises(CxrError, match=f"{tmp_path / 'train'} .*dvc repro preprocess"):
        open_split(tmp_path / "train")


def test_images_of_different_sizes_raise(tmp_path: Path) -> None:
    mixed = [np.zeros((4, 6), np.uint8), np.zeros((6, 4), np.uint8)]
    with pytest.raises(ValueError, match=r"shape \(6, 4\)"):
        write_split(tmp_path / "train", mixed, index(2))
    assert not (tmp_path / "train").exists()


def test_no_image_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no image"):
        write_split(tmp_path / "train", [], pd.DataFrame({"path": [], "label": []}))
    assert not (tmp_path / "train").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY", b"\x80\x04N."], ids=repr)
def test_damaged_array_raises(tmp_path: Path, content: bytes) -> None:
    write_split(tmp_path / "train", images(1), index(1))
    (tmp_path / "train/images.npy").write_bytes(content)
    with pytest.raises(CxrError, match="dvc repro preprocess"):
        open_split(tmp_path / "train")


@pytest.mark.parametrize(
    ("count", "max_count", "expected"),
    [(4, 9, [0, 1, 2, 3]), (4, 4, [0, 1, 2, 3]), (9, 3, [0, 4, 8]), (1, 5, [0]), (0, 5, [])],
)
def test_row_numbers_are_evenly_spaced(count: int, max_count: int, expected: list[int]) -> None:
    assert evenly_spaced(count, max_count).tolist() == expected


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1, [1]), (4, [4]), (9, [4, 4, 1])])
def test_batches_are_consecutive_and_complete(count: int, sizes: list[int]) -> None:
    batched = list(batches(np.arange(count), 4))
    assert [len(batch) for batch in batched] == sizes
    assert [row for batch in batched for row in batch] == list(range(count))


def test_batches_are_lazy() -> None:
    taken: list[int] = []
    batched = batches((taken.append(number) or number for number in range(9)), 4)
    assert next(batched) == [0, 1, 2, 3] == taken
    assert next(batched) == [4, 5, 6, 7] and len(taken) == 8
