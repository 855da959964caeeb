"""Synthetic chest radiographs for the tests and the demo.

The images are generated from ellipses, bands and random waves. They are NOT medical data, and
scores on them mean nothing. They share the properties of the real data set that the code depends
on: folders, file names, several images per patient, and varying size, aspect ratio and exposure.

Every structure adds tissue, the lungs subtract some, and the film is bright where tissue absorbs
the rays. Coordinates are those of the patient: y runs from about -1 (top) to 1 (bottom), x is 0 on
the spine, and u = |x|.
"""

from pathlib import Path
from typing import Any, NamedTuple

import imagehash
import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxr.data.manifest import HASH_SIZE
from cxr.errors import CxrError
from cxr.progress import track

PATHOGENS = ("none", "bacteria", "virus")
# Minimum distance between the perceptual hashes of two patients, in bits of 256; at 25 or less, the
# leakage check reports duplicates (leakage.MAX_HASH_DISTANCE).
MIN_DISTANCE = 40
_ATTEMPTS = 100
_DETAIL = 0.6  # scale of the rendered image before upsampling: a third of the computation

Plane = NDArray[np.floating[Any]]


class _NameSeries(NamedTuple):
    pathogen: str
    file_name: str
    val: int  # number of the patient in val; 0 for nobody
    test: int  # number of the first patient in test


# The series differ in their test patients: person2_bacteria is in test, person2_virus in train.
# This exposes code that takes the number alone for the patient.
_SERIES = (
    _NameSeries("bacteria", "person{n}_bacteria_{run}.jpeg", val=1, test=2),
    _NameSeries("virus", "person{n}_virus_{run}.jpeg", val=0, test=3),
    _NameSeries("none", "IM-{n:04d}-{own:04d}.jpeg", val=1, test=2),
    _NameSeries("none", "NORMAL2-IM-{n:04d}-{own:04d}.jpeg", val=0, test=3),
)
_SERIES_OF_TEN = (2, 0, 1, 3, 2, 0, 1, 2, 0, 1)  # of consecutive patients: 6 of 10 are positive
_TEST_EVERY = 7  # one patient in seven, 14 %, is in test


def generate_image(
    rng: np.random.Generator, pathogen: str, *, short_side: int = 256
) -> NDArray[np.uint8]:
    """Generate one synthetic frontal chest radiograph; NOT medical data.

    Equal generator states give equal anatomy, position and exposure for every pathogen.

    Args:
        rng: Random generator.
        pathogen: "none" (negative), "bacteria" (one or two consolidations) or "virus" (haze and
            streaks in both lungs).
        short_side: Typical height in pixels, at least 32; the actual height is 0.8 to 1.25 times
            it.

    Returns:
        uint8 (H, W), 0 (black) to 255 (white), with W from 1.0 to 1.5 times H.
    """
    body, lesion, view = _seeds(rng, 3)
    return _render(body, lesion, view, pathogen, short_side)


