"""Fetch the raw radiographs of a data source into a folder, atomically."""

import hashlib
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from cxr.common.files import remove, temp_path
from cxr.common.names import LABELS
from cxr.data import phantom
from cxr.data.dataset_folder import (
    EXPECTED_LAYOUT,
    NOTHING_LEFT_OUT,
    ORIGIN_NAME,
    FolderContents,
    is_image,
    printable,
    refuse_unplaced,
    scan,
    unplaced_by_folder,
    unreadable_reason,
)
from cxr.data.known_sets import KNOWN_SETS
from cxr.errors import CxrError
from cxr.params import DataParams
from cxr.progress import track

Origin = dict[str, Any]  # content of origin.json

SOURCES = get_args(DataParams.model_fields["source"].annotation)
ARCHIVE_NAME = "chest_xray.zip"
CHUNK_BYTES = 1 << 20


def ensure_raw(raw: Path, data: DataParams) -> None:
    """Ensure that the folder `raw` contains the images of `data.source`.

    Images placed by a user are reused. A folder fetched earlier is reused if its settings and, for
    the source `directory`, the images of the user's folder are unchanged; otherwise it is replaced.

    Raises:
        CxrError: The images cannot be fetched. `raw` is then unchanged.
        OSError: A folder cannot be read or written. `raw` is then unchanged.
    """
    temp_path(raw)  # removes leftovers of a killed run
    remove(_backup(raw))
    state = folder_state(raw)
    if state == "user" and data.source == "directory" and data.directory:
        raise CxrError(
            f"data.directory is {data.directory!r}, but {raw} contains images that were placed "
            'manually. Move them away to use data.directory, or set data.directory to "" to use '
            "them."
        )
    if state == "absent" or (state == "ours" and not _is_current(raw, data)):
        _fill(raw, data)


def folder_state(raw: Path) -> Literal["absent", "user", "ours"]:
    """Determine who placed the images of a folder.

    Returns:
        `absent`: no folder, or no file in it except origin.json. `ours`: images fetched by this
        module. `user`: other images.

    Raises:
        CxrError: `raw` is a file, contains files but no image, or its origin.json is damaged.
    """
    if not os.path.lexists(raw):
        return "absent"
    if not raw.is_dir():
        raise CxrError(f"{raw} is a file; move it away, a folder of images is needed there")
    files = [PurePosixPath(path) for path in raw.rglob("*") if not path.is_dir()]
    if any(is_image(path, raw) for path in files):
        return "user" if _recorded_origin(raw) is None else "ours"
    names = {path.name for path in files}
    if names <= {ORIGIN_NAME}:
        return "absent"
    raise CxrError(
        f"{raw} contains files ({min(names)}, ...) but no image (JPEG or PNG; linked folders are "
        "not followed). Unpack the images there, or move the files away."
    )


def left_out(raw: Path) -> dict[str, int]:
    """Count the files of the source that were not copied to `raw`; all 0 for a user's folder."""
    recorded = _recorded_origin(raw)
    return recorded["left_out"] if recorded else NOTHING_LEFT_OUT


def _recorded_origin(raw: Path) -> Origin | None:
    """Read origin.json of a fetched folder; None for a user's folder."""
    path = raw / ORIGIN_NAME
    if not path.exists():
        return None
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CxrError(
            f"{path} is damaged. Delete {raw} to fetch the images again, or only {path} to keep "
            "them."
        ) from error
    # A user's file may have the same name.
    ours = isinstance(recorded, dict) and recorded.get("source") in SOURCES
    return recorded if ours else None


