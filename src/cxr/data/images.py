"""JPEG or PNG files -> 8-bit grey, square arrays."""

import hashlib
import io
import stat
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from cxr.errors import CxrError

FORMATS = ("JPEG", "PNG")
# First bytes of image files. Those after JPEG and PNG are of formats that are not read: such a file
# is named as unreadable, rather than left out because of its suffix.
SIGNATURES = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"),
    *(b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
)
HEAD_BYTES = 132  # of a file that `begins_as_image` needs
MIN_LEVELS = 32  # of 256: an eighth of the range
OUTLIERS = 0.005  # share of the pixels, at each end of the range
# What turns an image upright, by its EXIF orientation. Pillow's own function also rewrites the
# other EXIF fields, and fails where one of them is damaged.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The largest radiographs have about 20 million. Pillow's own limit is 179 million.
MAX_PIXELS = 50_000_000


class ImageError(CxrError):
    """A file is not a readable image."""


def read_file(path: Path, sha256: str = "") -> bytes:
    """The bytes of a file.

    Args:
        path: the file.
        sha256: that it has to have, in hexadecimal digits; empty: any.

    Raises:
        ImageError: missing, a folder, a pipe or a device, not permitted, or another file.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would keep us waiting for ever
            raise ImageError(f"{path}: not a file")
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: {getattr(error, 'strerror', error)}") from error
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        raise ImageError(f"{path}: changed since it was verified; run `dvc repro` again")
    return content


def begins_as_image(head: bytes) -> bool:
    """Whether a file is an image by its first `HEAD_BYTES` bytes: JPEG, PNG, or a format that
    `decode` refuses by name (GIF, TIFF, JPEG 2000, BMP, WebP, DICOM).
    """
    bitmap = head[:2] == b"BM" and head[6:10] == bytes(4)  # two letters alone begin many texts
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return head.startswith(SIGNATURES) or bitmap or webp or head[128:132] == b"DICM"


def decode(content: bytes, path: Path, enough: int = 0) -> Image.Image:
    """Decode all of a JPEG or PNG file, turned upright as its EXIF data say; mode as in the file.

    A grey PNG whose sBIT chunk names fewer bits than it has, and whose values fit into these, is
    scaled to the full range: 12-bit values in 16 bits would be nearly black.

    Args:
        content: of the file.
        path: names the file in errors.
        enough: pixels that suffice for the shorter side. A large JPEG is then decoded in grey and
            at a half, a quarter or an eighth of its size, from a part of its coefficients (DCT
            scaling), which is about twice as fast. 0: at full size.

    Raises:
        ImageError: empty, truncated, not JPEG or PNG, or of a size that suggests an attack.
    """
    if not content:
        raise ImageError(f"{path}: empty file")
    try:
        # Pillow itself, where other modules read and write whole images through imageio: that has
        # no DCT scaling and no choice of formats, decodes before the size is known, and loses the
        # mode of images with a palette.
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(
                    f"{image.width} x {image.height} pixels exceed the "
                    f"{MAX_PIXELS // 10**6}-megapixel limit (possible decompression bomb)"
                )
            if 0 < enough <= min(image.size) // 2:
                image.draft("L", (enough, enough))
            image.load()
            turn = UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
            upright = image.copy() if turn is None else image.transpose(turn)
            return _scaled_by_sbit(upright, content) if image.format == "PNG" else upright
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: cannot identify a JPEG or PNG image") from error
    except MemoryError:
        raise
    except Exception as error:  # damaged files make Pillow raise nearly anything
        raise ImageError(f"{path}: {error or type(error).__name__}") from error


def _scaled_by_sbit(image: Image.Image, content: bytes) -> Image.Image:
    depth, bits = _grey_bits(content)
    most = 2**bits - 1
    values = np.asarray(image)
    if not bits < depth or values.max() > most:
        return image  # uses all its bits, or was scaled when it was written, as PNG wants it
    full = 2**depth - 1
    scaled = Image.fromarray((values.astype(np.uint32) * full // most).astype(values.dtype))
    scaled.info = image.info
    return scaled


def _grey_bits(content: bytes) -> tuple[int, int]:
    """Bits of each value of a grey PNG, and how many of them its sBIT chunk calls significant; both
    are equal where it has none, and in PNGs with channels, which Pillow decodes to 8 bits.
    """
    depth, colour_type = content[24:26]
    position = 8
    while depth in (8, 16) and colour_type == 0 and position + 9 <= len(content):
        length, name = struct.unpack_from(">I4s", content, position)
        if name == b"sBIT" and length == 1:
            return depth, min(max(content[position + 8], 1), depth)
        if name == b"IDAT":
            break
        position += length + 12
    return depth, depth


def uses_little_range(grey: Image.Image) -> bool:
    """Whether the values of an image (mode L, from `to_gray`) span less than an eighth of the range
    from black to white, as those of 12 bits in a 16-bit PNG do: networks see next to nothing.
    Outliers do not count, as a letter that was drawn in white.
    """
    below = np.cumsum(grey.histogram()) / (grey.width * grey.height)
    low, high = np.searchsorted(below, (OUTLIERS, 1 - OUTLIERS))
    return bool(high - low < MIN_LEVELS)


def to_gray(image: Image.Image) -> Image.Image:
    """To 8-bit grey by luminance (ITU-R 601-2); 16-bit images keep their high byte."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if image.mode == "P":
        image = image.convert("RGBA")  # knows of transparent colours, which Pillow would warn of
    return image.convert("L")


def to_square(image: Image.Image, size: int, resize: str) -> NDArray[np.uint8]:
    """Bring an image to `size` x `size` pixels with antialiasing.

    Args:
        image: mode L, any size.
        size: side in pixels.
        resize: `crop` takes the largest centred square, `stretch` changes the aspect ratio,
            `letterbox` keeps everything and adds black bars.

    Returns:
        uint8 (size, size), 0 black to 255 white.
    """
    filter_ = Image.Resampling.BILINEAR  # Pillow widens it when it makes an image smaller
    match resize:
        case "crop":
            square = ImageOps.fit(image, (size, size), filter_)
        case "stretch":
            square = image.resize((size, size), filter_)
        case "letterbox":
            square = ImageOps.pad(image, (size, size), filter_, color=0)
        case _:
            raise ValueError(f"resize {resize!r} is not crop, squash or pad")
    return np.asarray(square)
