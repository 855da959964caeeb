"""How the raw images get into place: all or none, and never over a user's own."""

import gc
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
FULL = OSError(28, "No space left on device")


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
    """All files below a folder except origin.json."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "origin.json")
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def origin(raw: Path) -> Any:
    return json.loads((raw / "origin.json").read_text())


@contextmanager
def unchanged(root: Path) -> Iterator[None]:
    """Check that nothing below a folder is written or replaced."""

    def stamps() -> dict[Path, tuple[int, int, int]]:
        found = {path: path.lstat() for path in [root, *root.rglob("*")]}
        return {path: (s.st_ino, s.st_size, s.st_mtime_ns) for path, s in found.items()}

    before = stamps()
    yield
    assert stamps() == before


def beside(raw: Path) -> list[str]:
    return sorted(path.name for path in raw.parent.iterdir() if path != raw)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return tmp_path / "raw" / "images"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A user's folder of images."""
    return write(tmp_path / "mine", CLEAN)


@pytest.fixture
def kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace Kaggle's client; returns the names of the requested data sets."""
    requested: list[str] = []

    def download(handle: str) -> str:
        requested.append(handle)
        return str(write(tmp_path / "cache", KAGGLE))

    monkeypatch.setattr(kagglehub, "dataset_download", download)
    return requested


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
        ({"deep/er/b.JPG": b"a", "notes.txt": b"a"}, "user"),
        ({"train/NORMAL/scan": JPEG}, "user"),
        ({IMAGE: b"a", "origin.json": b'{"source": "a hospital"}'}, "user"),
        ({IMAGE: b"a", "origin.json": b'["kaggle"]'}, "user"),
        ({IMAGE: b"a", "origin.json": OURS}, "ours"),
    ],
)
def test_state_of_a_folder(raw: Path, tree: Tree, state: str) -> None:
    assert folder_state(raw) == "absent"
    assert folder_state(write(raw, tree)) == state


@pytest.mark.parametrize("source", download.SOURCES)
def test_user_images_are_reused(source: str, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_fetch", raising(AssertionError()))
    write(raw, {"deep/er/b.JPG": b"mine", "notes.txt": b"mine"})
    with unchanged(raw):
        ensure_raw(raw, data_params(source))
    assert beside(raw) == []
    assert download.left_out(raw) == NOTHING_LEFT_OUT


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"archive.zip": b"a"}, r"archive\.zip.*no image"),
        ({IMAGE: b"a", "origin.json": b"{"}, r"origin\.json is damaged"),
        ({IMAGE: b"a"}, "data.directory is 'elsewhere'.* placed manually"),
    ],
)
def test_an_unusable_folder_is_rejected_unchanged(raw: Path, tree: Tree, message: str) -> None:
    write(raw, tree)
    with unchanged(raw), pytest.raises(CxrError, match=message):
        ensure_raw(raw, data_params("directory", "elsewhere"))


def test_a_file_in_place_of_the_folder_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "kaggle").write_text("x")
    with pytest.raises(CxrError, match="kaggle is a file"):
        ensure_raw(tmp_path / "kaggle", data_params("kaggle"))
    assert (tmp_path / "kaggle").read_text() == "x"


@pytest.mark.usefixtures("phantoms")
@pytest.mark.parametrize("inside", ["", "train/NORMAL"])
def test_an_empty_folder_is_replaced(inside: str, raw: Path) -> None:
    (raw / inside).mkdir(parents=True)
    ensure_raw(raw, data_params("phantom"))
    assert list(read(raw)) == [IMAGE]
    assert beside(raw) == []


