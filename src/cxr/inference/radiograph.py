"""A file of any kind (JPEG, PNG, DICOM) -> an 8-bit grey image, and warnings about the file.

Nothing that identifies a patient is passed on: neither results nor errors, warnings or logs hold
values of text tags or comments.
"""

import io
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from cxr.data.images import (
    FORMATS,
    MAX_PIXELS,
    ImageError,
    decode,
    read_file,
    to_gray,
    uses_little_range,
)
from cxr.inference.dicom.display import colors_of, grey_of
from cxr.inference.dicom.stream import stored_values
from cxr.inference.dicom.tags import (
    DicomError,
    begins_as_dicom,
    content_warnings,
    layout_of,
    read_tags,
)

SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")  # by which Pillow identifies JPEG and PNG

MOST_BYTES = 2 * MAX_PIXELS  # of a file: the largest image that is decoded, at 16 bits

GREY_MODES = ("1", "L", "LA", "F")  # of Pillow, and all that begin with I
COLOR_SIDE = 256  # pixels, longer side, of the copy in which colors are looked for
LEAST_COLOR = 16  # of 255, between channels; JPEG leaves up to 3 in grey images

LITTLE_RANGE = "uses less than an eighth of the grey range: nearly black, white or flat"

_silent = threading.Lock()  # warning filters and log levels are shared by all threads


@dataclass(frozen=True)
class Radiograph:
    """What was read from a file.

    Attributes:
        image: mode L, 0 black to 255 white, bones are light; without metadata. It may be smaller
            than the original.
        width: of the original in upright orientation, in pixels.
        height: of the original in upright orientation, in pixels.
        coloured: the channels differ visibly.
        notes: warnings: why the grey values may not be those of a radiograph, and tags that
            contradict a frontal chest radiograph (modality, body part, view). They hold no values
            of the file.
    """

    image: Image.Image
    width: int
    height: int
    coloured: bool
    notes: tuple[str, ...] = ()


def read(path: Path, enough: int = 0) -> Radiograph:
    """Read a JPEG, PNG or DICOM file; its content decides which, not its name.

    JPEG and PNG give the same pixels as in training. DICOM gives what a viewer shows first: the
    modality LUT or rescaling, then the first VOI LUT or window; MONOCHROME1 is inverted, padding is
    black. A VOI LUT is scaled by the bits that its entries use. Without a window, 8-bit data keep
    their levels, as in a JPEG; of deeper data the range that holds all but 0.5 % of the pixels at
    each end becomes 0 to 255.

    Args:
        path: the file.
        enough: pixels that suffice for the shorter side of a JPEG, as in `images.decode`; 0: decode
            it at full size.

    Raises:
        ImageError: as `bytes_of` and `from_bytes`.
    """
    return from_bytes(bytes_of(path), path, enough)


def bytes_of(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        ImageError: as `read_file`, or more than `MOST_BYTES`.
    """
    with suppress(OSError, ValueError):  # which `read_file` reports
        if path.stat().st_size > MOST_BYTES:
            raise ImageError(f"{path}: more than {MOST_BYTES} bytes")
    return read_file(path)


def may_be_radiograph(path: Path) -> bool:
    """Whether a file begins as JPEG, PNG or DICOM, or cannot be opened, which reading reports."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            start = file.read(132)
    except OSError:
        return True
    return start.startswith(SIGNATURES) or begins_as_dicom(start)


def from_bytes(content: bytes, path: Path, enough: int = 0) -> Radiograph:
    """As `read`, from the bytes of a file.

    Args:
        content: of the file.
        path: names the file in errors.
        enough: as for `read`.

    Raises:
        ImageError: empty, of another kind, damaged, cut off, without pixels, of more than one
            frame, of contradictory tags, or larger than the limits.
    """
    if not content or content.startswith(SIGNATURES):
        return _from_picture(content, path, enough)
    if begins_as_dicom(content):
        return _from_dicom(content, path)
    raise ImageError(f"{path}: cannot identify a JPEG, PNG or DICOM image")


# --- JPEG and PNG --------------------------------------------------------------------------------


def _from_picture(content: bytes, path: Path, enough: int) -> Radiograph:
    image = decode(content, path, enough)
    with Image.open(io.BytesIO(content), formats=FORMATS) as original:
        coloured = _has_colors(image, original)
        size = image.size if image.size in (original.size, original.size[::-1]) else original.size
        if size != image.size and original.getexif().get(ExifTags.Base.Orientation, 1) > 4:
            size = size[::-1]  # scaled by DCT, and stored rotated by 90 degrees
    grey = to_gray(image)
    grey.info.clear()  # comments and EXIF data may name a patient
    return Radiograph(grey, *size, coloured, _range_notes(grey))


def _has_colors(image: Image.Image, original: Image.Image) -> bool:
    """Whether channels differ visibly.

    Args:
        image: decoded, perhaps in grey only.
        original: the same, not yet decoded.
    """
    if original.mode in GREY_MODES or original.mode.startswith("I"):
        return False
    if image.mode != original.mode:  # was decoded in grey
        image = original
        image.draft("RGB", (COLOR_SIDE, COLOR_SIDE))
    return _channels_differ(image.convert("RGBA").convert("RGB"))


def _channels_differ(image: Image.Image) -> bool:
    """Of an image in mode RGB."""
    small = image.copy()
    small.thumbnail((COLOR_SIDE, COLOR_SIDE))
    return bool(np.ptp(np.asarray(small), axis=-1).max() >= LEAST_COLOR)


def _range_notes(grey: Image.Image) -> tuple[str, ...]:
    return (LITTLE_RANGE,) if uses_little_range(grey) else ()


# --- DICOM ---------------------------------------------------------------------------------------


def _from_dicom(content: bytes, path: Path) -> Radiograph:
    try:
        with _pydicom_silenced():
            return _read_dicom(content)
    except DicomError as error:
        problem = str(error)
    except MemoryError:
        raise
    except Exception as error:  # its message may hold values of tags
        problem = f"damaged DICOM file ({type(error).__name__})"
    raise ImageError(f"{path}: {problem}")  # out here: without those errors as its context


@contextmanager
def _pydicom_silenced() -> Iterator[None]:
    """Suppress warnings and pydicom's log, which hold values of tags; one thread at a time."""
    logger = logging.getLogger("pydicom")
    with _silent, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        level = logger.level
        logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            logger.setLevel(level)


def _read_dicom(content: bytes) -> Radiograph:
    tags, syntax = read_tags(content)
    if "PixelData" not in tags:
        raise DicomError("DICOM file without pixel data: no image, or cut off before them")
    layout = layout_of(tags)
    stored, bit_notes = stored_values(tags["PixelData"], layout, syntax)
    if layout.is_monochrome:
        pixels, notes = grey_of(stored, tags, layout)
        image, coloured = Image.fromarray(pixels), False
    else:
        pixels, notes = colors_of(stored, tags, layout.bits_stored)
        colors = Image.fromarray(pixels)
        image, coloured = to_gray(colors), _channels_differ(colors)
    notes = content_warnings(tags) + bit_notes + notes + _range_notes(image)
    return Radiograph(image, *image.size, coloured, notes)
