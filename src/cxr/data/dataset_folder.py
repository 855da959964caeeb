"""Layout of a data set folder: <root>/<split>/<label>/<name>, or in folders below the label.

Images are recognized by their suffix or else by their first bytes.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import NamedTuple, NoReturn

from cxr.common.names import LABELS, SPLITS
from cxr.data.images import HEAD_BYTES, has_image_signature
from cxr.errors import CxrError, shortened

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".jpe", ".jfif", ".png")
SPLIT_OF = {**{split: split for split in SPLITS}, "valid": "val", "validation": "val"}
EXPECTED_LAYOUT = (
    "Expected layout: NORMAL/ and PNEUMONIA/ (in capitals) in train/, test/ or val/ (or valid/, "
    "validation/), with optional folders below, such as PNEUMONIA/VIRUS/. Put images without a "
    "split into train/ and set split.test to redrawn"
)
ORIGIN_NAME = "origin.json"
NOTHING_LEFT_OUT = {"stray": 0, "nested": 0, "other": 0, "links": 0, "unplaced": 0}
MAX_LISTED = 10  # folders in a message
# Control characters and bytes that are not UTF-8, which break tables and logs.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class FolderContents:
    """Files of a data set folder, by kind.

    Attributes:
        images: (split, label) of each image of the data set, sorted by path.
        root: folder that contains the splits.
        unplaced: images outside the expected layout, sorted.
        unfollowed: symbolic links that are not followed and may lead to images, sorted.
        left_out: number of all other files: stray (hidden, in __MACOSX), nested (images of a
            nested copy of the data set: same split, label, name and size), other (such as notes
            and tables), links (that are not followed), unplaced.
    """

    images: dict[PurePosixPath, tuple[str, str]]
    root: PurePosixPath
    unplaced: list[PurePosixPath]
    unfollowed: list[PurePosixPath]
    left_out: dict[str, int]


class _Location(NamedTuple):
    """Location of an image by its folders; `rest` is the path below the label's folder."""

    root: PurePosixPath
    split: str
    label: str
    rest: PurePosixPath


def scan(folder: Path) -> FolderContents:
    """List all files below a folder, and select the images of the data set.

    A symbolic link to a file below the same folder counts as a file; other links are not followed.
    Any entry with the location and suffix of an image is listed, even a folder or a broken link, so
    that `unreadable_reason` reports it.

    Raises:
        OSError: A folder cannot be read.
        CxrError: As `select_images`.
    """
    home = folder.resolve()
    files: list[PurePosixPath] = []
    links: list[PurePosixPath] = []
    for base, folders, names in os.walk(home, onerror=_raise):
        for path in (Path(base, name) for name in (*folders, *names)):
            relative = PurePosixPath(path.relative_to(home).as_posix())
            if is_image(relative) and _location(relative) and not _is_stray(relative):
                files.append(relative)
            elif path.is_symlink() and not _stays_inside(path, home):
                links.append(relative)
            elif not path.is_dir():
                files.append(relative)
    return select_images(files, home, links)


def select_images(
    paths: Iterable[PurePosixPath], folder: Path | None = None, links: Sequence[PurePosixPath] = ()
) -> FolderContents:
    """Select the images of the data set among all files of a folder.

    Images are at <root>/<split>/<label>/<name>, or in folders below the label's, with a key of
    `SPLIT_OF` and a label of `LABELS`. The root is the folder itself or below it, as in an unpacked
    archive. Of several roots, the one closest to the top is used: the published archive contains a
    second copy of the data set one level down.

    Args:
        paths: Files, relative to the folder; duplicates and a top-level `origin.json` are ignored.
        folder: None: images are recognized by their suffix only, and copies without their size.
        links: Symbolic links that are not followed.

    Raises:
        CxrError: Two roots are equally close to the top.
    """
    locations: dict[PurePosixPath, _Location] = {}
    unplaced: list[PurePosixPath] = []
    stray = nested = other = 0
    for path in set(paths) - {PurePosixPath(ORIGIN_NAME)}:
        if _is_stray(path):
            stray += 1
        elif not is_image(path, folder):
            other += 1
        elif location := _location(path):
            locations[path] = location
        else:
            unplaced.append(path)
    root = _shallowest({location.root for location in locations.values()})
    selected = sorted(path for path, location in locations.items() if location.root == root)
    sizes = {locations[path]: _size(path, folder) for path in selected}
    for path in locations.keys() - set(selected):
        if sizes.get(locations[path]._replace(root=root)) == _size(path, folder):
            nested += 1
        else:
            unplaced.append(path)
    counts = (stray, nested, other, len(links), len(unplaced))
    return FolderContents(
        images={path: (locations[path].split, locations[path].label) for path in selected},
        root=root,
        unplaced=sorted(unplaced),
        unfollowed=sorted(link for link in links if folder and _may_lead_to_images(link, folder)),
        left_out=dict(zip(NOTHING_LEFT_OUT, counts, strict=True)),
    )


