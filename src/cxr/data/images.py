"""Decoding of JPEG and PNG files to 8-bit gray, square arrays."""

import hashlib
import io
import stat
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from cxr.errors import CxrError

FORMATS = ("JPEG", "PNG")
# First bytes of image files. The formats after JPEG and PNG are not supported; their files are
# reported as unreadable rather than ignored.
SIGNATURES = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"),
    *(b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
)
HEAD_BYTES = 132  # that `has_image_signature` needs
MIN_LEVELS = 32  # of 256: an eighth of the range
OUTLIER_FRACTION = 0.005  # of the pixels, at each end of the range
# Transposition by EXIF orientation. Pillow's exif_transpose also rewrites the other EXIF fields and
# fails if one of them is damaged.
TRANSPOSE_BY_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
RESIZE: dict[str, Callable[..., Image.Image]] = {
    "crop": ImageOps.fit,  # the largest center square
    "stretch": Image.Image.resize,  # changes the aspect ratio
    "letterbox": partial(ImageOps.pad, color=0),  # adds black bars
}
# The largest radiographs have about 20 million pixels. Pillow's limit is 179 million.
MAX_PIXELS = 50_000_000


class ImageError(CxrError):
    """A file is not a readable image."""


def read_file(path: Path, sha256: str = "") -> bytes:
    """Read a file and check its hash (hexadecimal digits; empty: not checked).

    Raises:
        ImageError: missing, not a regular file, permission denied, or the hash differs.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would block
            raise ImageError(f"{path}: not a file")
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: {getattr(error, 'strerror', error)}") from error
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        raise ImageError(f"{path}: changed since it was verified; run `dvc repro` again")
    return content


def has_image_signature(head: bytes) -> bool:
    """Whether the first `HEAD_BYTES` bytes are those of an image: JPEG, PNG, or a format that
    `decode` rejects (GIF, TIFF, JPEG 2000, BMP, WebP, DICOM).
    """
    bitmap = head[:2] == b"BM" and head[6:10] == bytes(4)  # many texts begin with these two letters
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return head.startswith(SIGNATURES) or bitmap or webp or head[128:132] == b"DICM"


def decode(content: bytes, path: Path, min_side: int = 0) -> Image.Image:
    """Decode a JPEG or PNG file and apply its EXIF orientation.

    A gray PNG whose sBIT chunk declares fewer bits than the sample depth, and whose values fit into
    these, is scaled to the full range: 12-bit values in 16 bits would be nearly black.

    Args:
        content: bytes of the file.
        path: for errors.
        min_side: minimum length of the shorter side, in pixels. A large JPEG is decoded in gray at
            1/2, 1/4 or 1/8 of its size (DCT scaling), which is about twice as fast. 0: full size.

    Returns:
        Image with the mode of the file, or mode L where a JPEG is scaled.

    Raises:
        ImageError: empty, truncated, not JPEG or PNG, or more than `MAX_PIXELS` pixels.
    """
    if not content:
        raise ImageError(f"{path}: empty file")
    try:
        # Pillow rather than imageio, which has no DCT scaling and no choice of formats, decodes
        # before the size can be checked, and loses the mode of palette images.
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(
                    f"{image.width} x {image.height} pixels exceed the "
                    f"{MAX_PIXELS // 10**6}-megapixel limit (possible decompression bomb)"
                )
            if 0 < min_side <= min(image.size) // 2:
                image.draft("L", (min_side, min_side))
            image.load()
            method = TRANSPOSE_BY_ORIENTATION.get(image.getexif().get(ExifTags.Base.Orientation, 1))
            upright = image.copy() if method is None else image.transpose(method)
            return _scale_by_sbit(upright, content) if image.format == "PNG" else upright
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: cannot identify a JPEG or PNG image") from error
    except MemoryError:
        raise
    except Exception as error:  # damaged files make Pillow raise nearly anything
        raise ImageError(f"{path}: {error or type(error).__name__}") from error


def _scale_by_sbit(image: Image.Image, content: bytes) -> Image.Image:
    depth, bits = _gray_bits(content)
    significant_max, full_max = 2**bits - 1, 2**depth - 1
    values = np.asarray(image)
    if bits >= depth or values.max() > significant_max:
        return image  # all bits are significant, or the writer scaled the values as PNG requires
    full_range = values.astype(np.uint32) * full_max // significant_max
    scaled = Image.fromarray(full_range.astype(values.dtype))
    scaled.info = image.info
    return scaled


def _gray_bits(content: bytes) -> tuple[int, int]:
    """Bit depth of a PNG, and the significant bits by its sBIT chunk; equal where it has none, and
    in color PNGs, which Pillow decodes to 8 bits.
    """
    depth, color_type = content[24:26]
    position = 8
    while depth in (8, 16) and color_type == 0 and position + 9 <= len(content):
        length, name = struct.unpack_from(">I4s", content, position)
        if name == b"sBIT" and length == 1:
            return depth, min(max(content[position + 8], 1), depth)
        if name == b"IDAT":
            break
        position += length + 12
    return depth, depth


def uses_little_range(gray: Image.Image) -> bool:
    """Whether the levels of an image in mode L span less than an eighth of the range, such as
    12-bit values in a 16-bit PNG: almost no contrast. Outliers such as white letters do not count.
    """
    cumulative = np.cumsum(gray.histogram()) / (gray.width * gray.height)
    low, high = np.searchsorted(cumulative, (OUTLIER_FRACTION, 1 - OUTLIER_FRACTION))
    return bool(high - low < MIN_LEVELS)


def to_gray(image: Image.Image) -> Image.Image:
    """Convert to mode L by luminance (ITU-R 601-2); 16-bit images keep their high byte."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if image.mode == "P":
        image = image.convert("RGBA")  # avoids Pillow's warning about transparent palettes
    return image.convert("L")


def to_square(image: Image.Image, size: int, resize: str) -> NDArray[np.uint8]:
    """Resize an image to a square with antialiasing.

    Args:
        image: mode L, any size.
        size: width and height in pixels.
        resize: a key of `RESIZE`.

    Returns:
        uint8 (size, size), 0 black to 255 white.
    """
    return np.asarray(RESIZE[resize](image, (size, size), Image.Resampling.BILINEAR))
