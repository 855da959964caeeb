"""Where the images of a radiograph folder are: <root>/<split>/<label>/<name>."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NoReturn

from cxr.errors import CxrError
from cxr.labels import LABELS, SPLITS

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")
ORIGIN_NAME = "origin.json"


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
    symbolic links (to folders, to anything outside, to nothing) are skipped.

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
        skipped += sum(Path(base, name).is_symlink() for name in folders)
        for path in (Path(base, name) for name in names):
            if path.is_symlink() and not _stays_inside(path, home):
                skipped += 1
            else:
                files.append(PurePosixPath(path.relative_to(home).as_posix()))
    return sorted(files), skipped


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