def _is_current(raw: Path, data: DataParams) -> bool:
    """Whether fetching again would give the same images."""
    recorded = _recorded_origin(raw) or {}
    if "left_out" not in recorded:  # copied by an earlier version
        return False
    if data.source == "directory" and not data.directory:
        return True
    settings = {key: recorded[key] for key in recorded if key not in ("left_out", "sha256")}
    # Images that were skipped before are an error now, which only the source can show.
    is_refused = data.on_unplaced == "error" and recorded["left_out"]["unplaced"] > 0
    if is_refused or settings != _settings(data):
        return False
    folder = Path(data.directory).expanduser()
    if data.source == "directory" and folder.is_dir():
        return recorded["sha256"] == _digest(folder)
    return True


def _settings(data: DataParams) -> Origin:
    """Parameters that determine the images of a source."""
    settings: Origin = {"source": data.source}
    if data.source == "directory":
        settings["directory"] = data.directory
    if data.source == "phantom":
        settings |= dict(data.phantom)
    return settings


def _digest(folder: Path) -> str:
    """SHA-256 over names and contents of all images that `_copy` takes from a folder, in
    hexadecimal digits; empty if one of them is unreadable.
    """
    digest = hashlib.sha256()
    for path in scan(folder).images:
        if unreadable_reason(folder, path):
            return ""
        with (folder / path).open("rb") as file:
            digest.update(os.fsencode(path) + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _backup(raw: Path) -> Path:
    return raw.with_name(f".{raw.name}.old")


def _fill(raw: Path, data: DataParams) -> None:
    """Fetch the images into a temporary folder, and replace `raw` by it when it is complete."""
    temp = temp_path(raw)
    try:
        temp.mkdir(parents=True)
        origin = _settings(data) | {"left_out": _fetch(temp, raw, data)}
        if data.source == "directory":
            origin["sha256"] = _digest(temp)
        text = json.dumps(origin, indent=2, sort_keys=True) + "\n"
        (temp / ORIGIN_NAME).write_text(text, encoding="utf-8")
        if folder_state(raw) == "user":
            raise CxrError(f"images were placed in {raw} meanwhile. Run again to use them.")
        # Rename before deleting: half deleted, without origin.json, it would pass for a user's
        # folder.
        if raw.exists():
            raw.rename(_backup(raw))
        temp.rename(raw)
    finally:
        remove(temp)
    remove(_backup(raw))


def _fetch(temp: Path, raw: Path, data: DataParams) -> dict[str, int]:
    """Fetch the images of the source into the empty folder `temp`; returns `left_out`."""
    if known := KNOWN_SETS.get(data.source):
        print(f"{data.source}: {known.license}; cite {known.citation}", flush=True)
    match data.source:
        case "phantom":
            print(f"phantom: {phantom.generate(temp, **dict(data.phantom))} images")
            return NOTHING_LEFT_OUT
        case "directory":
            folder = _user_folder(raw, data)
            return _copy(folder, temp, f"data.directory is {data.directory!r}", data)
        case "kaggle":
            folder = _download_from_kaggle(raw)
            return _copy(folder, temp, f"{KNOWN_SETS['kaggle'].address}, at {folder}", data)
        case "mendeley":
            archive = _download_archive(raw)
            unpacked = temp / "unpacked"
            with zipfile.ZipFile(archive) as file:
                for member in track(file.infolist(), "unpack", unit="files"):
                    file.extract(member, unpacked)
            counts = _copy(unpacked, temp, KNOWN_SETS["mendeley"].address, data)
            remove(unpacked)
            remove(archive.parent)
            return counts


def _user_folder(raw: Path, data: DataParams) -> Path:
    if not data.directory:
        raise CxrError(f"set data.directory to a folder of images, or place the images at {raw}")
    folder = Path(data.directory).expanduser()
    if not folder.is_dir():
        raise CxrError(
            f"data.directory is {data.directory!r}, which is not a folder. {EXPECTED_LAYOUT}."
        )
    return folder


def _download_from_kaggle(raw: Path) -> Path:
    import kagglehub  # slow to import, and needed for this source only

    handle = KNOWN_SETS["kaggle"].address
    try:
        return Path(kagglehub.dataset_download(handle))
    # The last three: a damaged or unexpected archive. All other failures are an OSError.
    except (OSError, ValueError, zipfile.BadZipFile, kagglehub.exceptions.DataCorruptionError) as e:
        raise _download_error(handle, raw, e) from e


def _download_archive(raw: Path) -> Path:
    """Download and verify the archive of the Mendeley set, unless it exists."""
    import pooch  # needed for this source only

    known, folder = KNOWN_SETS["mendeley"], raw.with_name(f"{raw.name}-download")
    # A progress bar would flood a log.
    download = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), chunk_size=CHUNK_BYTES)
    try:
        path = pooch.retrieve(
            known.address, f"sha256:{known.sha256}", ARCHIVE_NAME, folder, downloader=download
        )
    except (OSError, ValueError) as error:  # ValueError: the hash differs
        manual = f" The archive may also be placed at {folder / ARCHIVE_NAME}."
        raise _download_error(known.address, raw, error, manual) from error
    return Path(path)


