"""Bring the raw radiographs of the chosen data source to a folder, all of them or none."""

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
from cxr.data.dataset_folder import (
    EXPECTED_LAYOUT,
    ORIGIN_NAME,
    FolderContents,
    SourceError,
    describe_folders,
    head_in,
    is_image,
    list_files,
    lost_links,
    printable,
    refuse_unplaced,
    select_images,
    size_in,
    unreadable_reason,
)
from cxr.data.known_sets import KNOWN_SETS
from cxr.params import DataParams
from cxr.progress import track

__all__ = ["LEFT_OUT", "SourceError", "ensure_raw", "folder_state", "left_out"]

Counts = dict[str, int]
Origin = dict[str, Any]  # content of origin.json

SOURCES = get_args(DataParams.model_fields["source"].annotation)
LEFT_OUT = ("stray", "nested", "other", "links", "unplaced")
ARCHIVE_NAME = "chest_xray.zip"
CHUNK_BYTES = 1 << 20


def ensure_raw(raw: Path, data: DataParams) -> None:
    """Make sure that the images of `data.source` are in a folder.

    Images that a user has put there are used as they are. A folder filled here is used again as
    long as its settings and, for the source `directory`, the images of the user's folder are the
    same. Otherwise it is replaced.

    Args:
        raw: The folder to fill; its parent is made if need be.
        data: Section `data` of the parameters.

    Raises:
        SourceError: The images cannot be put there. `raw` is then as it was before.
    """
    try:
        temp_path(raw)  # removes what a killed run has left
        remove(_backup(raw))
        match folder_state(raw):
            case "user" if data.source == "directory" and data.directory:
                raise SourceError(
                    f"data.directory is {data.directory!r}, but {raw} holds images that were put "
                    "there by hand. Move them away to use data.directory, or set data.directory "
                    'to "" to use them.'
                )
            case "user":
                pass
            case "ours" if _is_current(raw, data):
                pass
            case _:
                _fill(raw, data)
    except OSError as error:
        place = error.filename or raw.parent
        raise SourceError(f"cannot read or write {place}: {error.strerror or error}") from error


def folder_state(raw: Path) -> Literal["absent", "user", "ours"]:
    """Whose images a folder holds.

    Returns:
        `absent`: there is no folder, or no file in it but the record of a copy. `ours`: images that
        this module has put there. `user`: images that it has not.

    Raises:
        SourceError: `raw` is a file, holds files without any image, or its record is damaged.
    """
    if not os.path.lexists(raw):
        return "absent"
    if not raw.is_dir():
        raise SourceError(f"{raw} is in the way: a folder of images is wanted there")
    files = [
        PurePosixPath(Path(base, name).relative_to(raw))
        for base, _, names in os.walk(raw)
        for name in names
    ]
    if any(is_image(path, head_in(raw)) for path in files):
        return "user" if _recorded_origin(raw) is None else "ours"
    names = {path.name for path in files}
    if names <= {ORIGIN_NAME}:
        return "absent"
    raise SourceError(
        f"{raw} holds files ({min(names)}, ...) but not one image (JPEG or PNG; linked "
        "folders are not entered). Unpack the images there, or move the files away."
    )


def left_out(raw: Path) -> Counts | None:
    """How many files of the source were left out when `raw` was filled, by `LEFT_OUT`.

    All are 0 for a folder that a user has filled. None where an earlier version copied the images
    and kept no counts.
    """
    recorded = _recorded_origin(raw)
    counts = recorded.get("left_out") if recorded else dict.fromkeys(LEFT_OUT, 0)
    return counts if isinstance(counts, dict) else None


def _recorded_origin(raw: Path) -> Origin | None:
    """The record of a folder filled here, None for a user's folder."""
    path = raw / ORIGIN_NAME
    if not path.exists():
        return None
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SourceError(
            f"{path} is damaged. Delete {raw} to have it filled again, or only {path} to keep the "
            "images as they are."
        ) from error
    # A user's file may have the same name; only a record of ours makes the folder ours.
    ours = isinstance(recorded, dict) and recorded.get("source") in SOURCES
    return recorded if ours else None


