"""JPEG or PNG files -> 8-bit grey, square arrays."""

import hashlib
import io
import stat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from cxr.errors import CxrError

FORMATS = ("JPEG", "PNG")
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
MOST_PIXELS = 50_000_000


class ImageError(CxrError):
    """A file is not a readable image."""


def open_image(path: Path, enough: int = 0) -> Image.Image:
    """Read and `decode` a file.

    Raises:
        ImageError: it cannot be read, or is not an image as `decode` wants it.
    """
    return decode(read_file(path), path, enough)


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


def decode(content: bytes, path: Path, enough: int = 0) -> Image.Image:
    """Decode all of a JPEG or PNG file, turned upright as its EXIF data say; mode as in the file.

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
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels suggest a bomb")
            if 0 < enough <= min(image.size) // 2:
                image.draft("L", (enough, enough))
            image.load()
            turn = UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
            return image.copy() if turn is None else image.transpose(turn)
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: cannot identify a JPEG or PNG image") from error
    except MemoryError:
        raise
    except Exception as error:  # damaged files make Pillow raise nearly anything
        raise ImageError(f"{path}: {error or type(error).__name__}") from error


def to_grey(image: Image.Image) -> Image.Image:
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
        resize: `crop` takes the largest centred square, `squash` changes the aspect ratio,
            `pad` keeps everything and adds black bars.

    Returns:
        uint8 (size, size), 0 black to 255 white.
    """
    filter_ = Image.Resampling.BILINEAR  # Pillow widens it when it makes an image smaller
    match resize:
        case "crop":
            square = ImageOps.fit(image, (size, size), filter_)
        case "squash":
            square = image.resize((size, size), filter_)
        case "pad":
            square = ImageOps.pad(image, (size, size), filter_, color=0)
        case _:
            raise ValueError(f"resize {resize!r} is not crop, squash or pad")
    return np.asarray(square)
