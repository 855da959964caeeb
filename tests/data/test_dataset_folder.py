"""Which files of a folder are the data set's images."""

import os
from pathlib import Path, PurePosixPath

import pytest

from cxr.data.dataset_folder import NOTHING_LEFT_OUT, refuse_unplaced, scan, select_images
from cxr.errors import CxrError

JPEG = b"\xff\xd8\xff\xe0"
PLACED = "train/NORMAL/a.jpeg"


def paths(*names: str) -> list[PurePosixPath]:
    return [PurePosixPath(name) for name in names]


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_images_are_sorted_and_have_the_split_and_label_of_their_folders() -> None:
    expected = {
        "test/NORMAL/a.jpeg": ("test", "NORMAL"),
        "train/NORMAL/b.JPG": ("train", "NORMAL"),
        "train/NORMAL/c.jpe": ("train", "NORMAL"),
        "train/NORMAL/d.JFIF": ("train", "NORMAL"),
        "train/PNEUMONIA/a/b/x.png": ("train", "PNEUMONIA"),
        "train/PNEUMONIA/x.jpeg/x.jpeg": ("train", "PNEUMONIA"),
        "val/PNEUMONIA/c.png": ("val", "PNEUMONIA"),
        "valid/NORMAL/x.Png": ("val", "NORMAL"),
        "validation/NORMAL/x.png": ("val", "NORMAL"),
    }
    contents = select_images(reversed([*paths(*expected), *paths(PLACED, PLACED, "origin.json")]))
    selected = {str(path): place for path, place in contents.images.items()}
    assert selected == expected | {PLACED: ("train", "NORMAL")}
    assert list(selected) == sorted(selected)
    assert contents.left_out == NOTHING_LEFT_OUT


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "other") for name in ("sizes.csv", "train/NORMAL/Thumbs.db", "sub/origin.json")),
        *((name, "stray") for name in ("train/.DS_Store", "__MACOSX/train/NORMAL/a.jpeg")),
        ("train/NORMAL/._a.jpeg", "stray"),
        ("NORMAL/x.jpeg", "unplaced"),
        ("holdout/NORMAL/x.jpeg", "unplaced"),
        ("train/COVID/x.jpeg", "unplaced"),
        ("train/NORMAL/PNEUMONIA/x.jpeg", "unplaced"),
        ("train/NORMAL/test/x.jpeg", "unplaced"),
        ("train/PNEUMONIA/virus/Validation/x.jpeg", "unplaced"),
        ("train/PNEUMONIA/normal/x.jpeg", "unplaced"),
        ("train/normal/x.jpeg", "unplaced"),
        ("Train/NORMAL/x.jpeg", "unplaced"),
        ("train/x.jpeg", "unplaced"),
        ("x.jpeg", "unplaced"),
        ("more/train/NORMAL/a.jpeg", "nested"),
        ("more/train/NORMAL/b.jpeg", "unplaced"),
        ("more/train/NORMAL/virus/a.jpeg", "unplaced"),
    ],
)
def test_other_files_are_counted_by_kind(name: str, kind: str) -> None:
    contents = select_images(paths(PLACED, name))
    assert list(contents.images) == paths(PLACED)
    assert contents.left_out == NOTHING_LEFT_OUT | {kind: 1}
    assert contents.unplaced == (paths(name) if kind == "unplaced" else [])


def test_a_nested_image_of_another_size_is_no_copy(tmp_path: Path) -> None:
    """Such as nested folders of two hospitals, each with images 1, 2, ..."""
    write(tmp_path, {"train/NORMAL/1.png": b"here", "train/NORMAL/2.png": b"here"})
    write(tmp_path, {"more/train/NORMAL/1.png": b"copy", "more/train/NORMAL/2.png": b"another"})
    contents = scan(tmp_path)
    assert list(contents.images) == paths("train/NORMAL/1.png", "train/NORMAL/2.png")
    assert contents.unplaced == paths("more/train/NORMAL/2.png")
    assert contents.left_out == NOTHING_LEFT_OUT | {"nested": 1, "unplaced": 1}


def test_the_highest_folder_with_splits_is_used() -> None:
    copies = ("x/one/y/train/NORMAL/a.jpeg", "x/two/y/train/NORMAL/a.jpeg")
    contents = select_images(paths("x/set/train/NORMAL/a.jpeg", *copies))
    assert list(contents.images) == paths("x/set/train/NORMAL/a.jpeg")
    assert contents.root == PurePosixPath("x/set")
    assert contents.left_out == NOTHING_LEFT_OUT | {"nested": 2}
    with pytest.raises(CxrError, match="new and old"):
        select_images(paths("old/train/NORMAL/a.jpeg", "new/test/NORMAL/a.jpeg"))


@pytest.mark.parametrize("name", ["x", "DOE.JOHN", "x.jpeg_large", "x.1.2.840"])
def test_other_suffixes_are_recognized_by_content(tmp_path: Path, name: str) -> None:
    files = {f"train/NORMAL/{name}": JPEG, f"notes/{name}": JPEG, f"train/PNEUMONIA/{name}": b"x"}
    write(tmp_path, files)
    os.mkfifo(tmp_path / "pipe")  # reading it would block
    contents = scan(tmp_path)
    assert list(contents.images) == paths(f"train/NORMAL/{name}")
    assert contents.unplaced == paths(f"notes/{name}")
    assert contents.left_out == NOTHING_LEFT_OUT | {"other": 2, "unplaced": 1}


def test_unplaced_images_are_an_error_or_skipped(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"train/{label}/{n}.png" for label in ("normal", "pneumonia") for n in range(20)]
    contents = select_images(paths(PLACED, *names, "x.png"))
    listed = "  .: 1 image\n  train/normal: 20 images\n  train/pneumonia: 20 images\n"
    with pytest.raises(CxrError, match=r"^/my/images: images outside .*:\n" + listed) as caught:
        refuse_unplaced("/my/images", contents, "error")
    assert "NORMAL/ and PNEUMONIA/" in str(caught.value)
    assert "data.on_unplaced" in str(caught.value)
    refuse_unplaced("/my/images", contents, "skip")
    assert listed in capsys.readouterr().out
    refuse_unplaced("/my/images", select_images(paths(PLACED)), "error")


def test_of_many_folders_the_first_are_named() -> None:
    contents = select_images(paths(*(f"{n:02}/x.png" for n in range(15))))
    with pytest.raises(CxrError, match="09: 1 image\n  and 5 more folders"):
        refuse_unplaced("here", contents, "error")


def test_no_link_out_of_the_folder_is_followed(tmp_path: Path) -> None:
    home, outside = tmp_path / "home", tmp_path / "outside"
    for folder in (home / "a", outside):
        write(folder, {"x.jpeg": b"x"})
    (home / "inner.jpeg").symlink_to("a/x.jpeg")
    (home / "outer.jpeg").symlink_to(outside / "x.jpeg")
    (home / "broken.jpeg").symlink_to("nowhere")
    (home / "folder").symlink_to(outside)
    (home / "loop").symlink_to(home)
    (home / ".hidden").symlink_to(outside)
    (home / "notes").symlink_to("nowhere")
    (tmp_path / "link").symlink_to("home")
    for folder in (home, tmp_path / "link"):
        contents = scan(folder)
        assert contents.unplaced == paths("a/x.jpeg", "inner.jpeg")
        assert contents.left_out == NOTHING_LEFT_OUT | {"links": 6, "unplaced": 2}
        # The others lead to nothing, or to images that are listed.
        assert contents.unfollowed == paths("broken.jpeg", "folder", "outer.jpeg")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"):
        scan(tmp_path / "missing")
