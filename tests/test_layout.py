"""Which files of a folder are the data set's images."""

from dataclasses import FrozenInstanceError
from pathlib import Path, PurePosixPath

import pytest

from cxr.errors import CxrError
from cxr.layout import SourceError, list_files, select_images


def paths(*names: str) -> list[PurePosixPath]:
    return [PurePosixPath(name) for name in names]


def test_images_come_sorted_with_split_and_label() -> None:
    selection = select_images(
        paths("val/PNEUMONIA/c.png", "train/NORMAL/b.JPG", "test/NORMAL/a.jpeg")
    )
    assert list(selection.images.items()) == [
        (PurePosixPath("test/NORMAL/a.jpeg"), ("test", "NORMAL")),
        (PurePosixPath("train/NORMAL/b.JPG"), ("train", "NORMAL")),
        (PurePosixPath("val/PNEUMONIA/c.png"), ("val", "PNEUMONIA")),
    ]
    assert (selection.stray, selection.nested, selection.other) == (0, 0, 0)


def test_kaggle_zip_unpacked_as_it_is() -> None:
    selection = select_images(
        paths(
            "chest_xray/train/NORMAL/a.jpeg",
            "chest_xray/val/NORMAL/b.jpeg",
            "chest_xray/chest_xray/train/NORMAL/a.jpeg",
            "chest_xray/chest_xray/test/NORMAL/t.jpeg",
            "chest_xray/__MACOSX/train/NORMAL/._a.jpeg",
            "__MACOSX/chest_xray/train/NORMAL/a.jpeg",
            "chest_xray/.DS_Store",
            "chest_xray/train/NORMAL/.DS_Store",
        )
    )
    assert list(map(str, selection.images)) == [
        "chest_xray/train/NORMAL/a.jpeg",
        "chest_xray/val/NORMAL/b.jpeg",
    ]
    assert (selection.stray, selection.nested, selection.other) == (4, 2, 0)


@pytest.mark.parametrize(
    "name",
    [
        "sizes.csv",
        "train/README",
        "train/COVID/x.jpeg",
        "valid/NORMAL/x.jpeg",
        "train/normal/x.jpeg",
        "train/NORMAL/x.tiff",
        "train/NORMAL/deeper/x.jpeg",
        "NORMAL/x.jpeg",
        "x.jpeg",
        "sub/origin.json",
    ],
)
def test_anything_else_is_other(name: str) -> None:
    selection = select_images(paths("train/NORMAL/a.jpeg", name))
    assert list(selection.images) == paths("train/NORMAL/a.jpeg")
    assert (selection.stray, selection.nested, selection.other) == (0, 0, 1)


def test_own_origin_is_not_counted_and_a_path_counts_once() -> None:
    selection = select_images(paths("origin.json", "train/NORMAL/a.jpeg", "train/NORMAL/a.jpeg"))
    assert len(selection.images) == 1
    assert (selection.stray, selection.nested, selection.other) == (0, 0, 0)


def test_nothing_selected_from_nothing() -> None:
    assert select_images([]).images == {}


def test_two_equally_shallow_roots_are_named() -> None:
    with pytest.raises(SourceError, match=r"(?s)\bold\b.*\bnew\b|\bnew\b.*\bold\b"):
        select_images(paths("old/train/NORMAL/a.jpeg", "new/test/NORMAL/a.jpeg"))


def test_two_deeper_roots_do_not_matter() -> None:
    selection = select_images(
        paths("train/NORMAL/a.jpeg", "x/train/NORMAL/a.jpeg", "y/train/NORMAL/a.jpeg")
    )
    assert (len(selection.images), selection.nested) == (1, 2)


def test_selection_is_frozen_and_its_error_ends_a_stage_politely() -> None:
    with pytest.raises(FrozenInstanceError):
        select_images([]).stray = 1  # type: ignore[misc]
    assert issubclass(SourceError, CxrError)


def test_list_files_follows_no_link_out_of_the_folder(tmp_path: Path) -> None:
    home, outside = tmp_path / "home", tmp_path / "outside"
    for folder in (home / "a", outside):
        folder.mkdir(parents=True)
        (folder / "x.jpeg").write_bytes(b"x")
    (home / "inner.jpeg").symlink_to("a/x.jpeg")
    (home / "outer.jpeg").symlink_to(outside / "x.jpeg")
    (home / "broken.jpeg").symlink_to("nowhere")
    (home / "folder").symlink_to(outside)
    (home / "loop").symlink_to(home)
    assert list_files(home) == (paths("a/x.jpeg", "inner.jpeg"), 4)


def test_list_files_enters_a_folder_that_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x.jpeg").write_bytes(b"x")
    (tmp_path / "real" / "y.jpeg").symlink_to("x.jpeg")
    (tmp_path / "link").symlink_to("real")
    assert list_files(tmp_path / "link") == (paths("x.jpeg", "y.jpeg"), 0)


def test_list_files_does_not_pass_over_what_it_cannot_read(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"):
        list_files(tmp_path / "missing")
