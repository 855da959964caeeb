"""Put the raw radiographs of the chosen data source in place, once and whole or not at all."""

import hashlib
import json
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from cxr.files import part_of, remove
from cxr.images import HEAD_BYTES
from cxr.labels import LABELS
from cxr.layout import (
    ORIGIN_NAME,
    WANTED,
    Selection,
    SourceError,
    found,
    head_in,
    is_image,
    list_files,
    lost_links,
    obstacle,
    refuse_unplaced,
    select_images,
    shown,
    size_in,
)
from cxr.progress import Meter, track

__all__ = ["KAGGLE_DATASET", "MENDELEY", "SOURCES", "Archive", "SourceError", "ensure_raw"]


@dataclass(frozen=True)
class Archive:
    """A published zip file.

    Attributes:
        url: Where it is downloaded.
        bytes: Its size in bytes.
        sha256: Its SHA-256 in lower-case hexadecimal digits.
    """

    url: str
    bytes: int
    sha256: str


KAGGLE_DATASET = "paultimothymooney/chest-xray-pneumonia"
MENDELEY = Archive(
    url="https://data.mendeley.com/public-files/datasets/rscbjbr9sj/files/"
    "f12eaf6d-6023-432f-acc9-80c9d7393433/file_downloaded",
    bytes=1_235_512_464,
    sha256="13efc055629733dbab07877f8b3c9f81097840dbcdaa326a8542322c2281ce36",
)
SOURCES = ("kaggle", "mendeley", "directory", "phantom")

Counts = dict[str, int]
Origin = dict[str, str | int | Counts]
Maker = Callable[[Path], Counts]

LEFT_OUT = ("stray", "nested", "other", "links", "unplaced")

TIMEOUT_SECONDS = (10.0, 60.0)  # to connect, and between two reads
BACKOFF_SECONDS = 1.0
CHUNK_BYTES = 1 << 20
# The largest radiograph is about 2 MB; a member far above that is not one.
MEMBER_LIMIT_BYTES = 64 << 20
# Radiographs are compressed already; an archive that grows by more is a bomb.
RATIO_LIMIT = 20


def ensure_raw(
    raw: Path,
    source: str,
    *,
    directory: str = "",
    on_unplaced: str = "error",
    phantom_patients: int = 0,
    phantom_seed: int = 0,
    phantom_short_side: int = 256,
    phantom_shortcut: str = "none",
) -> None:
    """Make sure that the images of a data source are in a folder.

    Images that a user has put there are used as they are. A folder made here earlier is used
    again as long as it was made with the same settings, and is otherwise replaced.

    Args:
        raw: The folder to fill; its parent is made if need be.
        source: One of `SOURCES`.
        directory: For `directory`: the folder to copy from. Empty if `raw` is filled by hand.
        on_unplaced: `error` or `skip`: what happens to images where the layout knows none.
        phantom_patients: For `phantom`: number of patients to generate.
        phantom_seed: For `phantom`: seed of the generator.
        phantom_short_side: For `phantom`: shorter side of the images in pixels.
        phantom_shortcut: For `phantom`: `none` or `device`, as `data.phantom.shortcut`.

    Raises:
        SourceError: The images cannot be put there. `raw` is then as it was before.
    """
    phantom: Origin = {
        "patients": phantom_patients,
        "seed": phantom_seed,
        "short_side": phantom_short_side,
        "shortcut": phantom_shortcut,
    }
    makers: dict[str, tuple[Maker, Origin]] = {
        "kaggle": (partial(_from_kaggle, raw, on_unplaced), {}),
        "mendeley": (partial(_from_mendeley, raw, on_unplaced), {}),
        "directory": (
            partial(_from_directory, raw, directory, on_unplaced),
            {"directory": directory},
        ),
        "phantom": (partial(_from_phantom, phantom), phantom),
    }
    if source not in makers:
        raise SourceError(f"data.source is {source!r}, it must be one of {', '.join(SOURCES)}")
    fill, settings = makers[source]
    origin: Origin = {"source": source, **settings}
    old = raw.parent / f".{source}.old"
    try:
        part = part_of(raw)
        remove(old)
        if not _is_ready(raw, origin, on_unplaced):
            _make(raw, part, old, fill, origin)
    except OSError as error:
        place = error.filename or raw.parent
        raise SourceError(f"cannot read or write {place}: {error.strerror or error}") from error