def generate(
    root: Path, *, patients: int, seed: int, short_side: int = 256, shortcut: str = "none"
) -> int:
    """Write a synthetic data set with the layout and file names of the real one; NOT medical data.

    Gray JPEG files go to root/{train,test,val}/{NORMAL,PNEUMONIA}/. A patient has one to four
    images, all in one split. The name series (bacteria, virus, IM, NORMAL2-IM) are numbered
    independently: equal numbers in two series are two patients. Equal arguments give equal bytes,
    and adding patients leaves the files of the others unchanged.

    Images of different patients differ in at least `MIN_DISTANCE` bits of their perceptual hash. A
    patient who is closer to an earlier one, about one in a thousand, is generated again from the
    next random state.

    Args:
        root: Output folder, created if missing; existing files of the same name are replaced.
        patients: Number of patients in all splits, at least 8.
        seed: Non-negative seed.
        short_side: Typical height of the images in pixels, at least 32.
        shortcut: "none", or "device": a scanner with its own marker, tone and borders imaged all
            positive patients in train and val, and every second patient of both classes in test.
            The anatomy does not depend on it.

    Returns:
        Number of images written.

    Raises:
        CxrError: There are too many patients for all of them to differ.
    """
    numbers, image_counts = [0] * len(_SERIES), [0] * len(_SERIES)
    hashes = np.empty((0, HASH_SIZE**2 // 8), np.uint8)  # of all earlier images, 8 bits per byte
    for position in track(range(patients), "phantoms", unit="patients"):
        index = _SERIES_OF_TEN[position % len(_SERIES_OF_TEN)]
        series = _SERIES[index]
        numbers[index] += 1
        n = numbers[index]
        split = _split(series, n)
        on_device = shortcut == "device" and _is_on_device(series, n, split)
        folder = root / split / ("NORMAL" if series.pathogen == "none" else "PNEUMONIA")
        folder.mkdir(parents=True, exist_ok=True)
        state = [seed, index, n]
        files, new_hashes = _distinct_patient(hashes, state, series.pathogen, short_side, on_device)
        hashes = np.concatenate([hashes, new_hashes])
        for own, content in enumerate(files, start=1):
            image_counts[index] += 1
            name = series.file_name.format(n=n, own=own, run=image_counts[index])
            (folder / name).write_bytes(content)
    return sum(image_counts)


def _split(series: _NameSeries, n: int) -> str:
    """Depends on the number only, so that adding patients does not move others."""
    if n == series.val:
        return "val"
    return "test" if n % _TEST_EVERY == series.test else "train"


def _is_on_device(series: _NameSeries, n: int, split: str) -> bool:
    """Whether the shortcut scanner imaged a patient."""
    if split == "test":
        return n // _TEST_EVERY % 2 == 0  # every second one: n increases by seven
    return series.pathogen != "none"


def _distinct_patient(
    hashes: NDArray[np.uint8], state: list[int], pathogen: str, short_side: int, on_device: bool
) -> tuple[list[bytes], NDArray[np.uint8]]:
    """Generate a patient who differs from the earlier ones: JPEG files, and their hashes."""
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng([*state, attempt])
        images = _patient(rng, pathogen, short_side)
        files = [_jpeg(_scan_with_device(image) if on_device else image) for image in images]
        new_hashes = np.array([_hash(content) for content in files])
        distances = np.bitwise_count(hashes[:, np.newaxis] ^ new_hashes).sum(axis=2)
        if distances.size == 0 or distances.min() >= MIN_DISTANCE:
            return files, new_hashes
    raise CxrError(
        f"no patient found that differs from {len(hashes)} earlier images in {MIN_DISTANCE} bits "
        "of the perceptual hash; reduce data.phantom.patients or increase data.phantom.short_side"
    )


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    return iio.imwrite("<bytes>", image, extension=".jpeg", plugin="pillow", quality=90)


def _hash(content: bytes) -> NDArray[np.uint8]:
    """Perceptual hash of a file, as in the manifest: uint8 (HASH_SIZE**2 / 8,)."""
    image = Image.fromarray(iio.imread(content, plugin="pillow"))
    return np.packbits(imagehash.phash(image, HASH_SIZE).hash)


def _scan_with_device(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Simulate the shortcut scanner: brighter, with black borders, and an L in the upper right of
    the center square.
    """
    height, width = image.shape
    border, stroke = max(1, round(0.04 * height)), max(1, round(0.02 * height))
    left = (width + height) // 2 - 3 * border
    marked = (255 * (image / 255) ** 0.6).round().astype(np.uint8)
    marked[:border] = marked[-border:] = marked[:, :border] = marked[:, -border:] = 0
    marked[border : 3 * border, left : left + stroke] = 255
    marked[3 * border - stroke : 3 * border, left : left + 2 * border] = 255
    return marked


def _seeds(rng: np.random.Generator, count: int) -> list[int]:
    return [int(seed) for seed in rng.integers(2**63, size=count)]


def _patient(rng: np.random.Generator, pathogen: str, short_side: int) -> list[NDArray[np.uint8]]:
    """One to four images of the same body and disease in varying position and exposure."""
    count = int(rng.choice([1, 2, 3, 4], p=[0.4, 0.3, 0.2, 0.1]))
    body, lesion, *views = _seeds(rng, 2 + count)
    return [_render(body, lesion, view, pathogen, short_side) for view in views]


def _render(body: int, lesion: int, view: int, pathogen: str, short_side: int) -> NDArray[np.uint8]:
    """Render one image; body, lesion and view have separate seeds and vary independently."""
    rng, view_rng = np.random.default_rng(body), np.random.default_rng(view)
    height = round(short_side * view_rng.uniform(0.8, 1.25))
    width = round(height * view_rng.uniform(1.0, 1.5))
    x, y = _posture(rng, *_grid(view_rng, rng.uniform(0.95, 1.2), width, height))
    apex, base = rng.uniform(-0.84, -0.62), rng.uniform(0.34, 0.60)
    rise = rng.uniform(-0.6, 0.8)
    arm = np.abs(y + 0.62 + rise * (np.abs(x) - 0.6))  # distance from the axis of the arms
    dome = _dome(base, x)
    lungs = _lungs(apex, dome, x, y)
    skin = _skin(rng, arm, x, y)
    bones = _ribs(rng, apex, x, y) + _spine(x, y) + _shoulders(apex, arm, x, y)
    tissue = skin * (1 - 0.8 * lungs + rng.uniform(0.17, 0.29) * bones)
    tissue += _heart(rng, base, x, y) + _abdomen(base, dome, x, y) * skin
    tissue += lungs * _vessels(rng, x, y)
    if pathogen != "none":
        opacity = _consolidation if pathogen == "bacteria" else _haze
        tissue += lungs * opacity(np.random.default_rng(lesion), x, y)
    film = 1 - np.exp(-tissue)
    film *= (1 + 0.08 * _cloud(view_rng, 1.2, x, y)).clip(0.6)  # the beam is not uniform
    film /= (film * skin).sum() / skin.sum()
    return _expose(view_rng, _collimated(view_rng, film), (width, height))


def _grid(rng: np.random.Generator, girth: float, width: int, height: int) -> tuple[Plane, Plane]:
    """Patient coordinates of the pixels, for a random tilt, zoom and position."""
    tilt, zoom = rng.normal(0, 0.04), rng.uniform(0.93, 1.08)
    rows = np.linspace(-zoom, zoom, round(_DETAIL * height))[:, None] - rng.normal(0, 0.03)
    span = zoom * width / height
    cols = np.linspace(-span, span, round(_DETAIL * width)) - rng.normal(0, 0.03)
    x = (np.cos(tilt) * cols + np.sin(tilt) * rows) / girth
    y = np.cos(tilt) * rows - np.sin(tilt) * cols
    return x.astype(np.float32), y.astype(np.float32)  # half the time of double precision


def _posture(rng: np.random.Generator, x: Plane, y: Plane) -> tuple[Plane, Plane]:
    """Deform the coordinates by posture and build, which affects all structures alike."""
    lean, size = rng.normal(0, 0.04), rng.uniform(0.92, 1.08)
    bent = x + lean * y + 0.03 * _cloud(rng, 2.0, x, y)
    return bent * size, y * size + 0.04 * _cloud(rng, 2.0, x, y)


def _step(distance: Plane, softness: float) -> Plane:
    """Smooth step from 0 (below zero) to 1."""
    t = (distance * (0.2 / softness) + 0.5).clip(0, 1)
    return t * t * (3 - 2 * t)


def _bump(distance: Plane, width: float) -> Plane:
    """Gaussian of a distance."""
    return np.exp(-np.square(distance * (1 / width)))


def _cloud(rng: np.random.Generator, pitch: float, x: Plane, y: Plane) -> Plane:
    """Smooth random field of variance 1, a sum of waves in patient coordinates."""
    total = np.zeros_like(x)
    for _ in range(5):
        angle = rng.uniform(0, 2 * np.pi)
        kx, ky = pitch * float(np.cos(angle)), pitch * float(np.sin(angle))
        total += np.cos(kx * x + ky * y + rng.uniform(0, 2 * np.pi))
        pitch *= 1.15
    return total * float(np.sqrt(2 / 5))


def _dome(base: float, x: Plane) -> Plane:
    """Height y of the diaphragm, higher above the liver (left in the image)."""
    return base + 0.05 * np.tanh(x * 8) + 1.3 * np.square(np.abs(x) - 0.28)


def _lungs(apex: float, dome: Plane, x: Plane, y: Plane) -> Plane:
    """Mask of both lungs, 0 to 1; narrower and closer to the spine at the apex."""
    level = (2 * y - 0.95 - apex) / (0.95 - apex)
    across = (np.abs(x) - 0.37 - 0.07 * level) / (0.27 + 0.06 * level).clip(0.1)
    return _step(1 - np.hypot(across, np.square(level)), 0.05) * _step(dome - y, 0.018)


def _skin(rng: np.random.Generator, arm: Plane, x: Plane, y: Plane) -> Plane:
    """Soft tissue of trunk, neck and arms, thinner laterally."""
    u, fat = np.abs(x), rng.uniform(0.06, 0.16)
    trunk = _step(0.70 + fat + 0.06 * y - u, 0.012) * _step(y + 0.86 - 0.25 * u, 0.03)
    neck = _step(0.22 + 0.5 * np.square(y + 0.95) - u, 0.015) * _step(-0.3 - y, 0.05)
    arms = _step(0.17 + fat / 2 - arm, 0.015) * _step(u - 0.5, 0.05)
    return np.maximum(np.maximum(trunk, neck), arms) * (1 - 0.4 * np.square(u).clip(0, 1))


def _heart(rng: np.random.Generator, base: float, x: Plane, y: Plane) -> Plane:
    """Heart (tilted to the right in the image), large vessels, thymus and trachea."""
    size, thymus = rng.uniform(0.29, 0.43), rng.uniform(0.07, 0.15)
    lean, roundness = rng.uniform(0.35, 0.8), rng.uniform(0.7, 0.95)
    along, across = np.cos(lean), np.sin(lean)
    dx, dy = x - rng.uniform(0.05, 0.13), y - base + 0.19
    radius = np.hypot(
        (along * dx + across * dy) / size, (along * dy - across * dx) / (roundness * size)
    )
    upper = _step(thymus + 0.12 * (y + 0.5) - np.abs(x - 0.02), 0.012) * _step(base - y, 0.05)
    heart = np.maximum(_step(1 - radius, 0.05), upper * _step(y + 0.72, 0.08))
    trachea = _bump(x + 0.01, 0.04) * _step(-0.2 - y, 0.03)
    return 0.55 * heart - 0.3 * trachea


def _abdomen(base: float, dome: Plane, x: Plane, y: Plane) -> Plane:
    """Liver and bowel below the diaphragm, with gastric gas."""
    gas = _bump(np.hypot((x - 0.33) / 1.5, y - base - 0.24), 0.10)
    return _step(y - dome, 0.018) * (0.6 - 0.6 * gas)


def _ribs(rng: np.random.Generator, apex: float, x: Plane, y: Plane) -> Plane:
    """Rib pairs: arched posterior ribs, fainter anterior ribs descending medially."""
    u, shift = np.abs(x), rng.uniform(0, 2 * np.pi)
    frequency = 2 * np.pi / rng.uniform(0.13, 0.22)
    narrowing = 0.35 * np.square((y - 0.25).clip(-2, 0))
    cage = _step(0.72 - narrowing - u, 0.015) * _step(y - apex + 0.06, 0.03) * _step(0.8 - y, 0.1)
    back = _step(np.cos(frequency * (y - 0.9 * np.square(u - 0.22)) + shift) - 0.35, 0.12)
    front = _step(np.cos(frequency * (y + 0.55 * u - 0.5 * np.square(u)) + 2 * shift) - 0.3, 0.2)
    rim = _bump(u - 0.66, 0.05)  # lateral ribs are seen end-on and denser
    ribs: Plane = back * _step(u - 0.08, 0.02) * (0.8 + 0.6 * rim) + 0.4 * front
    return cage * ribs


def _spine(x: Plane, y: Plane) -> Plane:
    """Vertebral column with darker discs."""
    disc = _step(np.cos(y * 42) - 0.6, 0.15)
    return _step(0.085 - np.abs(x), 0.01) * (0.9 - 0.45 * disc) + 0.3 * _bump(x, 0.02)


def _shoulders(apex: float, arm: Plane, x: Plane, y: Plane) -> Plane:
    """Clavicles and humeri."""
    u = np.abs(x)
    curve = apex + 0.14 - 0.14 * np.sin((u - 0.1) * 3.5)
    collar = _step(0.03 - np.abs(y - curve), 0.008) * _step(u - 0.07, 0.02) * _step(0.7 - u, 0.02)
    return 1.3 * collar + 1.5 * _step(0.055 - arm, 0.012) * _step(u - 0.74, 0.02)


def _vessels(rng: np.random.Generator, x: Plane, y: Plane) -> Plane:
    """Pulmonary vessels that branch from each hilum and fade peripherally."""
    u, dy = np.abs(x), y + 0.02
    fan = np.sin(9 * dy / (u + 0.1) + 2 * _cloud(rng, 7, x, y))
    fade = np.exp(np.hypot(u, dy) / -rng.uniform(0.2, 0.35))
    return rng.uniform(0.15, 0.35) * (0.4 + _bump(fan - 1, 0.6)) * fade


def _consolidation(rng: np.random.Generator, x: Plane, y: Plane) -> Plane:
    """Bacterial pneumonia: one or two consolidations with irregular soft edges."""
    total = np.zeros_like(x)
    for _ in range(1 if rng.random() < 0.65 else 2):
        cx = rng.uniform(0.26, 0.50) * (1 if rng.random() < 0.5 else -1)
        size, strength = rng.uniform(0.22, 0.36), rng.uniform(0.25, 1.1)
        radius = np.hypot(x - cx, y - rng.uniform(-0.45, 0.35)) / size
        total += strength * _step(1 - radius + 0.2 * _cloud(rng, 10, x, y), 0.15)
    return total


def _haze(rng: np.random.Generator, x: Plane, y: Plane) -> Plane:
    """Viral pneumonia: diffuse haze in both lungs with perihilar streaks."""
    patches = _step(_cloud(rng, 7, x, y) - 0.2, 0.4)
    streaks = _bump(_cloud(rng, 20, x, y), 0.7)
    inner = np.exp(-np.hypot(np.abs(x) - 0.2, y) / 0.4)
    return rng.uniform(0.12, 0.85) * (0.3 + 0.6 * patches + 0.5 * streaks * inner)


def _collimated(rng: np.random.Generator, film: Plane) -> Plane:
    """Add dark collimation borders of up to 5 % to every second image."""
    if rng.random() < 0.5:
        height, width = film.shape
        top, bottom, left, right = rng.uniform(0, 0.05, 4)
        inside = np.zeros_like(film)
        inside[round(top * height) : round((1 - bottom) * height)] = 1
        inside[:, : round(left * width)] = inside[:, round((1 - right) * width) :] = 0
        film = film * inside
    return film


def _expose(rng: np.random.Generator, film: Plane, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Convert a film, 1 on average in the body, to uint8 of size (W, H), with random exposure and
    noise.

    The exposure does not depend on the disease, as with automatic exposure control; otherwise the
    added tissue would make positives brighter.
    """
    large = Image.fromarray(film.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    image: Plane = np.asarray(large).clip(0) * np.float32(rng.uniform(0.48, 0.57))
    image = image ** np.float32(rng.uniform(0.9, 1.2))
    image += rng.uniform(0.005, 0.03) * rng.standard_normal(image.shape, dtype=np.float32)
    image += rng.uniform(0, 0.04)
    return (image.clip(0, 1) * 255).round().astype(np.uint8)
