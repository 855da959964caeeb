"""JPEG or PNG files -> 8-bit grey, square arrays."""

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


class ImageError(CxrError):
    """A file is not a readable image."""


def open_image(path: Path, enough: int = 0) -> Image.Image:
    """Decode a whole JPEG or PNG file, turned upright as its EXIF data say; mode as in the file.

    Args:
        path: the file.
        enough: pixels that suffice for the shorter side. A large JPEG is then decoded in grey and
            at a half, a quarter or an eighth of its size, from a part of its coefficients (DCT
            scaling), which is about twice as fast. 0: at full size.

    Raises:
        ImageError: empty, truncated, not JPEG or PNG, or of a size that suggests an attack.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if 0 < enough <= min(image.size) // 2:
                image.draft("L", (enough, enough))
            image.load()
            turn = UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
            return image.copy() if turn is None else image.transpose(turn)
    except (
        OSError,
        SyntaxError,
        ValueError,
        UnidentifiedImageError,
        Image.DecompressionBombError,
    ) as error:
        reason = "empty file" if _is_empty(path) else str(error).replace(str(path), "file")
        raise ImageError(f"{path}: {reason}") from error


def _is_empty(path: Path) -> bool:
    return path.is_file() and path.stat().st_size == 0


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
