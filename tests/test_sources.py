"""How the raw images get into place: whole or not at all, and never over a user's own."""

import hashlib
import io
import json
import os
import shutil
import socket
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import kagglehub
import pytest
import requests
from servers import Serve, Tree, zipped
from urllib3.util import Retry

from cxr import phantom, sources
from cxr.sources import Archive, SourceError, ensure_raw

CLEAN: Tree = {
    "train/NORMAL/IM-0001-0001.jpeg": b"train normal",
    "train/PNEUMONIA/person1_virus_1.jpeg": b"train pneumonia",
    "test/NORMAL/IM-0002-0001.jpeg": b"test normal",
}
KAGGLE: Tree = {
    **{f"chest_xray/{name}": data for name, data in CLEAN.items()},
    "chest_xray/val/PNEUMONIA/person2_virus_2.jpeg": b"val",
    **{f"chest_xray/chest_xray/{name}": data for name, data in CLEAN.items()},
    "chest_xray/__MACOSX/train/NORMAL/._IM-0001-0001.jpeg": b"mac",
    "chest_xray/train/.DS_Store": b"mac",
    "chest_xray/sizes.csv": b"1,2",
}
WAYS = ["back", "by hand", "make demo"]


def write(root: Path, tree: Tree) -> Path:
    for name, data in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def read(root: Path) -> Tree:
    """Return all files below a folder except the record of where they came from."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "origin.json")
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def state(root: Path) -> dict[str, tuple[int, int, int]]:
    """Return what would tell any change below a folder: number, size and time of everything."""
    found = {path: path.lstat() for path in [root, *root.rglob("*")]}
    return {str(path): (s.st_ino, s.st_size, s.st_mtime_ns) for path, s in found.items()}


def left_beside(raw: Path) -> list[str]:
    return sorted(path.name for path in raw.parent.iterdir() if path != raw)


@pytest.fixture
def kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Stand in for Kaggle; the list names the data sets asked for."""
    asked: list[str] = []

    def download(handle: str) -> str:
        asked.append(handle)
        return str(write(tmp_path / "cache", KAGGLE))

    monkeypatch.setattr(kagglehub, "dataset_download", download)
    yield asked