def _is_current(raw: Path, data: DataParams) -> bool:
    """Whether filling `raw` again would give the images that it was filled with."""
    if data.source == "directory" and not data.directory:
        return True
    recorded = _recorded_origin(raw) or {}
    settings = {key: recorded[key] for key in recorded if key not in ("left_out", "sha256")}
    # What was skipped before is an error now, which only the source can show.
    is_refused = data.on_unplaced == "error" and (left_out(raw) or {}).get("unplaced", 0) > 0
    if is_refused or settings != _settings(data):
        return False
    folder = Path(data.directory).expanduser()
    if data.source == "directory" and folder.is_dir():
        return recorded.get("sha256") == _digest(folder)
    return True


def _settings(data: DataParams) -> Origin:
    """The parameters that decide which images a source gives."""
    settings: Origin = {"source": data.source}
    if data.source == "directory":
        settings["directory"] = data.directory
    if data.source == "phantom":
        settings |= dict(data.phantom)
    return settings


def _digest(folder: Path) -> str:
    """SHA-256 of the names and contents of all images that `_copy` takes from a folder, in
    hexadecimal digits; empty where it refuses one of them.
    """
    files, _ = list_files(folder)
    digest = hashlib.sha256()
    for path in select_images(files, head_in(folder), size_in(folder)).images:
        if unreadable_reason(folder, path):
            return ""
        with (folder / path).open("rb") as file:
            digest.update(os.fsencode(path) + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _backup(raw: Path) -> Path:
    return raw.with_name(f".{raw.name}.old")


def _fill(raw: Path, data: DataParams) -> None:
    """Fill a folder beside `raw` and let it replace `raw` when it is complete."""
    part = temp_path(raw)
    try:
        part.mkdir(parents=True)
        record = _settings(data) | {"left_out": _bring(part, raw, data)}
        if data.source == "directory":
            record["sha256"] = _digest(part)
        text = json.dumps(record, indent=2, sort_keys=True) + "\n"
        (part / ORIGIN_NAME).write_text(text, encoding="utf-8")
        if folder_state(raw) == "user":
            raise SourceError(f"images were put into {raw} meanwhile. Run again to use them.")
        # Renamed before it is deleted: half deleted, without its record, it would pass for a
        # user's folder.
        if raw.exists():
            raw.rename(_backup(raw))
        part.rename(raw)
    finally:
        remove(part)
    remove(_backup(raw))


def _bring(part: Path, raw: Path, data: DataParams) -> Counts:
    """Put the images of the source into the empty folder `part`; returns counts by `LEFT_OUT`."""
    if known := KNOWN_SETS.get(data.source):
        print(f"{data.source}: {known.license}; cite {known.citation}", flush=True)
    match data.source:
        case "phantom":
            return _draw(part, data)
        case "directory":
            folder = _users_folder(raw, data)
            return _copy(folder, part, f"data.directory is {data.directory!r}", data)
        case "kaggle":
            folder = _download_from_kaggle(raw)
            return _copy(folder, part, f"{KNOWN_SETS['kaggle'].address}, at {folder}", data)
        case "mendeley":
            archive = _download_archive(raw)
            unpacked = _unpack(archive, part / "unpacked")
            counts = _copy(unpacked, part, KNOWN_SETS["mendeley"].address, data)
            remove(unpacked)
            remove(archive.parent)
            return counts


def _draw(part: Path, data: DataParams) -> Counts:
    from cxr.data import phantom

    try:
        count = phantom.generate(part, **dict(data.phantom))
    except ValueError as error:
        raise SourceError(f"data.phantom cannot be drawn: {error}") from error
    print(f"phantom: {count} images")
    return dict.fromkeys(LEFT_OUT, 0)


def _users_folder(raw: Path, data: DataParams) -> Path:
    if not data.directory:
        raise SourceError(f"set data.directory to a folder of images, or put the images at {raw}")
    folder = Path(data.directory).expanduser()
    if not folder.is_dir():
        raise SourceError(
            f"data.directory is {data.directory!r}, which is not a folder. {EXPECTED_LAYOUT}."
        )
    return folder


def _download_from_kaggle(raw: Path) -> Path:
    import kagglehub  # slow to import, and needed for this source only

    handle = KNOWN_SETS["kaggle"].address
    try:
        return Path(kagglehub.dataset_download(handle))
    # A damaged or foreign archive ends in one of the last three, all else is an OSError.
    except (OSError, ValueError, zipfile.BadZipFile, kagglehub.exceptions.DataCorruptionError) as e:
        raise _no_download(handle, raw, e) from e


def _download_archive(raw: Path) -> Path:
    """The archive of the Mendeley set, verified; one that is there already is not downloaded."""
    import pooch  # needed for this source only

    known, folder = KNOWN_SETS["mendeley"], raw.with_name(f"{raw.name}-download")
    # The bar needs a terminal: a log would get each of its states.
    download = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), chunk_size=CHUNK_BYTES)
    try:
        path = pooch.retrieve(
            known.address, f"sha256:{known.sha256}", ARCHIVE_NAME, folder, downloader=download
        )
    except (OSError, ValueError) as error:  # ValueError: another SHA-256
        by_hand = f" The archive may also be put at {folder / ARCHIVE_NAME}."
        raise _no_download(known.address, raw, error, by_hand) from error
    return Path(path)


