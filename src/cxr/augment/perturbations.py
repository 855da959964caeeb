"""Label-preserving perturbations: geometry, exposure, borders, markers, compression, noise.

Every function takes an image uint8 (H, W), 0 black to 255 white, and returns a new one of the same
shape. `stress_test` uses fixed strengths, `augmentation` random ones.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_PLAIN, cv2.FONT_HERSHEY_COMPLEX)
LATERALITY_MARKERS = ("L", "R", "PA", "AP")
CHARACTERS = tuple("ABCDEFGHKLMNPRSTV0123456789.:/-")


def affine(
    image: Image,
    *,
    rotation: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
    zoom: float = 1.0,
    aspect: float = 1.0,
) -> Image:
    """Rotate, shift, zoom and stretch about the center, with black padding.

    Args:
        image: uint8 (H, W).
        rotation: degrees.
        shift: to the right and down, as fractions of width and height.
        zoom: scale factor; 2 doubles the size of the content.
        aspect: factor of the aspect ratio (width / height) at constant area.
    """
    size = np.array(image.shape[::-1])
    angle, center = np.deg2rad(rotation), (size - 1) / 2
    scale = zoom * np.array([aspect**0.5, aspect**-0.5])
    rotate = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = rotate @ np.diag(scale)
    offset = center + np.multiply(shift, size) - matrix @ center
    return cv2.warpAffine(image, np.column_stack([matrix, offset]), tuple(map(int, size)))


def exposure(
    image: Image, *, gamma: float = 1.0, contrast: float = 1.0, brightness: float = 0.0
) -> Image:
    """Apply `(x**gamma - 0.5) * contrast + 0.5 + brightness` to gray values x from 0 to 1."""
    gray = (np.linspace(0, 1, 256) ** gamma - 0.5) * contrast + 0.5 + brightness
    return cv2.LUT(image, np.rint(gray.clip(0, 1) * 255).astype(np.uint8))


def equalize(image: Image) -> Image:
    """Equalize the histogram, as some viewers do."""
    return cv2.equalizeHist(image)


def border(image: Image, widths: tuple[float, float, float, float], gray: int = 0) -> Image:
    """Cover the edges with a gray value; `widths` of top, bottom, left and right are fractions of
    height and width.
    """
    height, width = image.shape
    top, bottom = (round(fraction * height) for fraction in widths[:2])
    left, right = (round(fraction * width) for fraction in widths[2:])
    bordered = np.full_like(image, gray)
    inside = np.s_[top : height - bottom, left : width - right]
    bordered[inside] = image[inside]
    return bordered


def text_overlay(image: Image, rng: np.random.Generator, count: int) -> Image:
    """Burn `count` laterality markers or lines of small text in near the edges."""
    annotated = image.copy()
    for _ in range(count):
        _draw_text(annotated, rng)
    return annotated


def _draw_text(image: Image, rng: np.random.Generator) -> None:
    min_side, is_marker = min(image.shape), rng.random() < 0.5
    if is_marker:
        text, height = str(rng.choice(LATERALITY_MARKERS)), min_side * rng.uniform(0.05, 0.12)
    else:
        text = "".join(rng.choice(CHARACTERS, rng.integers(3, 14)))
        height = min_side * rng.uniform(0.02, 0.05)
    font, thickness = int(rng.choice(FONTS)), max(1, round(height / 10))
    (width, unscaled_height), _ = cv2.getTextSize(text, font, 1.0, 1)
    scale = height / unscaled_height
    free = np.array(image.shape[::-1]) - [width * scale, height]
    left, top = _point_near_edge(rng) * free
    # Most annotations are light; markers on a light background may be dark.
    gray = int(rng.integers(150, 256) if rng.random() < 0.85 else rng.integers(0, 40))
    start = (round(left), round(top + height))
    cv2.putText(image, text, start, font, scale, gray, thickness, cv2.LINE_AA)


def _point_near_edge(rng: np.random.Generator) -> NDArray[np.float64]:
    """Sample a point (x, y), each 0 to 1, at most 0.15 from one of the four edges."""
    along, across = rng.random(), rng.uniform(0, 0.15)
    if rng.random() < 0.5:
        across = 1 - across
    return np.array([along, across] if rng.random() < 0.5 else [across, along])


def downscale(image: Image, scale: float) -> Image:
    """Reduce the resolution: downscale by `scale` (0 to 1) and upscale again."""
    height, width = (max(1, round(length * scale)) for length in image.shape)
    reduced = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return cv2.resize(reduced, image.shape[::-1], interpolation=cv2.INTER_LINEAR)


def compress(image: Image, quality: int) -> Image:
    """Add JPEG artifacts of `quality` (1 to 100)."""
    _, content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(content, cv2.IMREAD_GRAYSCALE), np.uint8)


def add_noise(image: Image, rng: np.random.Generator, deviation: float) -> Image:
    """Add Gaussian noise; the standard deviation is in gray levels."""
    noisy = image + rng.normal(0, deviation, image.shape)
    return np.rint(noisy.clip(0, 255)).astype(np.uint8)


def random_erasing(image: Image, rng: np.random.Generator, limit: float) -> Image:
    """Fill a random rectangle with a random gray value (Zhong 2020); `limit` is the maximum height
    and width, as fractions of those of the image.
    """
    height, width = np.ceil(rng.uniform(0, limit, 2) * image.shape).astype(int)
    top = rng.integers(0, image.shape[0] - height + 1)
    left = rng.integers(0, image.shape[1] - width + 1)
    erased = image.copy()
    erased[top : top + height, left : left + width] = rng.integers(0, 256)
    return erased