@pytest.fixture
def phantoms(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stand in for the generator; the list holds the settings of each call."""
    calls: list[dict[str, Any]] = []

    def generate(root: Path, **settings: Any) -> int:
        calls.append(settings)
        write(root, {"train/NORMAL/a.jpeg": json.dumps(settings).encode()})
        return 1

    monkeypatch.setattr(phantom, "generate", generate)
    return calls


def fail(*_: object, **__: object) -> Any:
    raise AssertionError("must not be called")


# --- any source ----------------------------------------------------------------------------------


def test_unknown_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"'\.\./x'.*kaggle, mendeley, directory, phantom"):
        ensure_raw(tmp_path / "raw" / "x", "../x")
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize("source", sources.SOURCES)
@pytest.mark.parametrize("name", ["train/NORMAL/a.jpeg", "deep/er/b.JPG", "c.png"])
def test_users_images_are_left_alone(
    source: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kagglehub, "dataset_download", fail)
    monkeypatch.setattr(requests.Session, "get", fail)
    monkeypatch.setattr(phantom, "generate", fail)
    raw = write(tmp_path / "raw" / source, {name: b"mine", "notes.txt": b"mine"})
    os.utime(raw / name, (1, 1))
    before = state(raw)
    ensure_raw(raw, source, directory=str(tmp_path / "elsewhere"), phantom_patients=9)
    assert state(raw) == before
    assert left_beside(raw) == []


def test_a_foreign_origin_json_makes_no_folder_ours(tmp_path: Path, kaggle: list[str]) -> None:
    mine = {"train/NORMAL/a.jpeg": b"mine", "origin.json": b'{"hospital": "mine"}'}
    raw = write(tmp_path / "raw" / "kaggle", mine)
    before = state(raw)
    ensure_raw(raw, "kaggle")
    assert state(raw) == before
    assert kaggle == []


def test_a_damaged_origin_json_is_named_and_nothing_replaced(tmp_path: Path) -> None:
    raw = write(tmp_path / "phantom", {"train/NORMAL/a.jpeg": b"a", "origin.json": b"{"})
    before = state(raw)
    with pytest.raises(SourceError, match=r"origin\.json is damaged"):
        ensure_raw(raw, "phantom", phantom_patients=8)
    assert state(raw) == before


@pytest.mark.parametrize("name", ["archive.zip", "train/NORMAL/notes.csv"])
def test_files_without_any_image_are_refused_untouched(
    name: str, tmp_path: Path, kaggle: list[str]
) -> None:
    raw = write(tmp_path / "raw" / "kaggle", {name: b"x"})
    before = state(raw)
    with pytest.raises(SourceError, match=f"{Path(name).name}.*not one image"):
        ensure_raw(raw, "kaggle")
    assert state(raw) == before
    assert kaggle == []


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kaggle").write_text("x")
    with pytest.raises(SourceError, match="in the way"):
        ensure_raw(tmp_path / "kaggle", "kaggle")
    assert (tmp_path / "kaggle").read_text() == "x"


@pytest.mark.parametrize("inside", ["", "train/NORMAL"])
def test_an_empty_folder_is_replaced(
    inside: str, tmp_path: Path, phantoms: list[dict[str, Any]]
) -> None:
    raw = tmp_path / "phantom"
    (raw / inside).mkdir(parents=True)
    ensure_raw(raw, "phantom", phantom_patients=8)
    assert len(phantoms) == 1
    assert list(read(raw)) == ["train/NORMAL/a.jpeg"]
    assert left_beside(raw) == []


def test_images_put_there_meanwhile_are_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "phantom"
    raw.mkdir()

    def generate(root: Path, **_: int) -> int:
        write(raw, {"train/NORMAL/mine.jpeg": b"mine"})
        write(root, {"train/NORMAL/a.jpeg": b"ours"})
        return 1

    monkeypatch.setattr(phantom, "generate", generate)
    with pytest.raises(SourceError, match="not empty"):
        ensure_raw(raw, "phantom")
    assert read(raw) == {"train/NORMAL/mine.jpeg": b"mine"}
    assert left_beside(raw) == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_attempt_leaves_nothing(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "raw" / "phantom"

    def generate(root: Path, **_: int) -> int:
        write(root, {"train/NORMAL/a.jpeg": b"half"})
        assert not raw.exists()
        raise error

    monkeypatch.setattr(phantom, "generate", generate)
    with pytest.raises((SourceError, KeyboardInterrupt)) as caught:
        ensure_raw(raw, "phantom")
    assert list(raw.parent.iterdir()) == []
    if isinstance(error, OSError):
        assert f"{raw.parent}: No space left on device" in str(caught.value)
        assert caught.value.__cause__ is error


@pytest.mark.usefixtures("phantoms")
def test_leftovers_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    raw = tmp_path / "phantom"
    for patients in (8, 8, 9):
        write(tmp_path / f".part-{os.getpid()}-phantom", {"train/NORMAL/half.jpeg": b"half"})
        write(tmp_path / ".phantom.old", {"train/NORMAL/old.jpeg": b"old"})
        ensure_raw(raw, "phantom", phantom_patients=patients)
        assert list(read(raw)) == ["train/NORMAL/a.jpeg"]
        assert left_beside(raw) == []


@pytest.mark.usefixtures("phantoms")
def test_a_copy_killed_while_the_old_one_is_deleted_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    raw = tmp_path / "phantom"
    ensure_raw(raw, "phantom", phantom_patients=8)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", killed)
        ensure_raw(raw, "phantom", phantom_patients=9)
    assert json.loads((raw / "origin.json").read_text())["patients"] == 9
    assert b'"patients": 9' in read(raw)["train/NORMAL/a.jpeg"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SourceError, match=r"cannot read or write .*file"):
        ensure_raw(tmp_path / "file" / "phantom", "phantom", phantom_patients=8)


# --- phantom -------------------------------------------------------------------------------------


def test_phantoms_that_cannot_be_drawn_are_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phantom, "MIN_DISTANCE", 200)
    with pytest.raises(SourceError, match=r"data\.phantom .*fewer patients"):
        ensure_raw(tmp_path / "phantom", "phantom", phantom_patients=8, phantom_short_side=32)
    assert list(tmp_path.iterdir()) == []


def test_phantom_records_its_settings(tmp_path: Path, phantoms: list[dict[str, Any]]) -> None:
    raw = tmp_path / "phantom"
    ensure_raw(raw, "phantom", phantom_patients=60, phantom_seed=1, phantom_short_side=128)
    settings = {"patients": 60, "seed": 1, "short_side": 128, "shortcut": "none"}
    assert phantoms == [settings]
    nothing = {"left_out": dict.fromkeys(sources.LEFT_OUT, 0)}
    record = {"source": "phantom", **settings, **nothing}
    expected = json.dumps(record, indent=2, sort_keys=True) + "\n"
    assert (raw / "origin.json").read_text() == expected


def test_phantom_is_made_once_for_the_same_settings(
    tmp_path: Path, phantoms: list[dict[str, Any]]
) -> None:
    raw = tmp_path / "phantom"
    ensure_raw(raw, "phantom", phantom_patients=9)
    before = state(raw)
    ensure_raw(raw, "phantom", phantom_patients=9)
    assert state(raw) == before
    assert len(phantoms) == 1


@pytest.mark.usefixtures("phantoms")
def test_phantom_is_made_anew_for_other_settings(tmp_path: Path) -> None:
    raw = tmp_path / "phantom"
    for seed, shortcut in ((1, "none"), (2, "none"), (2, "device")):
        ensure_raw(raw, "phantom", phantom_patients=9, phantom_seed=seed, phantom_shortcut=shortcut)
        made, recorded = read(raw)["train/NORMAL/a.jpeg"], (raw / "origin.json").read_bytes()
        for settings in map(json.loads, (made, recorded)):
            assert (settings["seed"], settings["shortcut"]) == (seed, shortcut)
    assert left_beside(raw) == []


@pytest.mark.usefixtures("phantoms")
def test_phantom_is_kept_when_the_new_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "phantom"
    ensure_raw(raw, "phantom", phantom_patients=9)
    before = state(raw)
    monkeypatch.setattr(phantom, "generate", lambda *_, **__: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(SourceError):
        ensure_raw(raw, "phantom", phantom_patients=10)
    assert state(raw) == before
    assert left_beside(raw) == []


@pytest.mark.usefixtures("phantoms")
def test_phantom_is_made_anew_when_only_its_record_is_left(tmp_path: Path) -> None:
    raw = tmp_path / "phantom"
    ensure_raw(raw, "phantom", phantom_patients=9)
    shutil.rmtree(raw / "train")
    ensure_raw(raw, "phantom", phantom_patients=9)
    assert list(read(raw)) == ["train/NORMAL/a.jpeg"]


# --- directory -----------------------------------------------------------------------------------


def test_directory_is_copied_without_strays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = write(tmp_path / "mine", {**CLEAN, "notes.txt": b"x", "train/.DS_Store": b"x"})
    name = "train/NORMAL/IM-0001-0001.jpeg"
    write(mine, {"train/covid/c.png": b"x", f"copy/{name}": CLEAN[name]})
    secret = write(tmp_path / "secret", {"train/NORMAL/s.jpeg": b"secret"})
    (mine / "train/link.jpeg").symlink_to(secret / "train/NORMAL/s.jpeg")
    (mine / "val").symlink_to(secret / "train")
    before = state(mine)
    raw = tmp_path / "raw" / "directory"
    ensure_raw(raw, "directory", directory=str(mine), on_unplaced="skip")
    assert read(raw) == CLEAN
    assert state(mine) == before
    for name in CLEAN:
        assert not (raw / name).samefile(mine / name)
        assert (raw / name).stat().st_mtime_ns == (mine / name).stat().st_mtime_ns
    counts = {"stray": 1, "nested": 1, "other": 1, "links": 2, "unplaced": 1}
    assert json.loads((raw / "origin.json").read_text()) == {
        "directory": str(mine),
        "left_out": counts,
        "source": "directory",
    }
    assert sources.left_out(raw) == counts
    printed = capsys.readouterr().out
    assert "train/covid: 1 image\n" in printed
    assert "1 images where the layout knows none" in printed
    assert "3 images" in printed
    assert "1 hidden" in printed
    assert "1 other" in printed
    assert "2 links" in printed


@pytest.mark.parametrize(
    "lost", ["train/covid/c.png", "more/train/NORMAL/m.jpeg", f"more/{min(CLEAN)}"]
)
def test_directory_with_unplaced_images_is_refused_until_they_are_skipped(
    tmp_path: Path, lost: str
) -> None:
    mine = write(tmp_path / "mine", {**CLEAN, lost: b"x"})
    raw = tmp_path / "raw" / "directory"
    wanted = rf"{mine}'.*1 image in {Path(lost).parent}(?s:.*)data\.on_unplaced"
    with pytest.raises(SourceError, match=wanted):
        ensure_raw(raw, "directory", directory=str(mine))
    assert not raw.exists()
    ensure_raw(raw, "directory", directory=str(mine), on_unplaced="skip")
    before = state(raw)
    ensure_raw(raw, "directory", directory=str(mine), on_unplaced="skip")
    assert state(raw) == before
    # The copy alone would not show what was skipped.
    with pytest.raises(SourceError, match=wanted):
        ensure_raw(raw, "directory", directory=str(mine))
    assert state(raw) == before


@pytest.mark.parametrize("link", ["train/link.jpeg", "val", "train/PNEUMONIA/virus"])
def test_a_link_behind_which_images_may_be_is_refused(tmp_path: Path, link: str) -> None:
    mine = write(tmp_path / "mine", CLEAN)
    (mine / link).symlink_to(write(tmp_path / "other", CLEAN))
    with pytest.raises(SourceError, match=f"{link}: a symbolic link, which is not followed"):
        ensure_raw(tmp_path / "directory", "directory", directory=str(mine))


def test_directory_keeps_paths_and_reads_every_suffix_and_folder_of_a_class(
    tmp_path: Path,
) -> None:
    jpeg = b"\xff\xd8\xff\xe0"
    tree = {
        "set/train/PNEUMONIA/virus/a.jfif": b"a",
        "set/train/PNEUMONIA/bacteria/a.jfif": b"b",
        "set/train/NORMAL/DOE.JOHN": jpeg,
        "set/valid/NORMAL/c": jpeg,
    }
    mine = write(tmp_path / "mine", {**tree, "set/train/NORMAL/notes": b"text"})
    raw = tmp_path / "directory"
    ensure_raw(raw, "directory", directory=str(mine))
    assert read(raw) == tree
    assert sources.left_out(raw) == dict.fromkeys(sources.LEFT_OUT, 0) | {"other": 1}


def test_what_was_left_out_is_unknown_of_a_copy_without_counts(tmp_path: Path) -> None:
    raw = write(tmp_path / "kaggle", CLEAN)
    assert sources.left_out(raw) == dict.fromkeys(sources.LEFT_OUT, 0)
    (raw / "origin.json").write_text('{"source": "kaggle"}')
    before = state(raw)
    ensure_raw(raw, "kaggle")
    assert state(raw) == before
    assert sources.left_out(raw) is None


def test_images_without_a_suffix_are_a_users_images(tmp_path: Path) -> None:
    raw = write(tmp_path / "kaggle", {"train/NORMAL/scan": b"\xff\xd8\xff\xe0"})
    before = state(raw)
    ensure_raw(raw, "kaggle")
    assert state(raw) == before


@pytest.mark.parametrize("given", ["mine", "~/mine"])
def test_directory_may_be_relative_or_in_the_home_folder(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "mine", CLEAN)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    ensure_raw(Path("data/raw/directory"), "directory", directory=given)
    assert read(Path("data/raw/directory")) == CLEAN


BOTH = ("NORMAL", "PNEUMONIA")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "no NORMAL and PNEUMONIA images. Found: 0 files"),
        (["notes.txt"], "no NORMAL and PNEUMONIA images. Found: 1 files, none of them an image"),
        (["a.jpeg"], "Found: 1 image in ."),
        ([f"train/{of.lower()}/a.png" for of in BOTH], "2 images in train/normal, train/pneumonia"),
        ([f"{of}/a.png" for of in BOTH], "2 images in NORMAL, PNEUMONIA"),
        ([f"val/{of}/a.png" for of in BOTH], "no images in train/ or test/. Found: 2 images in th"),
        (["train/NORMAL/a.png"], "no PNEUMONIA images. Found: 1 images in their places"),
        (
            [f"train/{of}/a.png" for of in ("NORMAL", "BACTERIA", "VIRUS")],
            "1 images in their places, 2 images in train/BACTERIA, train/VIRUS",
        ),
    ],
)
@pytest.mark.parametrize("on_unplaced", ["error", "skip"])
def test_directory_without_both_classes_is_refused_by_the_users_own_path(
    names: list[str], said: str, on_unplaced: str, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    write(mine, dict.fromkeys(names, b"x"))
    raw = tmp_path / "raw" / "directory"
    with pytest.raises(SourceError) as caught:
        ensure_raw(raw, "directory", directory=str(mine), on_unplaced=on_unplaced)
    message = str(caught.value)
    assert message.startswith(f"data.directory is '{mine}'")
    assert said in message
    assert "in train/, test/ or val/" in message
    assert str(raw) not in message
    assert list(raw.parent.iterdir()) == []


def test_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"data\.directory is '.*none'.*not a folder"):
        ensure_raw(tmp_path / "directory", "directory", directory=str(tmp_path / "none"))


def test_directory_unset_wants_images_in_place(tmp_path: Path) -> None:
    raw = tmp_path / "directory"
    with pytest.raises(SourceError, match=f"set data.directory.*{raw}"):
        ensure_raw(raw, "directory")
    assert not raw.exists()


def test_directory_says_that_it_is_ignored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = write(tmp_path / "directory", CLEAN)
    ensure_raw(raw, "directory")
    assert capsys.readouterr().out == ""
    ensure_raw(raw, "directory", directory="elsewhere")
    assert "data.directory is ignored" in capsys.readouterr().out


def test_directory_is_copied_anew_only_when_it_changes(tmp_path: Path) -> None:
    raw = tmp_path / "directory"
    one = write(tmp_path / "one", CLEAN)
    tree: Tree = {f"test/{of}/two.png": b"two" for of in BOTH}
    two = write(tmp_path / "two", tree)
    ensure_raw(raw, "directory", directory=str(one))
    before = state(raw)
    shutil.rmtree(one)
    ensure_raw(raw, "directory", directory=str(one))
    ensure_raw(raw, "directory")
    assert state(raw) == before
    with pytest.raises(SourceError):
        ensure_raw(raw, "directory", directory=str(tmp_path / "none"))
    assert state(raw) == before
    ensure_raw(raw, "directory", directory=str(two))
    assert read(raw) == tree
    assert left_beside(raw) == ["two"]


# --- kaggle --------------------------------------------------------------------------------------


def test_kaggle_keeps_the_shallowest_copy_only(
    tmp_path: Path, kaggle: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "data" / "raw" / "kaggle"
    ensure_raw(raw, "kaggle")
    assert kaggle == ["paultimothymooney/chest-xray-pneumonia"]
    assert read(raw) == {**CLEAN, "val/PNEUMONIA/person2_virus_2.jpeg": b"val"}
    counts = {"stray": 2, "nested": 3, "other": 1, "links": 0, "unplaced": 0}
    record = {"source": "kaggle", "left_out": counts}
    assert json.loads((raw / "origin.json").read_text()) == record
    printed = capsys.readouterr().out
    for part in ("4 images", "3 in nested", "2 hidden", "1 other"):
        assert part in printed
    name = "test/NORMAL/IM-0002-0001.jpeg"
    assert (raw / name).samefile(tmp_path / "cache" / "chest_xray" / name)
    before = state(raw)
    ensure_raw(raw, "kaggle")
    assert state(raw) == before
    assert len(kaggle) == 1


@pytest.mark.usefixtures("kaggle")
def test_kaggle_copies_where_links_are_impossible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", link)
    ensure_raw(tmp_path / "kaggle", "kaggle")
    assert len(read(tmp_path / "kaggle")) == 4


@pytest.mark.parametrize(
    "error",
    [
        requests.exceptions.ConnectionError("no route"),
        kagglehub.exceptions.KaggleApiHTTPError("404 no route"),
        kagglehub.exceptions.DataCorruptionError("no route"),
        OSError("no route"),
        ValueError("no route"),
        zipfile.BadZipFile("no route"),
    ],
)
def test_kaggle_offline_names_three_ways_on(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(_: str) -> str:
        raise error

    monkeypatch.setattr(kagglehub, "dataset_download", download)
    raw = tmp_path / "raw" / "kaggle"
    with pytest.raises(SourceError, match="no route") as caught:
        ensure_raw(raw, "kaggle")
    assert all(way in str(caught.value) for way in WAYS)
    assert f"{raw}/train|test|val/NORMAL|PNEUMONIA" in str(caught.value)
    assert caught.value.__cause__ is error
    assert list(raw.parent.iterdir()) == []


def test_kaggle_without_images_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = write(tmp_path / "cache", {"readme.md": b"moved"})
    monkeypatch.setattr(kagglehub, "dataset_download", lambda _: str(empty))
    with pytest.raises(SourceError, match="has no NORMAL and PNEUMONIA images"):
        ensure_raw(tmp_path / "raw" / "kaggle", "kaggle")
    assert list((tmp_path / "raw").iterdir()) == []


# --- mendeley ------------------------------------------------------------------------------------


MENDELEY: Tree = {
    **{f"chest_xray/{name}": data for name, data in CLEAN.items()},
    "chest_xray/train/NORMAL/.DS_Store": b"mac",
    "__MACOSX/chest_xray/train/NORMAL/._IM-0001-0001.jpeg": b"mac",
}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return tmp_path / "raw" / "mendeley"


@pytest.fixture
def partial_zip(raw: Path) -> Path:
    raw.parent.mkdir()
    return raw.parent / ".mendeley.zip.part"


def test_mendeley_is_the_published_file() -> None:
    assert astuple(sources.MENDELEY) == (
        "https://data.mendeley.com/public-files/datasets/rscbjbr9sj/files/"
        "f12eaf6d-6023-432f-acc9-80c9d7393433/file_downloaded",
        1235512464,
        "13efc055629733dbab07877f8b3c9f81097840dbcdaa326a8542322c2281ce36",
    )


def test_mendeley_is_downloaded_and_unpacked(
    raw: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    site = serve(zipped(MENDELEY))
    ensure_raw(raw, "mendeley")
    assert read(raw) == CLEAN
    counts = dict.fromkeys(sources.LEFT_OUT, 0) | {"stray": 2}
    record = {"source": "mendeley", "left_out": counts}
    assert json.loads((raw / "origin.json").read_text()) == record
    assert left_beside(raw) == []
    printed = capsys.readouterr().out
    assert "3 images" in printed
    assert "2 hidden" in printed
    ensure_raw(raw, "mendeley")
    assert len(site.ranges) == 1


def test_mendeley_reads_every_suffix_and_refuses_images_without_a_place(
    raw: Path, serve: Serve
) -> None:
    scan = {"chest_xray/train/NORMAL/scan": b"\xff\xd8\xff\xe0"}
    serve(zipped({**MENDELEY, **scan, "chest_xray/train/notes": b"text"}))
    ensure_raw(raw, "mendeley")
    assert read(raw) == {**CLEAN, "train/NORMAL/scan": b"\xff\xd8\xff\xe0"}
    assert sources.left_out(raw) == dict.fromkeys(sources.LEFT_OUT, 0) | {"stray": 2, "other": 1}
    shutil.rmtree(raw)
    serve(zipped({**MENDELEY, "chest_xray/holdout/NORMAL/x.jpeg": b"x"}))
    with pytest.raises(SourceError, match="1 image in chest_xray/holdout/NORMAL"):
        ensure_raw(raw, "mendeley")
    assert not raw.exists()


@pytest.mark.parametrize("length", [True, False])
def test_mendeley_resumes_after_a_cut(raw: Path, serve: Serve, length: bool) -> None:
    data = zipped(MENDELEY)
    site = serve(data, cut_at=100, length=length)
    with pytest.raises(SourceError, match="run again to resume") as caught:
        ensure_raw(raw, "mendeley")
    assert all(way in str(caught.value) for way in WAYS)
    assert isinstance(caught.value.__cause__, requests.RequestException)
    assert left_beside(raw) == [".mendeley.zip.part"]
    have = len((raw.parent / ".mendeley.zip.part").read_bytes())
    assert 0 < have <= 100
    ensure_raw(raw, "mendeley")
    assert site.ranges[1] == f"bytes={have}-"
    assert read(raw) == CLEAN
    assert left_beside(raw) == []


def test_mendeley_starts_anew_when_ranges_are_ignored(
    raw: Path, partial_zip: Path, serve: Serve
) -> None:
    partial_zip.write_bytes(b"other" * 20)
    serve(zipped(MENDELEY), ranged=False)
    ensure_raw(raw, "mendeley")
    assert read(raw) == CLEAN


def test_mendeley_complete_zip_is_not_asked_for(raw: Path, partial_zip: Path, serve: Serve) -> None:
    site = serve(zipped(MENDELEY))
    partial_zip.write_bytes(site.data)
    ensure_raw(raw, "mendeley")
    assert site.ranges == []
    assert read(raw) == CLEAN


def test_mendeley_file_that_became_shorter_is_not_resumed_for_ever(
    raw: Path, partial_zip: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = serve(zipped(MENDELEY))
    partial_zip.write_bytes(site.data)
    wanted = replace(sources.MENDELEY, bytes=len(site.data) + 1)
    monkeypatch.setattr(sources, "MENDELEY", wanted)
    with pytest.raises(SourceError, match=f"expected {wanted.bytes} bytes"):
        ensure_raw(raw, "mendeley")
    assert site.ranges == [f"bytes={len(site.data)}-"]
    assert left_beside(raw) == []


def test_mendeley_retries_a_busy_server(raw: Path, serve: Serve) -> None:
    site = serve(zipped(MENDELEY), broken=[503, 500, 429])
    ensure_raw(raw, "mendeley")
    assert len(site.ranges) == 4
    assert read(raw) == CLEAN


def test_mendeley_retries_apply_to_the_real_address() -> None:
    adapter = sources._session().get_adapter(sources.MENDELEY.url)
    assert isinstance(adapter, requests.adapters.HTTPAdapter)
    assert adapter.max_retries.total == 3


@pytest.mark.parametrize("broken", [[500] * 4, [403]])
def test_mendeley_gives_up_on_a_broken_server(raw: Path, serve: Serve, broken: list[int]) -> None:
    site = serve(zipped(MENDELEY), broken=list(broken))
    with pytest.raises(SourceError, match="could not be downloaded") as caught:
        ensure_raw(raw, "mendeley")
    assert all(way in str(caught.value) for way in WAYS)
    assert len(site.ranges) == len(broken)
    assert left_beside(raw) == []


def test_mendeley_offline(raw: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(b"")
    monkeypatch.setattr(sources, "MENDELEY", Archive("http://127.0.0.1:9/x", 10, ""))
    with pytest.raises(SourceError, match="could not be downloaded") as caught:
        ensure_raw(raw, "mendeley")
    assert all(way in str(caught.value) for way in WAYS)


def test_mendeley_notice_page_does_not_spoil_the_partial_zip(
    raw: Path, partial_zip: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(b"<html>down for repair</html>", ranged=False)
    monkeypatch.setattr(sources, "MENDELEY", replace(sources.MENDELEY, bytes=1000))
    partial_zip.write_bytes(b"first part")
    with pytest.raises(SourceError, match="offers 28 bytes, 1000 are expected"):
        ensure_raw(raw, "mendeley")
    assert partial_zip.read_bytes() == b"first part"


def test_mendeley_wrong_checksum_deletes_the_file(
    raw: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = serve(zipped(MENDELEY))
    monkeypatch.setattr(sources, "MENDELEY", replace(sources.MENDELEY, sha256="ab" * 32))
    with pytest.raises(SourceError, match="(?s)expected.*" + "ab" * 32) as caught:
        ensure_raw(raw, "mendeley")
    assert hashlib.sha256(site.data).hexdigest() in str(caught.value)
    assert list(raw.parent.iterdir()) == []


def test_mendeley_archive_cannot_write_elsewhere(
    raw: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    link = zipfile.ZipInfo("chest_xray/train/NORMAL/link.jpeg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    buffer = io.BytesIO(zipped(MENDELEY))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(link, "../../../../secret")
        for name in (
            "../evil/train/NORMAL/up.jpeg",
            "chest_xray/train/NORMAL/../../../../up.jpeg",
            "/train/NORMAL/absolute.jpeg",
            "chest_xray/train/NORMAL/..\\back.jpeg",
            "chest_xray/train/NORMAL/zero#.jpeg",
        ):
            archive.writestr(name, b"evil")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("chest_xray/test/NORMAL/IM-0002-0001.jpeg", b"double")
        name = "test/NORMAL/IM-0002-0001.jpeg"
        archive.writestr(f"chest_xray/chest_xray/{name}", CLEAN[name])
    serve(buffer.getvalue().replace(b"zero#", b"zero\0"))
    ensure_raw(raw, "mendeley")
    assert read(raw) == CLEAN
    assert not any(path.is_symlink() for path in raw.rglob("*"))
    assert sorted(path.name for path in raw.parent.parent.iterdir()) == ["raw"]
    printed = capsys.readouterr().out
    assert "7 links, doubles or unsafe names" in printed
    assert "1 in nested copies" in printed


def test_mendeley_images_of_one_name_and_two_sizes_are_no_copies(raw: Path, serve: Serve) -> None:
    name = "train/NORMAL/IM-0001-0001.jpeg"
    more = {f"chest_xray/chest_xray/{name}": CLEAN[name], f"chest_xray/more/{name}": b"another"}
    serve(zipped({**MENDELEY, **more}))
    with pytest.raises(SourceError, match=r"^http[^ ]*: 1 image in chest_xray/more/train/NORMAL "):
        ensure_raw(raw, "mendeley")


def test_mendeley_oversized_member_is_named(
    raw: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sources.MEMBER_LIMIT_BYTES == 64 * 2**20
    monkeypatch.setattr(sources, "MEMBER_LIMIT_BYTES", 99)
    serve(zipped({**MENDELEY, "chest_xray/test/NORMAL/big.jpeg": b"0" * 100}))
    with pytest.raises(SourceError, match=r"big\.jpeg.* 100 bytes"):
        ensure_raw(raw, "mendeley")
    assert not raw.exists()


@pytest.mark.parametrize(
    "data",
    [b"not a zip at all", zipped(CLEAN).replace(b"train pneumonia", b"train PNEUMONIA")],
    ids=["no zip", "wrong CRC"],
)
def test_mendeley_bad_zip_is_an_error(raw: Path, serve: Serve, data: bytes) -> None:
    serve(data)
    with pytest.raises(SourceError, match="cannot be unpacked"):
        ensure_raw(raw, "mendeley")
    assert left_beside(raw) == [".mendeley.zip.part"]


def test_mendeley_disk_full_while_unpacking_keeps_the_zip(
    raw: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy(*_: object) -> None:
        raise OSError(28, "No space left on device")

    serve(zipped(MENDELEY))
    monkeypatch.setattr(shutil, "copyfileobj", copy)
    with pytest.raises(SourceError, match=f"{raw.parent}: No space left"):
        ensure_raw(raw, "mendeley")
    assert left_beside(raw) == [".mendeley.zip.part"]
    assert not raw.exists()


def test_mendeley_slow_server_is_left_and_resumed(
    raw: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = serve(zipped(MENDELEY), stall_at=100)
    with monkeypatch.context() as patch, pytest.raises(SourceError, match="run again to resume"):
        patch.setattr(sources, "TIMEOUT_SECONDS", (1.0, 1.0))
        ensure_raw(raw, "mendeley")
    assert not raw.exists()
    have = len((raw.parent / ".mendeley.zip.part").read_bytes())
    assert 0 < have <= 100
    site.stall_at = None
    ensure_raw(raw, "mendeley")
    assert site.ranges[-1] == f"bytes={have}-"
    assert read(raw) == CLEAN


def test_mendeley_server_that_never_answers(
    raw: Path, monkeypatch: pytest.MonkeyPatch, serve: Serve
) -> None:
    monkeypatch.setattr(sources, "TIMEOUT_SECONDS", (0.1, 0.1))
    serve(b"x")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        monkeypatch.setattr(sources, "MENDELEY", Archive(url, 10, ""))
        with pytest.raises(SourceError, match="could not be downloaded"):
            ensure_raw(raw, "mendeley")
    assert list(raw.parent.iterdir()) == []


def test_mendeley_waits_longer_before_each_retry(
    raw: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    serve(zipped(MENDELEY), broken=[503] * 3)
    monkeypatch.setattr(sources, "BACKOFF_SECONDS", 1.0)
    monkeypatch.setattr(Retry, "_sleep_backoff", lambda self: waits.append(self.get_backoff_time()))
    ensure_raw(raw, "mendeley")
    assert waits == [0, 2, 4]


def deflated(tree: Tree) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in tree.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.parametrize("members", [1, 60])
def test_mendeley_archive_that_grows_too_much_is_no_archive(
    raw: Path, serve: Serve, members: int
) -> None:
    zeros = bytes(6_000_000 // members)
    bombs = {f"chest_xray/test/NORMAL/{number}.jpeg": zeros for number in range(members)}
    serve(deflated({**MENDELEY, **bombs}))
    with pytest.raises(SourceError, match=r"unpacks to 6,000,\d+"):
        ensure_raw(raw, "mendeley")
    assert not raw.exists()


def with_size(data: bytes, name: str, size: int) -> bytes:
    """The central directory says that a member has `size` bytes."""
    at = data.rindex(name.encode()) - 46
    assert data[at : at + 4] == b"PK\1\2"
    return data[: at + 24] + struct.pack("<I", size) + data[at + 28 :]


PACKS = pytest.mark.parametrize("pack", [zipped, deflated])


@PACKS
def test_mendeley_member_that_says_too_much_is_whole(
    raw: Path, serve: Serve, pack: Callable[[Tree], bytes]
) -> None:
    name = "chest_xray/test/NORMAL/IM-0002-0001.jpeg"
    serve(with_size(pack({**MENDELEY, "a/pad.bin": os.urandom(2_000)}), name, 1_000))
    ensure_raw(raw, "mendeley")
    assert read(raw) == CLEAN


@PACKS
@pytest.mark.parametrize("size", [0, 5])
def test_mendeley_member_that_says_too_little_is_refused(
    raw: Path, serve: Serve, size: int, pack: Callable[[Tree], bytes]
) -> None:
    name = "chest_xray/test/NORMAL/IM-0002-0001.jpeg"
    serve(with_size(pack({**MENDELEY, "a/pad.bin": os.urandom(2_000)}), name, size))
    with pytest.raises(SourceError, match="cannot be unpacked"):
        ensure_raw(raw, "mendeley")
    assert not raw.exists()


def test_mendeley_member_never_gets_larger_than_it_says(
    raw: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small size hides millions of bytes; no more than it says is ever written."""
    written: list[int] = []
    copy = shutil.copyfileobj

    def counting(data: Any, file: Any) -> None:
        try:
            copy(data, file)
        finally:
            written.append(file.tell())

    monkeypatch.setattr(shutil, "copyfileobj", counting)
    name = "chest_xray/test/NORMAL/bomb.jpeg"
    tree = {name: bytes(5_000_000), "chest_xray/test/PNEUMONIA/x.jpeg": b"x"}
    serve(with_size(deflated(tree), name, 50))
    with pytest.raises(SourceError, match="cannot be unpacked"):
        ensure_raw(raw, "mendeley")
    assert len(written) == 1
    assert written[0] <= 50


def flagged(data: bytes, offset: int, value: bytes) -> bytes:
    """The first member's header and entry are changed; the entry has two bytes more before it."""
    for signature, at in ((b"PK\3\4", offset), (b"PK\1\2", offset + 2)):
        start = data.index(signature) + at
        data = data[:start] + value + data[start + len(value) :]
    return data


@pytest.mark.parametrize(
    "data",
    [
        flagged(zipped(CLEAN), 6, b"\1\0"),
        flagged(zipped(CLEAN), 8, b"\x63\0"),
        flagged(zipped(CLEAN), 4, b"\xff\0"),
        flagged(zipped(CLEAN), 6, b"\0\x08").replace(b"IM-0001", b"IM-\xff\xfe01"),
        zipped(CLEAN)[:-30],
        zipped(CLEAN)[40:],
    ],
    ids=["encrypted", "unknown method", "of the future", "no UTF-8", "no end", "no begin"],
)
def test_mendeley_archive_that_zipfile_refuses(raw: Path, serve: Serve, data: bytes) -> None:
    serve(data)
    with pytest.raises(SourceError, match=r"cannot (be unpacked|read)"):
        ensure_raw(raw, "mendeley")
    assert not raw.exists()


def test_mendeley_member_with_too_long_a_name_is_named(raw: Path, serve: Serve) -> None:
    serve(zipped({**MENDELEY, f"chest_xray/test/NORMAL/{'n' * 300}.jpeg": b"x"}))
    with pytest.raises(SourceError, match=r"nnn\.jpeg: File name too long"):
        ensure_raw(raw, "mendeley")
    assert not raw.exists()
