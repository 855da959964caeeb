"""Where the images of a radiograph folder are: <root>/<split>/<label>/<name>, or in folders below.

An image is told by its suffix or, where that tells nothing, by its first bytes.
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
from cxr.data.images import HEAD_BYTES, begins_as_image
from cxr.errors import CxrError, shortened

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".jpe", ".jfif", ".png")
SPLIT_OF = {**{split: split for split in SPLITS}, "valid": "val", "validation": "val"}
EXPECTED_LAYOUT = (
    "Wanted: NORMAL/ and PNEUMONIA/, in capitals, in train/, test/ or val/ (or valid/, "
    "validation/). Folders in PNEUMONIA/, as BACTERIA/ and VIRUS/, are read as well. Images that "
    "have no split yet go into train/, with split.test: redrawn"
)
ORIGIN_NAME = "origin.json"
LISTED = 10  # folders of a message
# Control characters and bytes that are not UTF-8: no table or log can hold such a name unharmed.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")

Head = Callable[[PurePosixPath], bytes]
Size = Callable[[PurePosixPath], int]


class SourceError(CxrError):
    """The raw images cannot be had as asked; the message is written for the user."""


@dataclass(frozen=True)
class FolderContents:
    """The images of one folder, and which of its files are something else.

    Attributes:
        images: path of each wanted image -> (split, label), sorted by path.
        root: folder that holds the splits.
        unplaced: images anywhere else, sorted; those of further copies are not among them.
        stray: number of files left behind by file managers and archivers (hidden or in __MACOSX).
        nested: number of images of deeper copies: split, label, name and size of a wanted one.
        other: number of all remaining files, such as notes and tables.
    """

    images: dict[PurePosixPath, tuple[str, str]]
    root: PurePosixPath
    unplaced: list[PurePosixPath]
    stray: int
    nested: int
    other: int


@dataclass(frozen=True)
class _Place:
    """What the folders of an image say; `rest` is its path below the label's folder."""

    root: PurePosixPath
    split: str
    label: str
    rest: PurePosixPath


def _no_head(_: PurePosixPath) -> bytes:
    return b""


def _no_size(_: PurePosixPath) -> int:
    return 0


def is_image(path: PurePosixPath, head: Head = _no_head) -> bool:
    """Tell by its suffix, in any case of letters, or else by its first bytes."""
    return path.suffix.lower() in IMAGE_SUFFIXES or begins_as_image(head(path))


def head_in(folder: Path) -> Head:
    """The first bytes of each file below a folder; none where it cannot be read."""

    def head(path: PurePosixPath) -> bytes:
        try:
            if not (folder / path).is_file():  # a pipe would keep us waiting for ever
                return b""
            with (folder / path).open("rb") as file:
                return file.read(HEAD_BYTES)
        except (OSError, ValueError):
            return b""

    return head


def size_in(folder: Path) -> Size:
    """The bytes of each file below a folder; -1 where it cannot be looked at."""

    def size(path: PurePosixPath) -> int:
        try:
            return (folder / path).stat().st_size
        except (OSError, ValueError):
            return -1

    return size


def select_images(
    paths: Iterable[PurePosixPath], head: Head = _no_head, size: Size = _no_size
) -> FolderContents:
    """Choose the images that make up the data set among all files of a folder.

    An image of the data set lies at <root>/<split>/<label>/<name>, or in folders below the label's,
    with a key of `SPLIT_OF` and a label of `LABELS`. The root may be the folder itself or lie
    deeper, as in an unpacked archive. Where there are several, the one nearest to the top is meant:
    the published archive holds a second copy of itself one level down.

    Args:
        paths: Paths of files, relative to the folder. A path given twice is taken once. The
            `origin.json` at the top, which this project writes, is not counted.
        head: Gives the first bytes of a file whose suffix does not tell whether it is an image.
        size: Gives the bytes of a file: an image of another size than the wanted one of its name is
            no copy, as where folders of several hospitals lie in each other.

    Returns:
        The chosen images, and what was left out.

    Raises:
        SourceError: Two roots are equally near to the top.
    """
    places: dict[PurePosixPath, _Place] = {}
    unplaced: list[PurePosixPath] = []
    stray = other = 0
    for path in set(paths) - {PurePosixPath(ORIGIN_NAME)}:
        if _is_stray(path):
            stray += 1
        elif not is_image(path, head):
            other += 1
        elif place := _place(path):
            places[path] = place
        else:
            unplaced.append(path)
    root = _shallowest({place.root for place in places.values()})
    wanted = sorted(path for path, place in places.items() if place.root == root)
    kept = {_within(places[path]): size(path) for path in wanted}
    deeper = places.keys() - set(wanted)
    lost = [path for path in deeper if kept.get(_within(places[path])) != size(path)]
    return FolderContents(
        images={path: (places[path].split, places[path].label) for path in wanted},
        root=root,
        unplaced=sorted([*unplaced, *lost]),
        stray=stray,
        nested=len(deeper) - len(lost),
        other=other,
    )


