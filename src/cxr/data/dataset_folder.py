"""Layout of a data set folder: <root>/<split>/<label>/<name>, or in folders below the label.

Images are recognized by their suffix or else by their first bytes.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import NoReturn

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
MAX_LISTED = 10  # folders in a message
# Control characters and bytes that are not UTF-8, which break tables and logs.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")

ReadHead = Callable[[PurePosixPath], bytes]
FileSize = Callable[[PurePosixPath], int]


class SourceError(CxrError):
    """The raw images are not available as configured."""


@dataclass(frozen=True)
class FolderContents:
    """Files of a data set folder, by kind.

    Attributes:
        images: (split, label) of each image of the data set, sorted by path.
        root: folder that contains the splits.
        unplaced: images outside the expected layout, sorted.
        stray: number of hidden files and files in __MACOSX.
        nested: number of images of a nested copy of the data set: same split, label, name and size.
        other: number of all other files, such as notes and tables.
    """

    images: dict[PurePosixPath, tuple[str, str]]
    root: PurePosixPath
    unplaced: list[PurePosixPath]
    stray: int
    nested: int
    other: int


@dataclass(frozen=True)
class _Location:
    """Location of an image by its folders; `rest` is the path below the label's folder."""

    root: PurePosixPath
    split: str
    label: str
    rest: PurePosixPath


def _no_head(_: PurePosixPath) -> bytes:
    return b""


def _no_size(_: PurePosixPath) -> int:
    return 0


def is_image(path: PurePosixPath, head: ReadHead = _no_head) -> bool:
    """Whether a file is an image by its suffix (case-insensitive) or its first bytes."""
    return path.suffix.lower() in IMAGE_SUFFIXES or has_image_signature(head(path))


def head_reader(folder: Path) -> ReadHead:
    """Function that reads the first bytes of a file below a folder; empty if it is unreadable."""

    def head(path: PurePosixPath) -> bytes:
        try:
            if not (folder / path).is_file():  # reading a pipe would block
                return b""
            with (folder / path).open("rb") as file:
                return file.read(HEAD_BYTES)
        except (OSError, ValueError):
            return b""

    return head


def size_reader(folder: Path) -> FileSize:
    """Function that gives the size of a file below a folder in bytes; -1 if it is unreadable."""

    def size(path: PurePosixPath) -> int:
        try:
            return (folder / path).stat().st_size
        except (OSError, ValueError):
            return -1

    return size


def select_images(
    paths: Iterable[PurePosixPath], head: ReadHead = _no_head, size: FileSize = _no_size
) -> FolderContents:
    """Select the images of the data set among all files of a folder.

    Images are at <root>/<split>/<label>/<name>, or in folders below the label's, with a key of
    `SPLIT_OF` and a label of `LABELS`. The root is the folder itself or below it, as in an unpacked
    archive. Of several roots, the one closest to the top is used: the published archive contains a
    second copy of the data set one level down.

    Args:
        paths: Files, relative to the folder; duplicates and a top-level `origin.json` are ignored.
        head: Reads the first bytes of a file that has no image suffix.
        size: File size in bytes. A nested image counts as a copy only if its size is equal.

    Raises:
        SourceError: Two roots are equally close to the top.
    """
    locations: dict[PurePosixPath, _Location] = {}
    unplaced: list[PurePosixPath] = []
    stray = other = 0
    for path in set(paths) - {PurePosixPath(ORIGIN_NAME)}:
        if _is_stray(path):
            stray += 1
        elif not is_image(path, head):
            other += 1
        elif location := _location(path):
            locations[path] = location
        else:
            unplaced.append(path)
    root = _shallowest({location.root for location in locations.values()})
    selected = sorted(path for path, location in locations.items() if location.root == root)
    sizes = {_below_root(locations[path]): size(path) for path in selected}
    deeper = locations.keys() - set(selected)
    not_copies = [path for path in deeper if sizes.get(_below_root(locations[path])) != size(path)]
    return FolderContents(
        images={path: (locations[path].split, locations[path].label) for path in selected},
        root=root,
        unplaced=sorted([*unplaced, *not_copies]),
        stray=stray,
        nested=len(deeper) - len(not_copies),
        other=other,
    )