def left_out(raw: Path) -> Counts | None:
    """How many files of the source were left out when `raw` was filled, by `LEFT_OUT`.

    None of a folder that a user has filled. None, too, where an earlier version copied the images
    and kept no counts; then nothing is known of what it left out.
    """
    recorded = _recorded_origin(raw)
    counts = recorded.get("left_out") if recorded else dict.fromkeys(LEFT_OUT, 0)
    return counts if isinstance(counts, dict) else None


def _is_ready(raw: Path, origin: Origin, on_unplaced: str) -> bool:
    """Tell whether `raw` can be used as it is; refuse a folder that is neither that nor free."""
    if not os.path.lexists(raw):
        return False
    if not raw.is_dir():
        raise SourceError(f"{raw} is in the way: a folder of images is wanted there")
    files = [
        PurePosixPath(Path(base, name).relative_to(raw))
        for base, _, names in os.walk(raw)
        for name in names
    ]
    if not any(is_image(path, head_in(raw)) for path in files):
        names = {path.name for path in files}
        if names <= {ORIGIN_NAME}:
            return False
        raise SourceError(
            f"{raw} holds files ({min(names)}, ...) but not one image (JPEG or PNG; linked "
            "folders are not entered). Unpack the images there, or move the files away."
        )
    recorded = _recorded_origin(raw)
    if recorded is None:
        if origin.get("directory"):
            print(f"data.directory is ignored: {raw} already holds images")
        return True
    if origin.get("directory") == "":
        return True
    counts = left_out(raw) or {}
    # What was skipped before is an error now, which only the source can show.
    is_refused = on_unplaced == "error" and counts.get("unplaced", 0) > 0
    return not is_refused and {**recorded, "left_out": 0} == {**origin, "left_out": 0}


def _recorded_origin(raw: Path) -> Origin | None:
    """Return the settings that a folder made here was made with, None for a user's folder."""
    path = raw / ORIGIN_NAME
    if not path.exists():
        return None
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SourceError(
            f"{path} is damaged. Delete {raw} to have it made again, or only {path} to keep the "
            "images as they are."
        ) from error
    # A user's file may have the same name; only a record of ours makes the folder ours.
    ours = isinstance(recorded, dict) and recorded.get("source") in SOURCES
    return recorded if ours else None


def _make(raw: Path, part: Path, old: Path, fill: Maker, origin: Origin) -> None:
    """Fill a folder beside `raw` and let it take the place of `raw` when it is complete."""
    part.mkdir(parents=True)
    try:
        record = origin | {"left_out": fill(part)}
        text = json.dumps(record, indent=2, sort_keys=True) + "\n"
        (part / ORIGIN_NAME).write_text(text, encoding="utf-8")
        _clear_way(raw, old)
        part.rename(raw)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    remove(old)


def _clear_way(raw: Path, old: Path) -> None:
    # Our own copy is moved before it is deleted: half deleted without its origin.json it would
    # pass for a user's folder. Anything else loses empty folders only; rmdir spares files.
    if _recorded_origin(raw):
        raw.rename(old)
        return
    for folder, _, _ in os.walk(raw, topdown=False):
        Path(folder).rmdir()


def _from_kaggle(raw: Path, on_unplaced: str, part: Path) -> Counts:
    import kagglehub  # slow to import, and needed for this source only

    try:
        folder = Path(kagglehub.dataset_download(KAGGLE_DATASET))
    # A damaged or foreign archive ends in one of the last three, all else is an OSError.
    except (OSError, ValueError, zipfile.BadZipFile, kagglehub.exceptions.DataCorruptionError) as e:
        raise _unreachable(f"Kaggle's {KAGGLE_DATASET}", raw, e) from e
    where = f"Kaggle's {KAGGLE_DATASET}, at {folder}"
    selection, links = _selected_in(folder, where, on_unplaced)
    for path, target in _targets(selection, part, "copy", selection.root):
        _link_or_copy(folder / path, target)
    return _report("kaggle", selection, links)


def _selected_in(folder: Path, where: str, on_unplaced: str) -> tuple[Selection, int]:
    """The images of a folder that can be copied, and how many links in it were not followed."""
    files, links = list_files(folder)
    selection = select_images(files, head_in(folder), size_in(folder))
    _refuse_empty_class(where, selection, len(links))
    refuse_unplaced(where, selection, lost_links(folder, links), on_unplaced)
    _refuse_obstacles(folder, selection)
    return selection, len(links)


