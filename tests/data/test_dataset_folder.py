"""Which files of a folder are the data set's images."""

from dataclasses import FrozenInstanceError
from pathlib import Path, PurePosixPath

import pytest

from cxr.data.dataset_folder import (
    SourceError,
    describe_unplaced,
    head_reader,
    list_files,
    refuse_unplaced,
    select_images,
    size_reader,
    unfollowed_links,
)
from cxr.errors import CxrError


def paths(*names: str) -> list[PurePosixPath]:
    return [PurePosixPath(name) for name in names]


def test_images_come_sorted_with_split_and_label() -> None:
    contents = select_images(
        paths("val/PNEUMONIA/c.png", "train/NORMAL/b.JPG", "test/NORMAL/a.jpeg")
    )
    assert list(contents.images.items()) == [
        (PurePosixPath("test/NORMAL/a.jpeg"), ("test", "NORMAL")),
        (PurePosixPath("train/NORMAL/b.JPG"), ("train", "NORMAL")),
        (PurePosixPath("val/PNEUMONIA/c.png"), ("val", "PNEUMONIA")),
    ]
    assert (contents.stray, contents.nested, contents.other) == (0, 0, 0)


def test_kaggle_zip_unpacked_as_it_is() -> None:
    contents = select_images(
        paths(
            "chest_xray/train/NORMAL/a.jpeg",
            "chest_xray/val/NORMAL/b.jpeg",
            "chest_xray/chest_xray/train/NORMAL/a.jpeg",
            "chest_xray/chest_xray/val/NORMAL/b.jpeg",
            "chest_xray/__MACOSX/train/NORMAL/._a.jpeg",
            "__MACOSX/chest_xray/train/NORMAL/a.jpeg",
            "chest_xray/.DS_Store",
            "chest_xray/train/NORMAL/.DS_Store",
        )
    )
    assert list(map(str, contents.images)) == [
        "chest_xray/train/NORMAL/a.jpeg",
        "chest_xray/val/NORMAL/b.jpeg",
    ]
    assert (contents.stray, contents.nested, contents.other) == (4, 2, 0)
    assert contents.unplaced == []
    assert contents.root == PurePosixPath("chest_xray")


def test_an_image_only_in_a_nested_copy_is_unplaced() -> None:
    contents = select_images(
        paths("train/NORMAL/a.jpeg", "more/train/NORMAL/a.jpeg", "more/train/NORMAL/b.jpeg")
    )
    assert contents.unplaced == paths("more/train/NORMAL/b.jpeg")
    assert contents.nested == 1


def test_a_nested_image_of_another_size_is_no_copy(tmp_path: Path) -> None:
    """Such as nested folders of two hospitals, each with images 1, 2, ..."""
    for name, content in {
        **{"train/NORMAL/1.png": b"here", "train/NORMAL/2.png": b"here"},
        **{"more/train/NORMAL/1.png": b"copy", "more/train/NORMAL/2.png": b"another"},
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    contents = select_images(list_files(tmp_path)[0], size=size_reader(tmp_path))
    assert list(contents.images) == paths("train/NORMAL/1.png", "train/NORMAL/2.png")
    assert (contents.unplaced, contents.nested) == (paths("more/train/NORMAL/2.png"), 1)
    size = size_reader(tmp_path)
    assert size(PurePosixPath("none")) == size(PurePosixPath("\0")) == -1


def test_equal_names_in_different_folders_of_a_class_are_no_copies() -> None:
    placed = paths("train/PNEUMONIA/bacteria/1.jpeg", "train/PNEUMONIA/virus/2.jpeg")
    deeper = paths("more/train/PNEUMONIA/bacteria/2.jpeg", "more/train/PNEUMONIA/virus/1.jpeg")
    contents = select_images([*placed, *deeper])
    assert list(contents.images) == placed
    assert (contents.unplaced, contents.nested) == (deeper, 0)


@pytest.mark.parametrize("folder", ["val", "valid", "validation"])
def test_folders_that_mean_val(folder: str) -> None:
    path = PurePosixPath(folder, "NORMAL/x.jpeg")
    assert select_images([path]).images == {path: ("val", "NORMAL")}


@pytest.mark.parametrize("below", ["virus", "a/b", "x.jpeg"])
def test_folders_below_a_class_are_read(below: str) -> None:
    path = PurePosixPath("train/PNEUMONIA", below, "x.jpeg")
    assert select_images([path]).images == {path: ("train", "PNEUMONIA")}


@pytest.mark.parametrize("suffix", [".jpe", ".jfif", ".JFIF", ".Png"])
def test_suffixes_of_images(suffix: str) -> None:
    path = PurePosixPath(f"train/NORMAL/x{suffix}")
    assert list(select_images([path]).images) == [path]


JPEG = b"\xff\xd8\xff\xe0"


@pytest.mark.parametrize("name", ["x", "DOE.JOHN", "x.jpeg_large", "x.img", "x.1.2.840"])
def test_other_suffixes_are_recognized_by_content(tmp_path: Path, name: str) -> None:
    for place, content in (("train/NORMAL", JPEG), ("notes", JPEG), ("train/PNEUMONIA", b"x")):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / name).write_bytes(content)
    files, _ = list_files(tmp_path)
    contents = select_images(files, head_reader(tmp_path))
    assert list(contents.images) == paths(f"train/NORMAL/{name}")
    assert contents.unplaced == paths(f"notes/{name}")
    assert contents.other == 1