def is_image(path: PurePosixPath, folder: Path | None = None) -> bool:
    """Whether a file is an image by its suffix (case-insensitive) or, with the folder to which it
    is relative, by its first bytes.
    """
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return True
    return folder is not None and has_image_signature(_head(folder / path))


def _head(file: Path) -> bytes:
    with suppress(OSError):  # an unreadable file without a suffix is no image
        if file.is_file():  # reading a pipe would block
            with file.open("rb") as opened:
                return opened.read(HEAD_BYTES)
    return b""


def _size(path: PurePosixPath, folder: Path | None) -> int:
    try:
        return (folder / path).stat().st_size if folder else 0
    except OSError:
        return -1


def refuse_unplaced(where: str, contents: FolderContents, on_unplaced: str) -> None:
    """Report images and links outside the expected layout of the folder or archive `where`.

    Raises:
        CxrError: There are any, and `on_unplaced` is `error`; `skip` prints a warning.
    """
    links = [f"{printable(path)}: symbolic link, not followed" for path in contents.unfollowed]
    lines = [*unplaced_by_folder(contents), *shortened(links, MAX_LISTED, "more links")]
    if not lines:
        return
    first = f"{where}: images outside the expected layout:"
    message = "\n  ".join([first, *lines, f"{EXPECTED_LAYOUT}."])
    if on_unplaced == "error":
        raise CxrError(
            f"{message}\n  Move or remove the listed images, or set data.on_unplaced to skip."
        )
    print(f"WARNING: {message}\n  skipped")


def unplaced_by_folder(contents: FolderContents) -> list[str]:
    """Count images outside the layout, such as `train/normal: 20 images`, for a message."""
    counts = Counter(printable(path.parent) for path in contents.unplaced)
    lines = [f"{folder}: {n} image{'s' * (n != 1)}" for folder, n in sorted(counts.items())]
    return shortened(lines, MAX_LISTED, "more folders")


def unreadable_reason(folder: Path, path: PurePosixPath) -> str:
    """Reason why a listed image cannot be read; empty if it can."""
    if UNPRINTABLE.search(str(path)):
        return "its name contains control characters or is not UTF-8"
    file = folder / path
    if file.is_symlink() and not _stays_inside(file, folder.resolve()):
        return "a symbolic link that is broken or leads out of the folder"
    if not file.is_file():
        return "not a file"
    return "" if os.access(file, os.R_OK) else "permission denied"


def printable(path: PurePosixPath) -> str:
    """Path as text for tables and logs, with `UNPRINTABLE` characters escaped."""
    return UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), str(path))


def _is_stray(path: PurePosixPath) -> bool:
    return any(part == "__MACOSX" or part.startswith(".") for part in path.parts)


def _may_lead_to_images(link: PurePosixPath, folder: Path) -> bool:
    """Whether a link has an image suffix or leads to a folder outside, and is not hidden."""
    target = folder / link
    leads_outside = target.is_dir() and not target.resolve().is_relative_to(folder)
    return not _is_stray(link) and (is_image(link) or leads_outside)


def _location(path: PurePosixPath) -> _Location | None:
    """Parse the split and label of a path; None unless there is exactly one of each."""
    folders = path.parts[:-1]
    for depth, (split, label) in enumerate(pairwise(folders)):
        if split in SPLIT_OF and label in LABELS:
            below = {name.upper() for name in folders[depth + 2 :]}
            if below & {name.upper() for name in (*SPLIT_OF, *LABELS)}:
                return None  # such as train/NORMAL/PNEUMONIA
            rest = PurePosixPath(*path.parts[depth + 2 :])
            return _Location(PurePosixPath(*folders[:depth]), SPLIT_OF[split], label, rest)
    return None


def _shallowest(roots: set[PurePosixPath]) -> PurePosixPath:
    if not roots:
        return PurePosixPath()
    first, *rest = sorted(roots, key=lambda root: (len(root.parts), root))
    if rest and len(rest[0].parts) == len(first.parts):
        raise CxrError(
            f"two folders contain {'|'.join(SPLITS)}: {first} and {rest[0]}. Keep one of them."
        )
    return first


def _stays_inside(link: Path, home: Path) -> bool:
    return link.is_file() and link.resolve().is_relative_to(home)


def _raise(error: OSError) -> NoReturn:
    # os.walk skips unreadable folders silently, which would lose images.
    raise error