def test_images_placed_meanwhile_are_not_replaced(
    raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def generate(root: Path, **_: int) -> int:
        write(raw, {"train/NORMAL/mine.jpeg": b"mine"})
        write(root, {IMAGE: b"ours"})
        return 1

    monkeypatch.setattr(phantom, "generate", generate)
    with pytest.raises(CxrError, match="meanwhile"):
        ensure_raw(raw, data_params("phantom"))
    assert read(raw) == {"train/NORMAL/mine.jpeg": b"mine"}
    assert beside(raw) == []


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()])
def test_an_interrupted_attempt_leaves_nothing(
    error: BaseException, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def generate(root: Path, **_: int) -> int:
        write(root, {IMAGE: b"half"})
        assert not raw.exists()
        raise error

    monkeypatch.setattr(phantom, "generate", generate)
    with pytest.raises(type(error)):
        ensure_raw(raw, data_params("phantom"))
    assert list(raw.parent.iterdir()) == []


@pytest.mark.usefixtures("phantoms")
def test_leftovers_of_a_killed_run_are_removed(raw: Path) -> None:
    for patients in (8, 8, 9):
        write(raw.parent / f".part-{os.getpid()}-{raw.name}", {IMAGE: b"half"})
        write(raw.parent / f".{raw.name}.old", {IMAGE: b"old"})
        ensure_raw(raw, data_params("phantom", patients=patients))
        assert list(read(raw)) == [IMAGE]
        assert beside(raw) == []


@pytest.mark.usefixtures("phantoms")
def test_a_run_killed_while_the_old_images_are_deleted_leaves_the_new_ones(
    raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure_raw(raw, data_params("phantom", patients=8))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", raising(KeyboardInterrupt()))
        ensure_raw(raw, data_params("phantom", patients=9))
    assert origin(raw)["patients"] == 9
    assert b'"patients": 9' in read(raw)[IMAGE]


# --- phantom -------------------------------------------------------------------------------------


def test_phantoms_are_generated_once_for_the_same_settings(
    raw: Path, phantoms: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"patients": 60, "seed": 1, "short_side": 128, "shortcut": "none"}
    other = settings | {"seed": 2}
    ensure_raw(raw, data_params("phantom", **settings))
    assert phantoms == [settings]
    assert origin(raw) == {"source": "phantom", **settings, "left_out": NOTHING_LEFT_OUT}
    with unchanged(raw):
        ensure_raw(raw, data_params("phantom", **settings))
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
            patch.setattr(phantom, "generate", raising(FULL))
            ensure_raw(raw, data_params("phantom", **other))
    ensure_raw(raw, data_params("phantom", **other))
    assert json.loads(read(raw)[IMAGE]) == other
    assert other.items() <= origin(raw).items()
    assert beside(raw) == []
    shutil.rmtree(raw / "train")  # only the record is left
    ensure_raw(raw, data_params("phantom", **other))
    assert list(read(raw)) == [IMAGE]


# --- directory -----------------------------------------------------------------------------------


def test_directory_is_copied_without_other_files(
    tmp_path: Path, mine: Path, raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = min(CLEAN)
    others = {"notes.txt": b"x", "train/.DS_Store": b"x", "train/covid/c.png": b"x"}
    write(mine, {**others, f"copy/{name}": CLEAN[name]})
    secret = write(tmp_path / "secret", {"train/NORMAL/s.jpeg": b"secret"})
    (mine / "train/link.jpeg").symlink_to(secret / "train/NORMAL/s.jpeg")
    (mine / "val").symlink_to(secret / "train")
    with unchanged(mine):
        ensure_raw(raw, data_params("directory", mine, "skip"))
    assert read(raw) == CLEAN
    for name in CLEAN:
        assert not (raw / name).samefile(mine / name)
        assert (raw / name).stat().st_mtime_ns == (mine / name).stat().st_mtime_ns
    counts = {"stray": 1, "nested": 1, "other": 1, "links": 2, "unplaced": 1}
    assert download.left_out(raw) == origin(raw)["left_out"] == counts
    printed = capsys.readouterr().out
    assert "train/covid: 1 image\n" in printed
    assert "3 images; files left out: stray 1, nested 1, other 1, links 2, unplaced 1" in printed


def test_unplaced_images_in_directory_are_an_error_until_skipped(mine: Path, raw: Path) -> None:
    write(mine, {"train/covid/c.png": b"x"})
    message = rf"{mine}'.*\n  train/covid: 1 image(?s:.*)data\.on_unplaced"
    with pytest.raises(CxrError, match=message):
        ensure_raw(raw, data_params("directory", mine))
    assert not raw.exists()
    ensure_raw(raw, data_params("directory", mine, "skip"))
    with unchanged(raw):
        ensure_raw(raw, data_params("directory", mine, "skip"))
        # The copy alone would not show what was skipped.
        with pytest.raises(CxrError, match=message):
            ensure_raw(raw, data_params("directory", mine))


@pytest.mark.parametrize("link", ["train/link.jpeg", "val", "train/PNEUMONIA/virus"])
def test_a_link_that_may_lead_to_images_is_rejected(
    tmp_path: Path, mine: Path, raw: Path, link: str
) -> None:
    (mine / link).symlink_to(write(tmp_path / "other", CLEAN))
    with pytest.raises(CxrError, match=f"{link}: symbolic link, not followed"):
        ensure_raw(raw, data_params("directory", mine))


def test_directory_keeps_paths_and_reads_every_suffix_and_folder_of_a_class(
    tmp_path: Path, raw: Path
) -> None:
    tree = {
        "set/train/PNEUMONIA/virus/a.jfif": b"a",
        "set/train/PNEUMONIA/bacteria/a.jfif": b"b",
        "set/train/NORMAL/DOE.JOHN": JPEG,
        "set/valid/NORMAL/c": JPEG,
    }
    folder = write(tmp_path / "other", {**tree, "set/train/NORMAL/notes": b"text"})
    ensure_raw(raw, data_params("directory", folder))
    assert read(raw) == tree
    assert download.left_out(raw) == NOTHING_LEFT_OUT | {"other": 1}


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize("given", ["mine", "~/mine"])
def test_directory_may_be_relative_or_in_the_home_folder(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    names: list[str], found: str, on_unplaced: str, tmp_path: Path, raw: Path
) -> None:
    folder = write(tmp_path / "other", dict.fromkeys(names, b"x"))
    with pytest.raises(CxrError) as caught:
        ensure_raw(raw, data_params("directory", folder, on_unplaced))
    message = str(caught.value)
    assert message.startswith(f"data.directory is '{folder}'")
    assert f"Found: {found}" in message
    assert list(raw.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "message"), [("", "set data.directory.*{raw}"), ("none", "'none'.*not a folder")]
)
def test_directory_unset_or_missing_is_rejected(raw: Path, given: str, message: str) -> None:
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


@pytest.mark.parametrize("change", [add, overwrite, rename])
def test_a_changed_directory_is_copied_again(
    mine: Path, raw: Path, change: Callable[[Path], None]
) -> None:
    ensure_raw(raw, data_params("directory", mine))
    change(mine)
    ensure_raw(raw, data_params("directory", mine))
    assert read(raw) == read(mine) != CLEAN
    with unchanged(raw):
        ensure_raw(raw, data_params("directory", mine))


def test_another_directory_is_copied(tmp_path: Path, mine: Path, raw: Path) -> None:
    tree: Tree = {f"test/{of}/two.png": b"two" for of in BOTH}
    ensure_raw(raw, data_params("directory", mine))
    ensure_raw(raw, data_params("directory", write(tmp_path / "two", tree)))
    assert read(raw) == tree
    assert beside(raw) == []


def test_a_copy_is_kept_when_its_directory_is_gone_or_unset(mine: Path, raw: Path) -> None:
    ensure_raw(raw, data_params("directory", mine))
    (raw / min(CLEAN)).unlink()  # by the user
    with unchanged(raw):
        ensure_raw(raw, data_params("directory", mine))
        ensure_raw(raw, data_params("directory"))
        shutil.rmtree(mine)
        ensure_raw(raw, data_params("directory", mine))


def test_a_directory_that_became_unreadable_is_rejected(mine: Path, raw: Path) -> None:
    ensure_raw(raw, data_params("directory", mine))
    (mine / "train/NORMAL/folder.png").mkdir()
    message = r"cannot be copied:\n  train/NORMAL/folder\.png: "
    with unchanged(raw), pytest.raises(CxrError, match=message):
        ensure_raw(raw, data_params("directory", mine))


# --- kaggle --------------------------------------------------------------------------------------


def test_kaggle_keeps_the_shallowest_copy_only(
    tmp_path: Path, raw: Path, kaggle: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    ensure_raw(raw, data_params("kaggle"))
    assert kaggle == [KNOWN_SETS["kaggle"].address]
    assert read(raw) == {**CLEAN, "val/PNEUMONIA/person2_virus_2.jpeg": b"val"}
    counts = {"stray": 2, "nested": 3, "other": 1, "links": 0, "unplaced": 0}
    assert origin(raw) == {"source": "kaggle", "left_out": counts}
    assert KNOWN_SETS["kaggle"].citation in capsys.readouterr().out
    assert (raw / min(CLEAN)).samefile(tmp_path / "cache" / "chest_xray" / min(CLEAN))
    with unchanged(raw):
        ensure_raw(raw, data_params("kaggle"))
    assert len(kaggle) == 1


@pytest.mark.usefixtures("kaggle")
def test_kaggle_copies_if_hard_links_fail(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", raising(OSError(18, "Invalid cross-device link")))
    ensure_raw(raw, data_params("kaggle"))
    assert len(read(raw)) == 4


@pytest.mark.usefixtures("kaggle")
def test_a_copy_of_an_earlier_version_without_counts_is_replaced(raw: Path) -> None:
    write(raw, {IMAGE: b"old", "origin.json": OURS})
    ensure_raw(raw, data_params("kaggle"))
    assert IMAGE not in read(raw)
    assert download.left_out(raw)["stray"] == 2


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
    error: Exception, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kagglehub, "dataset_download", raising(error))
    with pytest.raises(CxrError, match="no route") as caught:
        ensure_raw(raw, data_params("kaggle"))
    assert KNOWN_SETS["kaggle"].address in str(caught.value)
    assert f"{raw}/train|test|val/NORMAL|PNEUMONIA" in str(caught.value)
    assert list(raw.parent.iterdir()) == []


# --- mendeley ------------------------------------------------------------------------------------


@pytest.fixture
def archive(raw: Path) -> Path:
    """Where the archive is kept until it is unpacked."""
    return raw.with_name(f"{raw.name}-download") / download.ARCHIVE_NAME


def test_mendeley_is_downloaded_and_unpacked(raw: Path, serve: Serve) -> None:
    site = serve(zipped(MENDELEY))
    ensure_raw(raw, data_params("mendeley"))
    assert read(raw) == CLEAN
    assert origin(raw) == {"source": "mendeley", "left_out": NOTHING_LEFT_OUT | {"stray": 2}}
    assert beside(raw) == []
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
    assert beside(raw) == [archive.parent.name]
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
    assert beside(raw) == [archive.parent.name]
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
        patch.setattr(zipfile.ZipFile, "extract", raising(FULL))
        ensure_raw(raw, data_params("mendeley"))
    assert beside(raw) == [archive.parent.name]
    ensure_raw(raw, data_params("mendeley"))
    assert site.requests == 1
    assert read(raw) == CLEAN