def refuse_unplaced(
    where: str, contents: FolderContents, links: list[PurePosixPath], on_unplaced: str
) -> None:
    """Report images outside the expected layout, by folder.

    Args:
        where: Name of the folder or archive for the message.
        contents: From `select_images`.
        links: From `unfollowed_links`.
        on_unplaced: `error` or `skip`, which prints a warning.

    Raises:
        SourceError: With `error`, if there are any such images or links.
    """
    if not contents.unplaced and not links:
        return
    counts = Counter(printable(path.parent) for path in contents.unplaced)
    lines = [f"{folder}: {_images(count)}" for folder, count in sorted(counts.items())]
    lines += [f"{printable(path)}: a symbolic link, which is not followed" for path in links]
    subject = describe_unplaced(contents) if contents.unplaced else f"{len(links)} link(s)"
    message = "\n  ".join(
        [
            f"{where}: {subject} outside the expected layout:",
            *shortened(lines, MAX_LISTED),
            f"{EXPECTED_LAYOUT}.",
        ]
    )
    if on_unplaced == "error":
        raise SourceError(
            f"{message}\n  Move or remove the listed images, or set data.on_unplaced to skip."
        )
    print(f"WARNING: {message}\n  skipped")


def describe_unplaced(contents: FolderContents) -> str:
    """Count images outside the layout, such as "63 images in train/normal, train/pneumonia"."""
    folders = sorted({printable(path.parent) for path in contents.unplaced})
    count = _images(len(contents.unplaced))
    return f"{count} in {', '.join(shortened(folders, MAX_LISTED, 'more folders'))}"


def _images(count: int) -> str:
    return f"{count} image{'s' * (count != 1)}"


def _below_root(location: _Location) -> tuple[str, str, PurePosixPath]:
    return location.split, location.label, location.rest


def list_files(folder: Path) -> tuple[list[PurePosixPath], list[PurePosixPath]]:
    """List all files below a folder.

    A symbolic link to a file below the same folder counts as a file; other links are skipped. Any
    entry with the location and suffix of an image is listed, even a folder or a broken link, so
    that `unreadable_reason` reports it.

    Returns:
        Files and skipped links, relative to the folder, sorted.

    Raises:
        OSError: A folder cannot be read.
    """
    home = folder.resolve()
    files: list[PurePosixPath] = []
    skipped: list[PurePosixPath] = []
    for base, folders, names in os.walk(home, onerror=_raise):
        for path in (Path(base, name) for name in (*folders, *names)):
            relative = PurePosixPath(path.relative_to(home).as_posix())
            if is_image(relative) and _location(relative) and not _is_stray(relative):
                files.append(relative)
            elif path.is_symlink() and not _stays_inside(path, home):
                skipped.append(relative)
            elif not path.is_dir():
                files.append(relative)
    return sorted(files), sorted(skipped)


def unfollowed_links(folder: Path, links: Iterable[PurePosixPath]) -> list[PurePosixPath]:
    """Select the skipped links of `list_files` that may lead to images: links to a folder outside,
    or with an image suffix; not hidden ones.
    """
    home = folder.resolve()

    def may_lead_to_images(path: PurePosixPath) -> bool:
        target = home / path
        return is_image(path) or (target.is_dir() and not target.resolve().is_relative_to(home))

    return [path for path in links if not _is_stray(path) and may_lead_to_images(path)]


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
        raise SourceError(
            f"two folders contain {'|'.join(SPLITS)}: {first} and {rest[0]}. Keep one of them."
        )
    return first


def _stays_inside(link: Path, home: Path) -> bool:
    return link.is_file() and link.resolve().is_relative_to(home)


def _raise(error: OSError) -> NoReturn:
    # os.walk skips unreadable folders silently, which would lose images.
    raise error