def _no_download(address: str, raw: Path, error: Exception, by_hand: str = "") -> SourceError:
    return SourceError(
        f"{address} could not be downloaded: {error}\n"
        "  1. Run again when the network is back.\n"
        f"  2. Or put the images at {raw}/train|test|val/NORMAL|PNEUMONIA by hand.{by_hand}\n"
        "  3. Or run `make demo` to see the pipeline run on generated images."
    )


def _unpack(archive: Path, folder: Path) -> Path:
    with zipfile.ZipFile(archive) as file:
        for member in track(file.infolist(), "unpack", unit="files"):
            file.extract(member, folder)
    return folder


def _copy(folder: Path, part: Path, where: str, data: DataParams) -> Counts:
    """Put the images of a folder into `part`; returns how many files were left out.

    Args:
        folder: Holds the images, perhaps some folders down.
        part: To fill.
        where: Names the folder in messages, as the user knows it.
        data: With `on_unplaced`. Of the source `directory`, paths are kept, since messages and
            data.patients name images by them, and files are copied: a change to the user's file
            must not reach the copy, nor the reverse.
    """
    files, links = list_files(folder)
    selection = select_images(files, head_in(folder), size_in(folder))
    _refuse_empty_class(where, selection, len(links))
    refuse_unplaced(where, selection, lost_links(folder, links), data.on_unplaced)
    _refuse_obstacles(folder, selection)
    copy: Callable[[Path, Path], object] = _link_or_copy
    above = selection.root
    if data.source == "directory":
        copy, above = shutil.copy2, PurePosixPath()
    for path in track(selection.images, "copy"):
        target = part / path.relative_to(above)
        target.parent.mkdir(parents=True, exist_ok=True)
        copy(folder / path, target)
    counts = (selection.stray, selection.nested, selection.other, len(links))
    left = dict(zip(LEFT_OUT, (*counts, len(selection.unplaced)), strict=True))
    listed = ", ".join(f"{name} {count}" for name, count in left.items())
    print(f"{data.source}: {len(selection.images)} images; files left out: {listed}")
    return left


def _link_or_copy(image: Path, target: Path) -> None:
    try:
        os.link(image.resolve(), target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(image, target)


def _refuse_empty_class(where: str, selection: FolderContents, links: int) -> None:
    """Raise SourceError with what was found unless both classes have images to train with."""
    placed = selection.images.values()
    lacking = [label for label in LABELS if label not in {label for _, label in placed}]
    if not lacking and {split for split, _ in placed} & {"train", "test"}:
        return
    what = f"{' and '.join(lacking)} images" if lacking else "images in train/ or test/"
    there = [f"{len(placed)} images in their places"] * bool(placed)
    there += [describe_folders(selection)] * bool(selection.unplaced)
    there += [f"{links} symbolic links, which are not followed"] * bool(links)
    listed = ", ".join(there) or f"{selection.other} files, none of them an image"
    raise SourceError(f"{where}, which has no {what}. Found: {listed}. {EXPECTED_LAYOUT}.")


def _refuse_obstacles(folder: Path, selection: FolderContents) -> None:
    """Raise SourceError with the name of each image that cannot be copied."""
    reasons = {path: unreadable_reason(folder, path) for path in selection.images}
    refused = [f"  {printable(path)}: {reason}" for path, reason in reasons.items() if reason]
    if refused:
        listed = "\n".join(refused)
        raise SourceError(
            f"{len(refused)} image(s) in {folder} cannot be copied:\n{listed}\n"
            "  Replace or remove them."
        )