def refuse_unplaced(
    where: str, selection: FolderContents, links: list[PurePosixPath], on_unplaced: str
) -> None:
    """Say by folder which images lie where the layout does not know them.

    Args:
        where: Names the folder or archive in the message, as the user knows it.
        selection: What was found there.
        links: Symbolic links to folders or images, which are not followed.
        on_unplaced: `error` or `skip`; what is skipped is printed.

    Raises:
        SourceError: With `error`, if there are any such images or links.
    """
    if not selection.unplaced and not links:
        return
    counts = Counter(printable(path.parent) for path in selection.unplaced)
    lines = [f"{folder}: {_images(count)}" for folder, count in sorted(counts.items())]
    lines += [f"{printable(path)}: a symbolic link, which is not followed" for path in links]
    what = describe_folders(selection) if selection.unplaced else f"{len(links)} link(s)"
    message = "\n  ".join(
        [
            f"{where}: {what} where the layout knows none:",
            *shortened(lines, LISTED),
            f"{EXPECTED_LAYOUT}.",
        ]
    )
    if on_unplaced == "error":
        raise SourceError(
            f"{message}\n  Move or remove what is listed, or set data.on_unplaced to skip to leave "
            "it out."
        )
    print(f"WARNING: {message}\n  left out")


def describe_folders(selection: FolderContents) -> str:
    """The images without a place, as "63 images in train/normal, train/pneumonia"."""
    folders = sorted({printable(path.parent) for path in selection.unplaced})
    count = _images(len(selection.unplaced))
    return f"{count} in {', '.join(shortened(folders, LISTED, 'more folders'))}"


def _images(count: int) -> str:
    return f"{count} image{'s' * (count != 1)}"


def _within(place: _Place) -> tuple[str, str, PurePosixPath]:
    return place.split, place.label, place.rest


def list_files(folder: Path) -> tuple[list[PurePosixPath], list[PurePosixPath]]:
    """List all files below a folder without leaving it.

    A symbolic link to a file that lies below the same folder counts as a file. All other
    symbolic links (to folders, to anything outside, to nothing) are skipped. Whatever stands in
    the place of an image is listed, though, also a folder or a link that leads out: `obstacle`
    tells it from an image, so that none is left out unnoticed.

    Args:
        folder: An existing folder.

    Returns:
        The paths of the files and of the links skipped, relative to the folder, sorted.

    Raises:
        OSError: A folder cannot be read.
    """
    home = folder.resolve()
    files: list[PurePosixPath] = []
    skipped: list[PurePosixPath] = []
    for base, folders, names in os.walk(home, onerror=_raise):
        for path in (Path(base, name) for name in (*folders, *names)):
            relative = PurePosixPath(path.relative_to(home).as_posix())
            if is_image(relative) and _place(relative) and not _is_stray(relative):
                files.append(relative)
            elif path.is_symlink() and not _stays_inside(path, home):
                skipped.append(relative)
            elif not path.is_dir():
                files.append(relative)
    return sorted(files), sorted(skipped)


def lost_links(folder: Path, links: Iterable[PurePosixPath]) -> list[PurePosixPath]:
    """Of the links that `list_files` skipped, those behind which images may be: to a folder that
    lies elsewhere, or named as an image. Hidden ones are not among them.
    """
    home = folder.resolve()

    def leads_to_images(path: PurePosixPath) -> bool:
        target = home / path
        return is_image(path) or (target.is_dir() and not target.resolve().is_relative_to(home))

    return [path for path in links if not _is_stray(path) and leads_to_images(path)]


def unreadable_reason(folder: Path, path: PurePosixPath) -> str:
    """Why what is listed as an image cannot be read as a file of the folder; empty if it can."""
    if UNPRINTABLE.search(str(path)):
        return "its name holds control characters or is not UTF-8"
    place = folder / path
    if place.is_symlink() and not _stays_inside(place, folder.resolve()):
        return "a symbolic link to nothing or to what lies elsewhere; it is not followed"
    if not place.is_file():
        return "not a file"
    return "" if os.access(place, os.R_OK) else "permission denied"


def printable(path: PurePosixPath) -> str:
    """A path as text that is safe to print and to keep, escaped where it is `UNFIT`."""
    return UNPRINTABLE.sub(lambda sign: sign[0].encode("unicode_escape").decode(), str(path))


def _is_stray(path: PurePosixPath) -> bool:
    return any(part == "__MACOSX" or part.startswith(".") for part in path.parts)


def _place(path: PurePosixPath) -> _Place | None:
    """None where the folders do not say one split and one label."""
    folders = path.parts[:-1]
    for depth, (split, label) in enumerate(pairwise(folders)):
        if split in SPLIT_OF and label in LABELS:
            below = {name.upper() for name in folders[depth + 2 :]}
            if below & {name.upper() for name in (*SPLIT_OF, *LABELS)}:
                return None  # as train/NORMAL/PNEUMONIA
            rest = PurePosixPath(*path.parts[depth + 2 :])
            return _Place(PurePosixPath(*folders[:depth]), SPLIT_OF[split], label, rest)
    return None


def _shallowest(roots: set[PurePosixPath]) -> PurePosixPath:
    if not roots:
        return PurePosixPath()
    first, *rest = sorted(roots, key=lambda root: (len(root.parts), root))
    if rest and len(rest[0].parts) == len(first.parts):
        raise SourceError(
            f"two folders hold images in {'|'.join(SPLITS)} and neither lies above the other: "
            f"{first} and {rest[0]}. Keep one of them."
        )
    return first


def _stays_inside(link: Path, home: Path) -> bool:
    return link.is_file() and link.resolve().is_relative_to(home)


def _raise(error: OSError) -> NoReturn:
    # os.walk passes over unreadable folders in silence, which would lose images unnoticed.
    raise error
