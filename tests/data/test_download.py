"""How the raw images get into place: all or none, and never over a user's own."""

import gc
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kagglehub
import pooch
import pytest
import requests

from cxr.data import download, phantom
from cxr.data.dataset_folder import NOTHING_LEFT_OUT
from cxr.data.download import ensure_raw, folder_state
from cxr.data.known_sets import KNOWN_SETS
from cxr.errors import CxrError
from cxr.params import DataParams, read_params
from cxr.tools.project_copy import PROJECT
from tests.support.servers import Serve, Tree, zipped

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
MENDELEY: Tree = {
    **{f"chest_xray/{name}": data for name, data in CLEAN.items()},
    "chest_xray/train/NORMAL/.DS_Store": b"mac",
    "__MACOSX/chest_xray/train/NORMAL/._IM-0001-0001.jpeg": b"mac",
}
IMAGE = "train/NORMAL/a.jpeg"
OURS = b'{"source": "kaggle"}'
JPEG = b"\xff\xd8\xff\xe0"
PARAMS = read_params(PROJECT / "params.yaml").data


def data_params(
    source: str, directory: Path | str = "", on_unplaced: str = "error", **phantom: Any
) -> DataParams:
    """Section `data` of the parameters; `phantom` is for `data.phantom`."""
    changes = {"source": source, "directory": str(directory), "on_unplaced": on_unplaced}
    return PARAMS.model_copy(
        update=changes | {"phantom": PARAMS.phantom.model_copy(update=phantom)}
    )


def write(root: Path, tree: Tree) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, data in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def read(root: Path) -> Tree:
    """All files below a folder except the record of where they came from."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "origin.json")
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def origin(raw: Path) -> Any:
    return json.loads((raw / "origin.json").read_text())


def stamps(root: Path) -> dict[str, tuple[int, int, int]]:
    """What would show any change below a folder: number, size and time of everything."""
    found = {path: path.lstat() for path in [root, *root.rglob("*")]}
    return {str(path): (s.st_ino, s.st_size, s.st_mtime_ns) for path, s in found.items()}


def beside(raw: Path) -> list[str]:
    return sorted(path.name for path in raw.parent.iterdir() if path != raw)


@pytest.fixture
def kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand in for Kaggle; the list names the data sets asked for."""
    asked: list[str] = []

    def download(handle: str) -> str:
        asked.append(handle)
        return str(write(tmp_path / "cache", KAGGLE))

    monkeypatch.setattr(kagglehub, "dataset_download", download)
    return asked


