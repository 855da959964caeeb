"""Read JPEG, PNG and DICOM files as 8-bit grayscale, with warnings about the file.

Nothing that identifies a patient is passed on: results, errors, warnings and logs contain no values
of text tags or comments.
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
from cxr.inference.dicom.display import to_colors, to_gray_levels
from cxr.inference.dicom.stream import stored_values
from cxr.inference.dicom.tags import (
    DicomError,
    begins_as_dicom,
    content_warnings,
    layout_of,
    read_tags,
)

SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")  # of JPEG and PNG, as in Pillow

MAX_BYTES = 2 * MAX_PIXELS  # of a file: the largest image that is decoded, at 16 bits

GRAY_MODES = ("1", "L", "LA", "F")  # of Pillow, besides those that begin with I
COLOR_CHECK_SIZE = 256  # pixels, longer side of the copy that is checked for colors
MIN_COLOR = 16  # of 255, between channels; JPEG leaves up to 3 in gray images

LOW_CONTRAST = "uses less than an eighth of the gray range: nearly black, white or flat"

_logging_lock = threading.Lock()  # warning filters and log levels are shared by all threads


@dataclass(frozen=True)
class Radiograph:
    """A decoded radiograph.

    Attributes:
        image: mode L, 0 black to 255 white, with light bones; without metadata; may be smaller than
            the original.
        width: of the original in upright orientation, in pixels.
        height: of the original in upright orientation, in pixels.
        has_color: whether the channels differ visibly.
        notes: warnings about gray values that may not be those of a radiograph, and about tags that
            contradict a frontal chest radiograph (modality, body part, view). They contain no
            values of the file.
    """

    image: Image.Image
    width: int
    height: int
    has_color: bool
    notes: tuple[str, ...] = ()


def read(path: Path, min_side: int = 0) -> Radiograph:
    """Read a JPEG, PNG or DICOM file; the format is detected from its content, not its name.

    JPEG and PNG give the same pixels as in training. DICOM gives the initial display of a viewer:
    the modality LUT or rescaling, then the first VOI LUT or window; MONOCHROME1 is inverted,
    padding is black. A VOI LUT is scaled by the bits that its entries use. Without a window, 8-bit
    data keep their levels, as in a JPEG; deeper data are clipped to the 0.5 % and 99.5 % quantiles
    and scaled to 0 to 255.

    Args:
        path: the file.
        min_side: minimum shorter side of a decoded JPEG in pixels, as in `images.decode`; 0: decode
            it at full size.

    Raises:
        ImageError: as `bytes_of` and `from_bytes`.
    """
    return from_bytes(bytes_of(path), path, min_side)


def bytes_of(path: Path) -> bytes:
    """Bytes of a file.

    Raises:
        ImageError: as `read_file`, or more than `MAX_BYTES`.
    """
    with suppress(OSError, ValueError):  # which `read_file` reports
        if path.stat().st_size > MAX_BYTES:
            raise ImageError(f"{path}: exceeds the limit of {MAX_BYTES} bytes")
    return read_file(path)


def may_be_radiograph(path: Path) -> bool:
    """Whether the first bytes are those of JPEG, PNG or DICOM; True if the file cannot be opened,
    which is reported when it is read.
    """
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            start = file.read(132)
    except OSError:
        return True
    return start.startswith(SIGNATURES) or begins_as_dicom(start)


def from_bytes(content: bytes, path: Path, min_side: int = 0) -> Radiograph:
    """Like `read`, from the bytes of a file.

    Args:
        content: bytes of the file.
        path: name of the file in errors.
        min_side: as in `read`.

    Raises:
        ImageError: the file is empty, in another format, damaged, truncated, or larger than the
            limits, or has no pixels, several frames, or contradictory tags.
    """
    if not content or content.startswith(SIGNATURES):
        return _from_image(content, path, min_side)
    if begins_as_dicom(content):
        return _from_dicom(content, path)
    raise ImageError(f"{path}: cannot identify a JPEG, PNG or DICOM image")


# --- JPEG and PNG --------------------------------------------------------------------------------


def _from_image(content: bytes, path: Path, min_side: int) -> Radiograph:
    image = decode(content, path, min_side)
    with Image.open(io.BytesIO(content), formats=FORMATS) as original:
        has_color = _has_color(image, original)
        size = image.size if image.size in (original.size, original.size[::-1]) else original.size
        if size != image.size and original.getexif().get(ExifTags.Base.Orientation, 1) > 4:
            size = size[::-1]  # scaled by DCT, and stored rotated by 90 degrees
    grey = to_gray(image)
    grey.info.clear()  # comments and EXIF data may name a patient
    return Radiograph(grey, *size, has_color, _range_notes(grey))


def _has_color(image: Image.Image, original: Image.Image) -> bool:
    """Whether the channels differ visibly.

    Args:
        image: decoded image, possibly in gray.
        original: the same image, not yet decoded.
    """
    if original.mode in GRAY_MODES or original.mode.startswith("I"):
        return False
    if image.mode != original.mode:  # was decoded in gray
        image = original
        image.draft("RGB", (COLOR_CHECK_SIZE, COLOR_CHECK_SIZE))
    return _channels_differ(image.convert("RGBA").convert("RGB"))


def _channels_differ(image: Image.Image) -> bool:
    """Whether the channels of an image in mode RGB differ visibly."""
    small = image.copy()
    small.thumbnail((COLOR_CHECK_SIZE, COLOR_CHECK_SIZE))
    return bool(np.ptp(np.asarray(small), axis=-1).max() >= MIN_COLOR)


def _range_notes(gray: Image.Image) -> tuple[str, ...]:
    return (LOW_CONTRAST,) if uses_little_range(gray) else ()


# --- DICOM ---------------------------------------------------------------------------------------


def _from_dicom(content: bytes, path: Path) -> Radiograph:
    try:
        with _pydicom_silenced():
            return _read_dicom(content)
    except DicomError as error:
        problem = str(error)
    except MemoryError:
        raise
    except Exception as error:  # its message may contain values of tags
        problem = f"damaged DICOM file ({type(error).__name__})"
    raise ImageError(f"{path}: {problem}")  # not in a handler: has no error as context


@contextmanager
def _pydicom_silenced() -> Iterator[None]:
    """Suppress warnings and pydicom's log, which contain values of tags; one thread at a time."""
    logger = logging.getLogger("pydicom")
    with _logging_lock, warnings.catch_warnings():
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
        raise DicomError("DICOM file without pixel data: no image, or truncated")
    layout = layout_of(tags)
    stored, bit_notes = stored_values(tags["PixelData"], layout, syntax)
    if layout.is_monochrome:
        pixels, notes = to_gray_levels(stored, tags, layout)
        image, has_color = Image.fromarray(pixels), False
    else:
        pixels, notes = to_colors(stored, tags, layout.bits_stored)
        colors = Image.fromarray(pixels)
        image, has_color = to_gray(colors), _channels_differ(colors)
    notes = content_warnings(tags) + bit_notes + notes + _range_notes(image)
    return Radiograph(image, *image.size, has_color, notes)
