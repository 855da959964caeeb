"""Take out of a radiograph what is no anatomy: borders, the room around the lungs, exposure.

Classical image processing on 8-bit grey arrays; nothing here is learned from labels.
"""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from cxr.images import decode, read_file, to_grey, to_square
from cxr.params import ImageParams

Grey = NDArray[np.uint8]

DARK = 0.08  # of the range from the darkest to the lightest: a border is darker than this
MOST_CUT = 0.2  # share of a side that trimming may take off each edge
MOST_SIDE = 512  # pixels, shorter side, of the copy in which lungs are looked for
OPENINGS = (0.0, 0.03, 0.06, 0.1)  # widths in shares of the side, tried one after the other
LUNG_MARGIN = 0.06  # share of the lungs' box that is left around it, each side
SMALLEST_IMAGE = 32  # pixels, shorter side
SMALLEST_LUNGS = 0.4  # share of the image's height, and of its shorter side in width
SMALLEST_SIDE = 0.25  # share of the box that lies on the smaller side of the image's middle
LUNG_SHAPES = (0.8, 1.8)  # width / height of a box around lungs


def trim_borders(grey: Grey) -> Grey:
    """Cut dark bars off the four edges, at most a fifth of a side each.

    Args:
        grey: uint8 (H, W).
    """
    low, high = np.percentile(grey, (1, 99))
    limit = low + DARK * (high - low)
    rows, columns = (np.median(grey, axis=axis) > limit for axis in (1, 0))
    (top, bottom), (left, right) = _inside(rows), _inside(columns)
    return grey[top:bottom, left:right]


def _inside(light: NDArray[np.bool_]) -> tuple[int, int]:
    """Where the first light row begins and the last one ends, within what may be cut."""
    most = int(len(light) * MOST_CUT)
    places = np.flatnonzero(light)
    first, last = (places[0], places[-1] + 1) if len(places) else (0, len(light))
    return min(int(first), most), max(int(last), len(light) - most)


def crop_to_lungs(grey: Grey) -> Grey:
    """The square with a margin around both lungs, as far as the image reaches: so lungs have one
    size, whatever else is in the image. The whole image where no pair of lungs is found.

    Args:
        grey: uint8 (H, W).
    """
    box = lung_box(grey)
    if box is None:
        return grey
    top, bottom, left, right = box
    side = min(*grey.shape, round((1 + 2 * LUNG_MARGIN) * max(bottom - top, right - left)))
    top, left = (
        min(max(0, (start + end - side) // 2), length - side)
        for start, end, length in ((top, bottom, grey.shape[0]), (left, right, grey.shape[1]))
    )
    return grey[top : top + side, left : left + side]


def lung_box(grey: Grey) -> tuple[int, int, int, int] | None:
    """Top, bottom, left, right (pixels, ends exclusive) of the box around the lungs, or None.

    A lung is the largest region in its half of the image that is darker than its surroundings and
    does not reach the upper or lateral edges, as the air around a patient does. Lungs that touch
    that air are cut from it by stronger opening.
    """
    if min(grey.shape) < SMALLEST_IMAGE:
        return None
    scale = min(1.0, MOST_SIDE / min(grey.shape))  # wide blurs of large images take minutes
    small = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    box = _box_within(small)
    if box is None:
        return None
    top, bottom, left, right = (round(end / scale) for end in box)
    return top, min(bottom, grey.shape[0]), left, min(right, grey.shape[1])


def _box_within(grey: Grey) -> tuple[int, int, int, int] | None:
    dark = _darker_than_around(grey)
    for opening in OPENINGS:
        halves = np.array_split(_opened(dark, opening), 2, axis=1)
        lungs = [_largest(half) for half in halves]
        both = np.hstack(lungs)
        rows, columns = (np.flatnonzero(both.any(axis=axis)) for axis in (1, 0))
        if all(lung.any() for lung in lungs) and _is_plausible(rows, columns, grey.shape):
            return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    return None


def _darker_than_around(grey: Grey) -> Grey:
    """1 where an image, smoothed, is darker than its surroundings, else 0; uint8 (H, W)."""
    side = min(grey.shape)
    smooth = cv2.GaussianBlur(grey, (0, 0), side / 60).astype(np.float32)
    around = cv2.GaussianBlur(smooth, (0, 0), side / 5)
    return (smooth < around).astype(np.uint8)


def _opened(dark: Grey, opening: float) -> NDArray[np.bool_]:
    """Dark regions without the narrow ones, and without the air around the patient."""
    width = max(1, round(opening * min(dark.shape)))
    dark = cv2.morphologyEx(dark, cv2.MORPH_OPEN, np.ones((width, width), np.uint8))
    _, parts = cv2.connectedComponents(dark)
    air = np.unique(np.concatenate([parts[0], parts[:, 0], parts[:, -1]]))
    return dark.astype(bool) & ~np.isin(parts, air)


def _largest(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected part of a region."""
    count, parts, found, _ = cv2.connectedComponentsWithStats(region.astype(np.uint8))
    largest = 1 + int(found[1:, cv2.CC_STAT_AREA].argmax()) if count > 1 else count
    return np.asarray(parts == largest)


def _is_plausible(
    rows: NDArray[np.int64], columns: NDArray[np.int64], shape: tuple[int, ...]
) -> bool:
    """Whether lungs can have a box of these rows and columns: neither a part of one nor all, and
    on both sides of the middle.
    """
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    is_large = height >= SMALLEST_LUNGS * shape[0] and width >= SMALLEST_LUNGS * min(shape)
    sides = (shape[1] / 2 - columns[0], columns[-1] + 1 - shape[1] / 2)
    is_central = min(sides) >= SMALLEST_SIDE * width
    return bool(is_large and is_central and LUNG_SHAPES[0] <= width / height <= LUNG_SHAPES[1])


def standardise(grey: Grey, intensity: str) -> Grey:
    """Bring grey values to a common scale.

    Args:
        grey: uint8 (H, W).
        intensity: `as_is`; `equalise`, all grey values equally often; `clahe`, the same within
            tiles and with bounded contrast (Zuiderveld 1994).
    """
    match intensity:
        case "as_is":
            return grey
        case "equalise":
            return cv2.equalizeHist(grey)
        case "clahe":
            return cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(grey)
        case _:
            raise ValueError(f"intensity {intensity!r} is not as_is, equalise or clahe")


def prepare(image: Pillow.Image, params: ImageParams) -> Grey:
    """From an image of any size to what the networks see: uint8 (S, S), as `params` say.

    Args:
        image: mode L.
        params: section `image` of params.yaml.
    """
    grey = np.asarray(image)
    if params.trim:
        grey = trim_borders(grey)
    if params.region == "lungs":
        grey = crop_to_lungs(grey)
    square = to_square(Pillow.fromarray(grey), params.size, params.resize)
    return standardise(square, params.intensity)


def read_prepared(path: Path, params: ImageParams, sha256: str = "") -> Grey:
    """Decode a file and `prepare` it: uint8 (S, S).

    Where all of an image is used, no more of it is decoded than resizing needs: grey values differ
    from those by full decoding by 0.6 on average.

    Args:
        path: the file.
        params: section `image` of params.yaml.
        sha256: that the file has to have, in hexadecimal digits; empty: any.

    Raises:
        ImageError: the file is not a readable image, or another one.
    """
    content = read_file(path, sha256)
    uses_all = params.region == "whole" and not params.trim
    enough = params.size if uses_all else 0
    return prepare(to_grey(decode(content, path, enough)), params)