def _download_error(address: str, raw: Path, error: Exception, manual: str = "") -> CxrError:
    return CxrError(
        f"{address} could not be downloaded: {error}\n"
        "Options:\n"
        "  1. Run again when the network is available.\n"
        f"  2. Place the images at {raw}/train|test|val/NORMAL|PNEUMONIA manually.{manual}\n"
        "  3. Run `make demo` to try the pipeline on synthetic images."
    )


def _copy(folder: Path, temp: Path, where: str, data: DataParams) -> dict[str, int]:
    """Copy the images of a folder to `temp`; returns `FolderContents.left_out`.

    With the source `directory`, paths are kept, because messages and data.patients refer to them,
    and files are copied rather than linked, so that changes to the user's file do not reach the
    copy, or vice versa. `where` is the name of the folder for messages.
    """
    contents = scan(folder)
    _refuse_empty_class(where, contents)
    refuse_unplaced(where, contents, data.on_unplaced)
    _refuse_unreadable(folder, contents)
    copy: Callable[[Path, Path], object] = _link_or_copy
    root = contents.root
    if data.source == "directory":
        copy, root = shutil.copy2, PurePosixPath()
    for path in track(contents.images, "copy"):
        target = temp / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        copy(folder / path, target)
    listed = ", ".join(f"{name} {count}" for name, count in contents.left_out.items())
    print(f"{data.source}: {len(contents.images)} images; files left out: {listed}")
    return contents.left_out


def _link_or_copy(image: Path, target: Path) -> None:
    try:
        os.link(image.resolve(), target)
    except OSError:  # other file system, or no hard links
        shutil.copy2(image, target)


def _refuse_empty_class(where: str, contents: FolderContents) -> None:
    """Raise CxrError unless both classes have images, and train or test has any."""
    placed = contents.images.values()
    lacking = [label for label in LABELS if label not in {label for _, label in placed}]
    if not lacking and {split for split, _ in placed} & {"train", "test"}:
        return
    missing = f"{' and '.join(lacking)} images" if lacking else "images in train/ or test/"
    found = [f"{len(placed)} images in the expected layout", *unplaced_by_folder(contents)]
    found += [f"{contents.left_out[name]} {name}" for name in ("links", "other")]
    raise CxrError(
        f"{where}, which has no {missing}. Found: {', '.join(found)}. {EXPECTED_LAYOUT}."
    )


def _refuse_unreadable(folder: Path, contents: FolderContents) -> None:
    """Raise CxrError with the name of each unreadable image."""
    reasons = {path: unreadable_reason(folder, path) for path in contents.images}
    refused = [f"  {printable(path)}: {reason}" for path, reason in reasons.items() if reason]
    if refused:
        listed = "\n".join(refused)
        raise CxrError(
            f"{len(refused)} image(s) in {folder} cannot be copied:\n{listed}\n"
            "  Replace or remove them."
        )
