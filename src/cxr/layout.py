"""Where the images of a radiograph folder are: <root>/<split>/<label>/<name>."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NoReturn

from cxr.errors import CxrError
from cxr.labels import LABELS, SPLITS

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")
ORIGIN_NAME = "origin.json"
# Control characters and bytes that are not UTF-8: no table or log can hold such a name unharmed.
UNFIT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


class SourceError(CxrError):
    """The raw images cannot be had as asked; the message is written for the user."""


@dataclass(frozen=True)
class Selection:
    """The images of one folder, and how many of its files are something else.

    Attributes:
        images: path of each wanted image -> (split, label), sorted by path.
        stray: files left behind by file managers and archivers (hidden or in __MACOSX).
        nested: images of further copies that lie deeper than the wanted ones.
        other: all remaining files, such as notes, tables, or images of unknown classes.
    """

    images: dict[PurePosixPath, tuple[str, str]]
    stray: int
    nested: int
    other: int


def is_image(path: PurePosixPath) -> bool:
    """Tell by its suffix, in any case of letters, whether a path names an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def select_images(paths: Iterable[PurePosixPath]) -> Selection:
    """Choose the images that make up the data set among all files of a folder.

    An image of the data set lies at <root>/<split>/<label>/<name> with a split of `SPLITS` and a
    label of `LABELS`. The root may be the folder itself or lie deeper, as in an unpacked archive.
    Where there are several, the one nearest to the top is meant: the published archive holds a
    second copy of itself one level down.

    Args:
        paths: Paths of files, relative to the folder. A path given twice is taken once. The
            `origin.json` at the top, which this project writes, is not counted.

    Returns:
        The chosen images and how many files were left out, by reason.

    Raises:
        SourceError: Two roots are equally near to the top.
    """
    roots: dict[PurePosixPath, list[PurePosixPath]] = {}
    stray = other = 0
    for path in set(paths) - {PurePosixPath(ORIGIN_NAME)}:
        if _is_stray(path):
            stray += 1
        elif _is_classified(path):
            roots.setdefault(path.parents[2], []).append(path)
        else:
            other += 1
    wanted = sorted(_shallowest(roots))
    return Selection(
        images={path: (path.parts[-3], path.parts[-2]) for path in wanted},
        stray=stray,
        nested=sum(map(len, roots.values())) - len(wanted),
        other=other,
    )


def list_files(folder: Path) -> tuple[list[PurePosixPath], int]:
    """List all files below a folder without leaving it.

    A symbolic link to a file that lies below the same folder counts as a file. All other
    symbolic links (to folders, to anything outside, to nothing) are skipped. Whatever stands in
    the place of an image is listed, though, also a folder or a link that leads out: `obstacle`
    tells it from an image, so that none is left out unnoticed.

    Args:
        folder: An existing folder.

    Returns:
        The files' paths relative to the folder, sorted, and the number of links skipped.

    Raises:
        OSError: A folder cannot be read.
    """
    home = folder.resolve()
    files: list[PurePosixPath] = []
    skipped = 0
    for base, folders, names in os.walk(home, onerror=_raise):
        for path in (Path(base, name) for name in (*folders, *names)):
            relative = PurePosixPath(path.relative_to(home).as_posix())
            if _is_classified(relative) and not _is_stray(relative):
                files.append(relative)
            elif path.is_symlink() and not _stays_inside(path, home):
                skipped += 1
            elif not path.is_dir():
                files.append(relative)
    return sorted(files), skipped


def obstacle(folder: Path, path: PurePosixPath) -> str:
    """Why what is listed as an image cannot be read as a file of the folder; empty if it can."""
    if UNFIT.search(str(path)):
        return "its name holds control characters or is not UTF-8"
    place = folder / path
    if place.is_symlink() and not _stays_inside(place, folder.resolve()):
        return "a symbolic link to nothing or to what lies elsewhere; it is not followed"
    if not place.is_file():
        return "not a file"
    return "" if os.access(place, os.R_OK) else "permission denied"


def shown(path: PurePosixPath) -> str:
    """A path as text that is safe to print and to keep, escaped where it is `UNFIT`."""
    return UNFIT.sub(lambda sign: sign[0].encode("unicode_escape").decode(), str(path))


def _is_stray(path: PurePosixPath) -> bool:
    return any(part == "__MACOSX" or part.startswith(".") for part in path.parts)


def _is_classified(path: PurePosixPath) -> bool:
    return (
        is_image(path)
        and len(path.parts) >= 3
        and path.parts[-3] in SPLITS
        and path.parts[-2] in LABELS
    )


def _shallowest(roots: dict[PurePosixPath, list[PurePosixPath]]) -> list[PurePosixPath]:
    if not roots:
        return []
    first, *rest = sorted(roots, key=lambda root: (len(root.parts), root))
    if rest and len(rest[0].parts) == len(first.parts):
        raise SourceError(
            f"two folders hold images in {'|'.join(SPLITS)} and neither lies above the other: "
            f"{first} and {rest[0]}. Keep one of them."
        )
    return roots[first]


def _stays_inside(link: Path, home: Path) -> bool:
    return link.is_file() and link.resolve().is_relative_to(home)


def _raise(error: OSError) -> NoReturn:
    # os.walk passes over unreadable folders in silence, which would lose images unnoticed.
    raise error
