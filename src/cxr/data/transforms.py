"""Image files -> the grey squares that the networks see."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from cxr.data.images import decode, read_file, to_gray, to_square
from cxr.params import ImageParams


def prepare(image: Pillow.Image, params: ImageParams) -> NDArray[np.uint8]:
    """From an image of any size to what the networks see: uint8 (S, S), as `params` say.

    Args:
        image: mode L.
        params: section `image` of params.yaml.
    """
    return to_square(image, params.input_size, params.resize)


def read_prepared(path: Path, params: ImageParams, sha256: str = "") -> NDArray[np.uint8]:
    """Decode a file and `prepare` it: uint8 (S, S).

    No more of a JPEG is decoded than resizing needs: grey values differ from those by full decoding
    by 0.6 on average.

    Args:
        path: the file.
        params: section `image` of params.yaml.
        sha256: that the file has to have, in hexadecimal digits; empty: any.

    Raises:
        ImageError: the file is not a readable image, or another one.
    """
    content = read_file(path, sha256)
    return prepare(to_gray(decode(content, path, params.decode_size)), params)