def test_head_of_unreadable_files_is_empty(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("folder", "missing", "zero\0"):
        assert head_reader(tmp_path)(PurePosixPath(name)) == b""


@pytest.mark.parametrize(
    "name",
    [
        "sizes.csv",
        "train/README",
        "train/NORMAL/Thumbs.db",
        "sub/origin.json",
    ],
)
def test_anything_else_is_other(name: str) -> None:
    contents = select_images(paths("train/NORMAL/a.jpeg", name))
    assert list(contents.images) == paths("train/NORMAL/a.jpeg")
    assert (contents.stray, contents.nested, contents.other) == (0, 0, 1)
    assert contents.unplaced == []


UNPLACED = [
    "NORMAL/x.jpeg",
    "holdout/NORMAL/x.jpeg",
    "train/BACTERIA/x.jpeg",
    "train/COVID/x.jpeg",
    "train/NORMAL/PNEUMONIA/x.jpeg",
    "train/NORMAL/test/x.jpeg",
    "train/PNEUMONIA/virus/Validation/x.jpeg",
    "train/PNEUMONIA/normal/x.jpeg",
    "train/normal/x.jpeg",
    "Train/NORMAL/x.jpeg",
    "train/x.jpeg",
    "x.jpeg",
]


@pytest.mark.parametrize("name", UNPLACED)
def test_an_image_outside_the_layout_is_unplaced(name: str) -> None:
    contents = select_images(paths("train/NORMAL/a.jpeg", name))
    assert list(contents.images) == paths("train/NORMAL/a.jpeg")
    assert (contents.stray, contents.nested, contents.other) == (0, 0, 0)
    assert contents.unplaced == paths(name)


def test_unplaced_images_are_an_error_or_skipped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = [f"train/{label}/{n}.png" for label in ("normal", "pneumonia") for n in range(20)]
    contents = select_images(paths("train/NORMAL/a.jpeg", *names))
    assert describe_unplaced(contents) == "40 images in train/normal, train/pneumonia"
    with pytest.raises(SourceError) as caught:
        refuse_unplaced("/my/images", contents, paths("val"), "error")
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("/my/images: 40 images in train/normal, train/pneumonia ")
    assert lines[:2] == ["  train/normal: 20 images", "  train/pneumonia: 20 images"]
    assert lines[2].startswith("  val: a symbolic link")
    assert "NORMAL/ and PNEUMONIA/" in lines[3]
    assert "data.on_unplaced" in lines[4]
    refuse_unplaced("/my/images", contents, [], "skip")
    assert "train/normal: 20 images" in capsys.readouterr().out
    refuse_unplaced("/my/images", select_images(paths("train/NORMAL/a.jpeg")), [], "error")


def test_of_many_folders_the_first_are_named() -> None:
    contents = select_images(paths(*(f"{n:02}/x.png" for n in range(15))))
    assert describe_unplaced(contents).endswith("07, 08, 09, and 5 more folders")
    with pytest.raises(SourceError, match="09: 1 image\n  and 5 more"):
        refuse_unplaced("here", contents, [], "error")


def test_own_origin_is_not_counted_and_a_path_counts_once() -> None:
    contents = select_images(paths("origin.json", "train/NORMAL/a.jpeg", "train/NORMAL/a.jpeg"))
    assert len(contents.images) == 1
    assert (contents.stray, contents.nested, contents.other) == (0, 0, 0)


def test_nothing_selected_from_nothing() -> None:
    assert select_images([]).images == {}


def test_two_equally_shallow_roots_are_named() -> None:
    with pytest.raises(SourceError, match=r"(?s)\bold\b.*\bnew\b|\bnew\b.*\bold\b"):
        select_images(paths("old/train/NORMAL/a.jpeg", "new/test/NORMAL/a.jpeg"))


def test_two_deeper_roots_do_not_matter() -> None:
    contents = select_images(
        paths("train/NORMAL/a.jpeg", "x/train/NORMAL/a.jpeg", "y/train/NORMAL/a.jpeg")
    )
    assert (len(contents.images), contents.nested) == (1, 2)


def test_contents_is_frozen_and_its_error_ends_a_stage_politely() -> None:
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
    (home / ".hidden").symlink_to(outside)
    (home / "notes").symlink_to("nowhere")
    files, links = list_files(home)
    assert files == paths("a/x.jpeg", "inner.jpeg")
    assert len(links) == 6
    # Behind the others is nothing, or what is listed where it lies.
    assert unfollowed_links(home, links) == paths("broken.jpeg", "folder", "outer.jpeg")


def test_list_files_enters_a_folder_that_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x.jpeg").write_bytes(b"x")
    (tmp_path / "real" / "y.jpeg").symlink_to("x.jpeg")
    (tmp_path / "link").symlink_to("real")
    assert list_files(tmp_path / "link") == (paths("x.jpeg", "y.jpeg"), [])


def test_list_files_raises_for_an_unreadable_folder(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"):
        list_files(tmp_path / "missing")
