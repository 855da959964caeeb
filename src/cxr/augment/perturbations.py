"""What differs between radiographs of one patient: position, exposure, borders, markers, file.

Every function takes an image uint8 (H, W), 0 black to 255 white, and gives a new one of the same
shape. Nothing here changes what a radiologist would call the image. `stress` uses them at fixed
strengths, `augmentation` at random ones.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_PLAIN, cv2.FONT_HERSHEY_COMPLEX)
SIDE_MARKERS = ("L", "R", "PA", "AP")
CHARACTERS = tuple("ABCDEFGHKLMNPRSTV0123456789.:/-")


def affine(
    image: Image,
    *,
    rotation: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
    zoom: float = 1.0,
    aspect: float = 1.0,
) -> Image:
    """Rotate, shift, zoom and stretch about the centre; what comes in from outside is black.

    Args:
        image: uint8 (H, W).
        rotation: degrees.
        shift: to the right and down, shares of width and height.
        zoom: 2 makes everything twice as large.
        aspect: 2 makes everything twice as wide for its height, its area unchanged.
    """
    size = np.array(image.shape[::-1])
    angle, centre = np.deg2rad(rotation), (size - 1) / 2
    scale = zoom * np.array([aspect**0.5, aspect**-0.5])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.diag(scale)
    offset = centre + np.multiply(shift, size) - matrix @ centre
    return cv2.warpAffine(image, np.column_stack([matrix, offset]), tuple(map(int, size)))


def exposure(
    image: Image, *, gamma: float = 1.0, contrast: float = 1.0, brightness: float = 0.0
) -> Image:
    """Change the grey values: `(x**gamma - 0.5) * contrast + 0.5 + brightness`, x from 0 to 1."""
    grey = (np.linspace(0, 1, 256) ** gamma - 0.5) * contrast + 0.5 + brightness
    return cv2.LUT(image, np.rint(grey.clip(0, 1) * 255).astype(np.uint8))


def equalize(image: Image) -> Image:
    """Give all grey values the same share of the image, as some viewers do."""
    return cv2.equalizeHist(image)


def border(image: Image, widths: tuple[float, float, float, float], grey: int = 0) -> Image:
    """Cover the edges (top, bottom, left, right; shares of height and width) with a grey value."""
    height, width = image.shape
    top, bottom = (round(share * height) for share in widths[:2])
    left, right = (round(share * width) for share in widths[2:])
    framed = np.full_like(image, grey)
    inside = np.s_[top : height - bottom, left : width - right]
    framed[inside] = image[inside]
    return framed


def text_overlay(image: Image, rng: np.random.Generator, count: int) -> Image:
    """Write `count` side markers or lines of small text near the edges, as devices burn them in."""
    written = image.copy()
    for _ in range(count):
        _write_one(written, rng)
    return written


def _write_one(image: Image, rng: np.random.Generator) -> None:
    side, is_marker = min(image.shape), rng.random() < 0.5
    if is_marker:
        text, height = str(rng.choice(SIDE_MARKERS)), side * rng.uniform(0.05, 0.12)
    else:
        text = "".join(rng.choice(CHARACTERS, rng.integers(3, 14)))
        height = side * rng.uniform(0.02, 0.05)
    font, thickness = int(rng.choice(FONTS)), max(1, round(height / 10))
    (width, unscaled_height), _ = cv2.getTextSize(text, font, 1.0, 1)
    scale = height / unscaled_height
    room = np.array(image.shape[::-1]) - [width * scale, height]
    left, top = _near_an_edge(rng) * room
    # Film numbers are light; markers on a light ground may be dark.
    grey = int(rng.integers(150, 256) if rng.random() < 0.85 else rng.integers(0, 40))
    start = (round(left), round(top + height))
    cv2.putText(image, text, start, font, scale, grey, thickness, cv2.LINE_AA)


def _near_an_edge(rng: np.random.Generator) -> NDArray[np.float64]:
    """A point (x, y), 0 to 1, at most 0.15 from one of the four edges."""
    along, away = rng.random(), rng.uniform(0, 0.15)
    if rng.random() < 0.5:
        away = 1 - away
    return np.array([along, away] if rng.random() < 0.5 else [away, along])


def downscale(image: Image, scale: float) -> Image:
    """Lose detail: make the image smaller by `scale` (0 to 1) and large again."""
    height, width = (max(1, round(length * scale)) for length in image.shape)
    reduced = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return cv2.resize(reduced, image.shape[::-1], interpolation=cv2.INTER_LINEAR)


def compress(image: Image, quality: int) -> Image:
    """Store as JPEG of `quality` (1 to 100) and read again."""
    _, content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(content, cv2.IMREAD_GRAYSCALE), np.uint8)


def add_noise(image: Image, rng: np.random.Generator, deviation: float) -> Image:
    """Add Gaussian noise of a standard deviation in grey values."""
    noisy = image + rng.normal(0, deviation, image.shape)
    return np.rint(noisy.clip(0, 255)).astype(np.uint8)


def random_erasing(image: Image, rng: np.random.Generator, largest: float) -> Image:
    """Cover a random rectangle, sides up to `largest` of the image's, with a random grey value
    (random erasing, Zhong 2020).
    """
    height, width = np.ceil(rng.uniform(0, largest, 2) * image.shape).astype(int)
    top = rng.integers(0, image.shape[0] - height + 1)
    left = rng.integers(0, image.shape[1] - width + 1)
    covered = image.copy()
    covered[top : top + height, left : left + width] = rng.integers(0, 256)
    return covered