@pytest.fixture
def phantoms(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replace the generator; returns the settings of each call."""
    calls: list[dict[str, Any]] = []

    def generate(root: Path, **settings: Any) -> int:
        calls.append(settings)
        write(root, {IMAGE: json.dumps(settings).encode()})
        return 1

    monkeypatch.setattr(phantom, "generate", generate)
    return calls


def raising(error: BaseException) -> Callable[..., Any]:
    def function(*_: object, **__: object) -> Any:
        raise error

    return function


# --- any source ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tree", "state"),
    [
        ({}, "absent"),
        ({"origin.json": OURS}, "absent"),
        ({IMAGE: b"a"}, "user"),
        ({"deep/er/b.JPG": b"a", "notes.txt": b"a"}, "user"),
        ({"train/NORMAL/scan": JPEG}, "user"),
        ({IMAGE: b"a", "origin.json": b'{"source": "a hospital"}'}, "user"),
        ({IMAGE: b"a", "origin.json": b'["kaggle"]'}, "user"),
        ({IMAGE: b"a", "origin.json": OURS}, "ours"),
    ],
)
def test_state_of_a_folder(tmp_path: Path, tree: Tree, state: str) -> None:
    assert folder_state(tmp_path / "none") == "absent"
    assert folder_state(write(tmp_path / "raw", tree)) == state


@pytest.mark.parametrize("source", download.SOURCES)
def test_user_images_are_reused(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in (
        *((kagglehub, "dataset_download"), (pooch, "retrieve")),
        (phantom, "generate"),
    ):
        monkeypatch.setattr(module, name, raising(AssertionError()))
    raw = write(tmp_path / "raw" / source, {"deep/er/b.JPG": b"mine", "notes.txt": b"mine"})
    before = stamps(raw)
    ensure_raw(raw, data_params(source))
    assert stamps(raw) == before
    assert beside(raw) == []
    assert download.left_out(raw) == NOTHING_LEFT_OUT


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"archive.zip": b"a"}, r"archive\.zip.*no image"),
        ({"train/NORMAL/notes.csv": b"a"}, r"notes\.csv.*no image"),
        ({IMAGE: b"a", "origin.json": b"{"}, r"origin\.json is damaged"),
        ({IMAGE: b"a"}, "data.directory is 'elsewhere'.* placed manually"),
    ],
)
def test_an_unusable_folder_is_rejected_unchanged(tmp_path: Path, tree: Tree, message: str) -> None:
    raw = write(tmp_path / "directory", tree)
    before = stamps(raw)
    with pytest.raises(CxrError, match=message):
        ensure_raw(raw, data_params("directory", "elsewhere"))
    assert stamps(raw) == before


def test_a_file_in_place_of_the_folder_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "kaggle").write_text("x")
    with pytest.raises(CxrError, match="kaggle is a file"):
        ensure_raw(tmp_path / "kaggle", data_params("kaggle"))
    assert (tmp_path / "kaggle").read_text() == "x"


@pytest.mark.usefixtures("phantoms")
@pytest.mark.parametrize("inside", ["", "train/NORMAL"])
def test_an_empty_folder_is_replaced(inside: str, tmp_path: Path) -> None:
    raw = tmp_path / "phantom"
    (raw / inside).mkdir(parents=True)
    ensure_raw(raw, data_params("phantom"))
    assert list(read(raw)) == [IMAGE]
    assert beside(raw) == []


def test_images_placed_meanwhile_are_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "phantom"

    def generate(root: Path, **_: int) -> int:
        write(raw, {"train/NORMAL/mine.jpeg": b"mine"})
        write(root, {IMAGE: b"ours"})
        return 1

    monkeypatch.setattr(phantom, "generate", generate)
    with pytest.raises(CxrError, match="meanwhile"):
        ensure_raw(raw, data_params("phantom"))
    assert read(raw) == {"train/NORMAL/mine.jpeg": b"mine"}
    assert beside(raw) == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_attempt_leaves_nothing(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "raw" / "phantom"

    def generate(root: Path, **_: int) -> int:
        write(root, {IMAGE: b"half"})
        assert not raw.exists()
        raise error

    monkeypatch.setattr(phantom, "generate", generate)
    with pytest.raises(type(error)):
        ensure_raw(raw, data_params("phantom"))
    assert list(raw.parent.iterdir()) == []


@pytest.mark.usefixtures("phantoms")
def test_leftovers_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    raw = tmp_path / "phantom"
    for patients in (8, 8, 9):
        write(tmp_path / f".part-{os.getpid()}-phantom", {"train/NORMAL/half.jpeg": b"half"})
        write(tmp_path / ".phantom.old", {"train/NORMAL/old.jpeg": b"old"})
        ensure_raw(raw, data_params("phantom", patients=patients))
        assert list(read(raw)) == [IMAGE]
        assert beside(raw) == []


@pytest.mark.usefixtures("phantoms")
def test_a_run_killed_while_the_old_images_are_deleted_leaves_the_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "phantom"
    ensure_raw(raw, data_params("phantom", patients=8))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", raising(KeyboardInterrupt()))
        ensure_raw(raw, data_params("phantom", patients=9))
    assert origin(raw)["patients"] == 9
    assert b'"patients": 9' in read(raw)[IMAGE]


# --- phantom -------------------------------------------------------------------------------------


def test_phantoms_are_generated_once_for_the_same_settings(
    tmp_path: Path, phantoms: list[dict[str, Any]]
) -> None:
    raw = tmp_path / "phantom"
    settings = {"patients": 60, "seed": 1, "short_side": 128, "shortcut": "none"}
    ensure_raw(raw, data_params("phantom", **settings))
    assert phantoms == [settings]
    assert origin(raw) == {"source": "phantom", **settings, "left_out": NOTHING_LEFT_OUT}
    before = stamps(raw)
    ensure_raw(raw, data_params("phantom", **settings))
    assert stamps(raw) == before
    shutil.rmtree(raw / "train")  # only the record is left
    ensure_raw(raw, data_params("phantom", **settings))
    assert list(read(raw)) == [IMAGE]


@pytest.mark.usefixtures("phantoms")
@pytest.mark.parametrize("changed", [{"patients": 9}, {"seed": 2}, {"shortcut": "device"}])
def test_phantoms_are_generated_again_for_other_settings(
    tmp_path: Path, changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "phantom"
    ensure_raw(raw, data_params("phantom", patients=8, seed=1))
    before = stamps(raw)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="no"):
        patch.setattr(phantom, "generate", raising(OSError("no")))
        ensure_raw(raw, data_params("phantom", **{"patients": 8, "seed": 1} | changed))
    assert stamps(raw) == before
    ensure_raw(raw, data_params("phantom", **{"patients": 8, "seed": 1} | changed))
    assert changed.items() <= json.loads(read(raw)[IMAGE]).items()
    assert changed.items() <= origin(raw).items()
    assert beside(raw) == []


# --- directory -----------------------------------------------------------------------------------


def test_directory_is_copied_without_other_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = write(tmp_path / "mine", {**CLEAN, "notes.txt": b"x", "train/.DS_Store": b"x"})
    name = "train/NORMAL/IM-0001-0001.jpeg"
    write(mine, {"train/covid/c.png": b"x", f"copy/{name}": CLEAN[name]})
    secret = write(tmp_path / "secret", {"train/NORMAL/s.jpeg": b"secret"})
    (mine / "train/link.jpeg").symlink_to(secret / "train/NORMAL/s.jpeg")
    (mine / "val").symlink_to(secret / "train")
    before = stamps(mine)
    raw = tmp_path / "raw" / "directory"
    ensure_raw(raw, data_params("directory", mine, "skip"))
    assert read(raw) == CLEAN
    assert stamps(mine) == before
    for name in CLEAN:
        assert not (raw / name).samefile(mine / name)
        assert (raw / name).stat().st_mtime_ns == (mine / name).stat().st_mtime_ns
    counts = {"stray": 1, "nested": 1, "other": 1, "links": 2, "unplaced": 1}
    assert download.left_out(raw) == origin(raw)["left_out"] == counts
    printed = capsys.readouterr().out
    assert "train/covid: 1 image\n" in printed
    assert "3 images; files left out: stray 1, nested 1, other 1, links 2, unplaced 1" in printed


def test_unplaced_images_in_directory_are_an_error_until_skipped(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine", {**CLEAN, "train/covid/c.png": b"x"})
    raw = tmp_path / "raw" / "directory"
    message = rf"{mine}'.*\n  train/covid: 1 image(?s:.*)data\.on_unplaced"
    with pytest.raises(CxrError, match=message):
        ensure_raw(raw, data_params("directory", mine))
    assert not raw.exists()
    ensure_raw(raw, data_params("directory", mine, "skip"))
    before = stamps(raw)
    ensure_raw(raw, data_params("directory", mine, "skip"))
    assert stamps(raw) == before
    # The copy alone would not show what was skipped.
    with pytest.raises(CxrError, match=message):
        ensure_raw(raw, data_params("directory", mine))
    assert stamps(raw) == before


@pytest.mark.parametrize("link", ["train/link.jpeg", "val", "train/PNEUMONIA/virus"])
def test_a_link_that_may_lead_to_images_is_rejected(tmp_path: Path, link: str) -> None:
    mine = write(tmp_path / "mine", CLEAN)
    (mine / link).symlink_to(write(tmp_path / "other", CLEAN))
    with pytest.raises(CxrError, match=f"{link}: symbolic link, not followed"):
        ensure_raw(tmp_path / "directory", data_params("directory", mine))


def test_directory_keeps_paths_and_reads_every_suffix_and_folder_of_a_class(
    tmp_path: Path,
) -> None:
    tree = {
        "set/train/PNEUMONIA/virus/a.jfif": b"a",
        "set/train/PNEUMONIA/bacteria/a.jfif": b"b",
        "set/train/NORMAL/DOE.JOHN": JPEG,
        "set/valid/NORMAL/c": JPEG,
    }
    mine = write(tmp_path / "mine", {**tree, "set/train/NORMAL/notes": b"text"})
    raw = tmp_path / "directory"
    ensure_raw(raw, data_params("directory", mine))
    assert read(raw) == tree
    assert download.left_out(raw) == NOTHING_LEFT_OUT | {"other": 1}


@pytest.mark.usefixtures("kaggle")
def test_a_copy_of_an_earlier_version_without_counts_is_replaced(tmp_path: Path) -> None:
    raw = write(tmp_path / "kaggle", {IMAGE: b"old", "origin.json": OURS})
    ensure_raw(raw, data_params("kaggle"))
    assert IMAGE not in read(raw)
    assert download.left_out(raw)["stray"] == 2


@pytest.mark.parametrize("given", ["mine", "~/mine"])
def test_directory_may_be_relative_or_in_the_home_folder(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "mine", CLEAN)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    ensure_raw(Path("data/raw/directory"), data_params("directory", given))
    assert read(Path("data/raw/directory")) == CLEAN


BOTH = ("NORMAL", "PNEUMONIA")


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["notes.txt"], "0 images in the expected layout, 0 links, 1 other"),
        (["a.jpeg"], "0 images in the expected layout, .: 1 image, "),
        ([f"val/{of}/a.png" for of in BOTH], "2 images in the expected layout, "),
        (
            [f"train/{of}/a.png" for of in ("NORMAL", "BACTERIA", "VIRUS")],
            "1 images in the expected layout, train/BACTERIA: 1 image, train/VIRUS: 1 image, ",
        ),
    ],
)
@pytest.mark.parametrize("on_unplaced", ["error", "skip"])
def test_directory_without_both_classes_is_rejected(
    names: list[str], found: str, on_unplaced: str, tmp_path: Path
) -> None:
    mine = write(tmp_path / "mine", dict.fromkeys(names, b"x"))
    raw = tmp_path / "raw" / "directory"
    with pytest.raises(CxrError) as caught:
        ensure_raw(raw, data_params("directory", mine, on_unplaced))
    message = str(caught.value)
    assert message.startswith(f"data.directory is '{mine}'")
    assert f"Found: {found}" in message
    assert str(raw) not in message
    assert list(raw.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "message"), [("", "set data.directory.*{raw}"), ("none", "'none'.*not a folder")]
)
def test_directory_unset_or_missing_is_rejected(tmp_path: Path, given: str, message: str) -> None:
    raw = tmp_path / "directory"
    with pytest.raises(CxrError, match=message.format(raw=raw)):
        ensure_raw(raw, data_params("directory", given))
    assert not raw.exists()


def add(folder: Path) -> None:
    write(folder, {"val/NORMAL/new.png": b"new"})


def overwrite(folder: Path) -> None:
    """By as many bytes, at the same time."""
    path = folder / min(CLEAN)
    before = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def rename(folder: Path) -> None:
    (folder / min(CLEAN)).rename((folder / min(CLEAN)).with_name("renamed.jpeg"))


def delete(folder: Path) -> None:
    (folder / min(CLEAN)).unlink()


@pytest.mark.parametrize("change", [add, overwrite, rename])
def test_a_changed_directory_is_copied_again(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    raw, mine = tmp_path / "directory", write(tmp_path / "mine", CLEAN)
    ensure_raw(raw, data_params("directory", mine))
    change(mine)
    ensure_raw(raw, data_params("directory", mine))
    assert read(raw) == read(mine) != CLEAN
    before = stamps(raw)
    ensure_raw(raw, data_params("directory", mine))
    assert stamps(raw) == before


def test_another_directory_is_copied(tmp_path: Path) -> None:
    raw, one = tmp_path / "directory", write(tmp_path / "one", CLEAN)
    tree: Tree = {f"test/{of}/two.png": b"two" for of in BOTH}
    ensure_raw(raw, data_params("directory", one))
    ensure_raw(raw, data_params("directory", write(tmp_path / "two", tree)))
    assert read(raw) == tree
    assert beside(raw) == ["one", "two"]


def test_a_copy_is_kept_when_its_directory_is_gone_or_unset(tmp_path: Path) -> None:
    raw, mine = tmp_path / "directory", write(tmp_path / "mine", CLEAN)
    ensure_raw(raw, data_params("directory", mine))
    delete(raw)  # by the user
    before = stamps(raw)
    ensure_raw(raw, data_params("directory", mine))
    ensure_raw(raw, data_params("directory"))
    shutil.rmtree(mine)
    ensure_raw(raw, data_params("directory", mine))
    assert stamps(raw) == before


def test_a_directory_that_became_unreadable_is_rejected(tmp_path: Path) -> None:
    raw, mine = tmp_path / "directory", write(tmp_path / "mine", CLEAN)
    ensure_raw(raw, data_params("directory", mine))
    before = stamps(raw)
    (mine / "train/NORMAL/folder.png").mkdir()
    with pytest.raises(CxrError, match=r"cannot be copied:\n  train/NORMAL/folder\.png: "):
        ensure_raw(raw, data_params("directory", mine))
    assert stamps(raw) == before


# --- kaggle --------------------------------------------------------------------------------------


def test_kaggle_keeps_the_shallowest_copy_only(
    tmp_path: Path, kaggle: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "data" / "raw" / "kaggle"
    ensure_raw(raw, data_params("kaggle"))
    assert kaggle == [KNOWN_SETS["kaggle"].address]
    assert read(raw) == {**CLEAN, "val/PNEUMONIA/person2_virus_2.jpeg": b"val"}
    counts = {"stray": 2, "nested": 3, "other": 1, "links": 0, "unplaced": 0}
    assert origin(raw) == {"source": "kaggle", "left_out": counts}
    printed = capsys.readouterr().out
    assert KNOWN_SETS["kaggle"].citation in printed
    name = "test/NORMAL/IM-0002-0001.jpeg"
    assert (raw / name).samefile(tmp_path / "cache" / "chest_xray" / name)
    before = stamps(raw)
    ensure_raw(raw, data_params("kaggle"))
    assert stamps(raw) == before
    assert len(kaggle) == 1


@pytest.mark.usefixtures("kaggle")
def test_kaggle_copies_if_hard_links_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", raising(OSError(18, "Invalid cross-device link")))
    ensure_raw(tmp_path / "kaggle", data_params("kaggle"))
    assert len(read(tmp_path / "kaggle")) == 4


@pytest.mark.parametrize(
    "error",
    [
        requests.exceptions.ConnectionError("no route"),
        kagglehub.exceptions.KaggleApiHTTPError("404 no route"),
        kagglehub.exceptions.DataCorruptionError("no route"),
        ValueError("no route"),
        zipfile.BadZipFile("no route"),
    ],
)
def test_kaggle_offline_names_the_options(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kagglehub, "dataset_download", raising(error))
    raw = tmp_path / "raw" / "kaggle"
    with pytest.raises(CxrError, match="no route") as caught:
        ensure_raw(raw, data_params("kaggle"))
    assert KNOWN_SETS["kaggle"].address in str(caught.value)
    assert f"{raw}/train|test|val/NORMAL|PNEUMONIA" in str(caught.value)
    assert caught.value.__cause__ is error
    assert list(raw.parent.iterdir()) == []


# --- mendeley ------------------------------------------------------------------------------------


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return tmp_path / "raw" / "mendeley"


@pytest.fixture
def archive(raw: Path) -> Path:
    """Where the archive is kept until it is unpacked."""
    return raw.parent / "mendeley-download" / download.ARCHIVE_NAME


def test_mendeley_is_downloaded_and_unpacked(
    raw: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    site = serve(zipped(MENDELEY))
    ensure_raw(raw, data_params("mendeley"))
    assert read(raw) == CLEAN
    assert origin(raw) == {"source": "mendeley", "left_out": NOTHING_LEFT_OUT | {"stray": 2}}
    assert beside(raw) == []
    assert "3 images" in capsys.readouterr().out
    ensure_raw(raw, data_params("mendeley"))
    assert site.requests == 1


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize(
    ("behavior", "reason"),
    [
        ({"status": 403}, "403"),
        ({"cut_at": 100}, "100 bytes read"),
        ({"cut_at": 100, "length": False}, "hash"),
    ],
)
def test_mendeley_failed_download_leaves_nothing_and_names_the_options(
    raw: Path, archive: Path, serve: Serve, behavior: dict[str, Any], reason: str
) -> None:
    site = serve(zipped(MENDELEY), **behavior)
    with pytest.raises(CxrError, match=f"could not be downloaded: .*{reason}") as caught:
        ensure_raw(raw, data_params("mendeley"))
    for named in (KNOWN_SETS["mendeley"].address, f"{raw}/train|test|val", str(archive)):
        assert named in str(caught.value)
    assert beside(raw) == ["mendeley-download"]
    assert list(archive.parent.iterdir()) == []
    site.status, site.cut_at = 200, None
    ensure_raw(raw, data_params("mendeley"))
    assert read(raw) == CLEAN
    del caught
    gc.collect()  # pooch leaves the connection of a failed download open


def test_mendeley_interrupted_download_leaves_nothing(
    raw: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(_: object, url: str, output_file: str, __: object) -> None:
        Path(output_file).write_bytes(zipped(MENDELEY)[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", download)
    with pytest.raises(KeyboardInterrupt):
        ensure_raw(raw, data_params("mendeley"))
    assert beside(raw) == ["mendeley-download"]
    assert list(archive.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "is_whole", "requests"),
    [(download.ARCHIVE_NAME, True, 0), (download.ARCHIVE_NAME, False, 1), ("tmp1a2b3c", False, 1)],
    ids=["placed manually", "placed manually in part", "left by a killed run"],
)
def test_mendeley_file_in_the_download_folder(
    raw: Path, archive: Path, serve: Serve, name: str, is_whole: bool, requests: int
) -> None:
    site = serve(zipped(MENDELEY))
    write(archive.parent, {name: site.data if is_whole else site.data[:100]})
    ensure_raw(raw, data_params("mendeley"))
    assert site.requests == requests
    assert read(raw) == CLEAN
    assert beside(raw) == []


def test_mendeley_disk_full_while_unpacking_keeps_the_archive(
    raw: Path, archive: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = serve(zipped(MENDELEY))
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(zipfile.ZipFile, "extract", raising(OSError(28, "No space left on device")))
        ensure_raw(raw, data_params("mendeley"))
    assert beside(raw) == ["mendeley-download"]
    assert not raw.exists()
    ensure_raw(raw, data_params("mendeley"))
    assert site.requests == 1
    assert read(raw) == CLEAN