def _link_or_copy(image: Path, target: Path) -> None:
    try:
        os.link(image.resolve(), target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(image, target)


def _from_directory(raw: Path, directory: str, on_unplaced: str, part: Path) -> Counts:
    if not directory:
        raise SourceError(f"set data.directory to a folder of images, or put the images at {raw}")
    folder = Path(directory).expanduser()
    where = f"data.directory is {directory!r}"
    if not folder.is_dir():
        raise SourceError(f"{where}, which is not a folder. {WANTED}.")
    selection, links = _selected_in(folder, where, on_unplaced)
    # Paths stay as the user knows them: messages and data.patients name images by them.
    for path, target in _targets(selection, part, "copy", PurePosixPath()):
        # Never linked: a change to the user's file must not reach our copy, nor the reverse.
        shutil.copy2(folder / path, target)
    return _report("directory", selection, links)


def _from_phantom(settings: dict[str, Any], part: Path) -> Counts:
    from cxr import phantom

    try:
        count = phantom.generate(part, **settings)
    except ValueError as error:
        raise SourceError(f"data.phantom cannot be drawn: {error}") from error
    print(f"phantom: {count} images")
    return dict.fromkeys(LEFT_OUT, 0)


def _from_mendeley(raw: Path, on_unplaced: str, part: Path) -> Counts:
    zip_path = raw.parent / ".mendeley.zip.part"
    _download(zip_path, raw)
    _verify(zip_path)
    try:
        with zipfile.ZipFile(zip_path) as archive:
            counts = _extract(archive, on_unplaced, part)
    except SourceError:  # which is a RuntimeError
        raise
    # zipfile has no one error: the last two are those of names, encryption and methods.
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:
        raise SourceError(f"{zip_path} cannot be unpacked: {error}") from error
    zip_path.unlink()
    return counts


def _refuse_empty_class(where: str, selection: Selection, links: int) -> None:
    """Raise SourceError with what was found unless both classes have images to train with."""
    placed = selection.images.values()
    lacking = [label for label in LABELS if label not in {label for _, label in placed}]
    if not lacking and {split for split, _ in placed} & {"train", "test"}:
        return
    what = f"{' and '.join(lacking)} images" if lacking else "images in train/ or test/"
    there = [f"{len(placed)} images in their places"] * bool(placed)
    there += [found(selection)] * bool(selection.unplaced)
    there += [f"{links} symbolic links, which are not followed"] * bool(links)
    listed = ", ".join(there) or f"{selection.other} files, none of them an image"
    raise SourceError(f"{where}, which has no {what}. Found: {listed}. {WANTED}.")


def _refuse_obstacles(folder: Path, selection: Selection) -> None:
    """Raise SourceError with the name of each image that cannot be copied."""
    reasons = {path: obstacle(folder, path) for path in selection.images}
    refused = [f"  {shown(path)}: {reason}" for path, reason in reasons.items() if reason]
    if refused:
        listed = "\n".join(refused)
        raise SourceError(
            f"{len(refused)} image(s) in {folder} cannot be copied:\n{listed}\n"
            "  Replace or remove them."
        )


def _targets(
    selection: Selection, part: Path, verb: str, above: PurePosixPath
) -> Iterator[tuple[PurePosixPath, Path]]:
    """Yield each image and the path to write it to, without `above`; show the progress."""
    for path in track(selection.images, verb):
        target = part / path.relative_to(above)
        target.parent.mkdir(parents=True, exist_ok=True)
        yield path, target


def _report(source: str, selection: Selection, refused: int) -> Counts:
    """Print how many files were left out, and return it by `LEFT_OUT`."""
    print(
        f"{source}: {len(selection.images)} images; left out: {selection.nested} in nested copies, "
        f"{selection.stray} hidden or in __MACOSX, {selection.other} other files, "
        f"{refused} links, doubles or unsafe names, "
        f"{len(selection.unplaced)} images where the layout knows none"
    )
    numbers = (selection.stray, selection.nested, selection.other, refused)
    return dict(zip(LEFT_OUT, (*numbers, len(selection.unplaced)), strict=True))


def _unreachable(what: str, raw: Path, error: Exception, kept: str = "") -> SourceError:
    return SourceError(
        f"{what} could not be downloaded: {error}\n"
        "Three ways on:\n"
        f"  1. Try again when the network is back{kept}.\n"
        f"  2. Put the images at {raw}/train|test|val/NORMAL|PNEUMONIA by hand.\n"
        "  3. Run `make demo` to see the pipeline run on generated images."
    )


def _download(zip_path: Path, raw: Path) -> None:
    if _size(zip_path) >= MENDELEY.bytes:
        return
    try:
        _receive(zip_path)
    except requests.RequestException as error:
        have = _size(zip_path)
        kept = f": run again to resume, {have:,} of {MENDELEY.bytes:,} bytes are kept"
        raise _unreachable(MENDELEY.url, raw, error, kept if have else "") from error


def _receive(zip_path: Path) -> None:
    """Ask for the bytes that are still missing and append them."""
    have = _size(zip_path)
    headers = {"Accept-Encoding": "identity", "Range": f"bytes={have}-"}
    with (
        _session() as session,
        session.get(MENDELEY.url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as answer,
    ):
        if have and answer.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # the server has no more than we do; the checksum tells if that is right
        answer.raise_for_status()
        if answer.status_code != HTTPStatus.PARTIAL_CONTENT:
            have = 0  # the server sends all of it anew
        _check_length(answer, have)
        with (
            zip_path.open("ab" if have else "wb") as file,
            Meter("download", MENDELEY.bytes, "B", done=have) as meter,
        ):
            for chunk in answer.iter_content(CHUNK_BYTES):
                file.write(chunk)
                meter.advance(len(chunk))
    if _size(zip_path) < MENDELEY.bytes:
        raise requests.ConnectionError("the connection ended early")


def _session() -> requests.Session:
    # Retry-After is not obeyed because a server may ask for hours with it; the user may decide.
    retry = Retry(
        total=3,
        backoff_factor=BACKOFF_SECONDS,
        status_forcelist=(429, 500, 502, 503, 504),
        respect_retry_after_header=False,
    )
    session = requests.Session()
    session.mount("https://", HTTPAdapter(max_retries=retry))
    session.mount("http://", HTTPAdapter(max_retries=retry))
    return session


def _check_length(answer: requests.Response, have: int) -> None:
    # A notice page sent in place of the archive must not overwrite what we have of it.
    length = answer.headers.get("Content-Length")
    if length not in (None, str(MENDELEY.bytes - have)):
        raise requests.RequestException(
            f"the server offers {length} bytes, {MENDELEY.bytes - have} are expected"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _verify(zip_path: Path) -> None:
    """Raise SourceError and delete the file unless it is the published one, byte for byte."""
    with zip_path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    size = _size(zip_path)
    if (size, found) != (MENDELEY.bytes, MENDELEY.sha256):
        zip_path.unlink()
        raise SourceError(
            f"{MENDELEY.url} is not the file it should be and was deleted: expected "
            f"{MENDELEY.bytes} bytes with SHA-256 {MENDELEY.sha256}, found {size} bytes with "
            f"{found}. Run again to download it anew."
        )


def _extract(archive: zipfile.ZipFile, on_unplaced: str, part: Path) -> Counts:
    files = [info for info in archive.infolist() if not info.is_dir()]
    members: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for info in filter(_is_safe, files):
        members.setdefault(PurePosixPath(info.filename), info)

    def head(path: PurePosixPath) -> bytes:
        with archive.open(members[path]) as file:
            return file.read(HEAD_BYTES)

    selection = select_images(members, head, lambda path: members[path].file_size)
    _refuse_empty_class(MENDELEY.url, selection, 0)
    refuse_unplaced(MENDELEY.url, selection, [], on_unplaced)
    for path in selection.images:
        if members[path].file_size > MEMBER_LIMIT_BYTES:
            raise SourceError(f"{path} in the archive has {members[path].file_size:,} bytes")
    unpacked = sum(members[path].file_size for path in selection.images)
    if unpacked > RATIO_LIMIT * MENDELEY.bytes:
        raise SourceError(f"the archive of {MENDELEY.bytes:,} bytes unpacks to {unpacked:,}")
    for path, target in _targets(selection, part, "unpack", selection.root):
        with archive.open(members[path]) as data, target.open("xb") as file:
            shutil.copyfileobj(data, file)
    return _report("mendeley", selection, len(files) - len(members))


def _is_safe(info: zipfile.ZipInfo) -> bool:
    path = PurePosixPath(info.filename)
    return not (
        path.is_absolute()
        or ".." in path.parts
        or stat.S_ISLNK(info.external_attr >> 16)
        or any(sign in info.orig_filename for sign in "\\\0")
    )
