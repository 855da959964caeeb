"""Decoding of image files, and conversion to a gray square."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image

from cxr.data.images import (
    HEAD_BYTES,
    decode,
    has_image_signature,
    read_file,
    to_gray,
    to_square,
    uses_little_range,
)

RESIZES = ["crop", "stretch", "letterbox"]
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
LUMINANCE = [[76, 150], [29, 255]]  # of these four


def colors(mode: str = "RGB") -> Image.Image:
    """Red, green / blue, white: 32 pixels each."""
    pixels = np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8)
    return Image.fromarray(pixels.repeat(32, axis=0).repeat(32, axis=1)).convert(mode)


def noise(height: int = 64, width: int = 64) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (height, width), np.uint8)


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def open_image(path: Path, min_side: int = 0) -> Image.Image:
    return decode(read_file(path), path, min_side)


def gray(path: Path, content: bytes) -> NDArray[np.uint8]:
    path.write_bytes(content)
    image = to_gray(open_image(path))
    assert image.mode == "L"
    return np.asarray(image)


def middles(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Centres of the four quarters."""
    height, width = pixels.shape
    return pixels[height // 4 :: height // 2, width // 4 :: width // 2].astype(int)


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_gray_is_unchanged(tmp_path: Path, mode: str) -> None:
    pixels = noise(5, 7)
    found = gray(tmp_path / "x.png", encoded(Image.fromarray(pixels).convert(mode), "PNG"))
    np.testing.assert_array_equal(found, pixels)


def test_16_bit_keeps_the_high_byte(tmp_path: Path) -> None:
    pixels = np.array([[0, 255, 256], [0x12FF, 0x8000, 0xFFFF]], np.uint16)
    found = gray(tmp_path / "x.png", encoded(Image.fromarray(pixels), "PNG"))
    np.testing.assert_array_equal(found, [[0, 0, 1], [0x12, 0x80, 0xFF]])


def with_sbit(content: bytes, *bits: int, first: bytes = b"") -> bytes:
    """A PNG with an sBIT chunk behind its header, and another chunk before that if given."""
    chunks = [(b"sBIT", bytes(bits))]
    if first:
        chunks.insert(0, (first, b"x" * 300))
    data = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
    return content[:33] + data + content[33:]


TWELVE = np.array([[0, 16, 256], [2048, 4000, 4095]], np.uint16)


@pytest.mark.parametrize("first", [b"", b"teSt"], ids=["first", "behind another chunk"])
def test_low_bits_declared_by_sbit_are_scaled(tmp_path: Path, first: bytes) -> None:
    """12 bits in 16: 0 to 4095 become 0 to 255, not 0 to 15."""
    content = encoded(Image.fromarray(TWELVE), "PNG")
    plain = gray(tmp_path / "plain.png", content)
    found = gray(tmp_path / "sbit.png", with_sbit(content, 12, first=first))
    np.testing.assert_array_equal(found, [[0, 1, 16], [128, 250, 255]])
    assert plain.max() == 15
    assert uses_little_range(Image.fromarray(plain))
    assert not uses_little_range(Image.fromarray(found))


def test_sbit_of_an_8_bit_and_of_a_rotated_image(tmp_path: Path) -> None:
    content = encoded(Image.fromarray(np.array([[0, 8], [16, 31]], np.uint8)), "PNG")
    found = gray(tmp_path / "x.png", with_sbit(content, 5))
    np.testing.assert_array_equal(found, [[0, 65], [131, 255]])
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    turned = encoded(Image.fromarray(TWELVE), "PNG", exif=exif)
    found = gray(tmp_path / "turned.png", with_sbit(turned, 12))
    np.testing.assert_array_equal(found, [[255, 250, 128], [16, 1, 0]])


@pytest.mark.parametrize("bits", [(12,), (0,), (16,), (17,), (12, 12, 12), ()], ids=str)
def test_values_scaled_by_the_writer_are_unchanged(tmp_path: Path, bits: tuple[int, ...]) -> None:
    """As PNG requires; also where the chunk is damaged."""
    pixels = np.array([[0, 0x1200], [0x8000, 0xFFF0]], np.uint16)
    found = gray(tmp_path / "x.png", with_sbit(encoded(Image.fromarray(pixels), "PNG"), *bits))
    np.testing.assert_array_equal(found, [[0, 0x12], [0x80, 0xFF]])


def test_a_black_image_without_significant_bits_is_black(tmp_path: Path) -> None:
    black = encoded(Image.fromarray(np.zeros((2, 3), np.uint16)), "PNG")
    assert not gray(tmp_path / "x.png", with_sbit(black, 0)).any()


def test_sbit_of_color_images_is_ignored(tmp_path: Path) -> None:
    found = gray(tmp_path / "x.png", with_sbit(encoded(colors(), "PNG"), 5, 5, 5))
    np.testing.assert_array_equal(middles(found), LUMINANCE)


@pytest.mark.parametrize(("least", "most"), [(0, 31), (0, 32), (100, 131), (100, 132), (7, 7)])
def test_threshold_of_little_range(least: int, most: int) -> None:
    image = Image.fromarray(np.array([[least, most]], np.uint8))
    assert uses_little_range(image) == (most - least < 32)


def test_a_white_letter_does_not_hide_a_little_range() -> None:
    pixels = np.arange(6400, dtype=np.uint16).reshape(80, 80).astype(np.uint8) % 16
    pixels[:4, :4] = 255
    assert uses_little_range(Image.fromarray(pixels))
    pixels[:, :2] = 255
    assert not uses_little_range(Image.fromarray(pixels))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000"])
def test_image_signatures(kind: str) -> None:
    assert has_image_signature(encoded(colors(), kind)[:HEAD_BYTES])


def test_no_image_signature() -> None:
    assert has_image_signature(bytes(128) + b"DICM")
    for head in (b"", b"BM, the notes of a physician", b"RIFF1234AVI ", bytes(200), b"PK\3\4"):
        assert not has_image_signature(head[:HEAD_BYTES])


def test_32_bit_integers_are_read_as_16_bit() -> None:
    pixels = np.array([[-5, 0, 0x12FF, 0xFFFF, 70_000]], np.int32)
    np.testing.assert_array_equal(
        np.asarray(to_gray(Image.fromarray(pixels))), [[0, 0, 0x12, 0xFF, 0xFF]]
    )


def test_no_file_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(encoded(colors(), "PNG"))
    image = open_image(path)
    path.write_bytes(b"")
    np.testing.assert_array_equal(np.asarray(image), np.asarray(colors()))


def smooth(size: int) -> Image.Image:
    """Colours without edges, as a photograph has them."""
    return Image.fromarray(np.random.default_rng(2).integers(0, 256, (9, 9, 3), np.uint8)).resize(
        (size, size), Image.Resampling.BICUBIC
    )


@pytest.mark.parametrize(
    ("min_side", "size"), [(0, 400), (201, 400), (200, 200), (150, 200), (100, 100), (50, 50)]
)
def test_a_jpeg_is_decoded_at_the_smallest_sufficient_size(
    tmp_path: Path, min_side: int, size: int
) -> None:
    path = tmp_path / "x.jpeg"
    path.write_bytes(encoded(smooth(400), "JPEG", quality=95))
    found = to_gray(open_image(path, min_side))
    assert found.size == (size, size)
    whole = to_square(to_gray(open_image(path)), 40, "crop").astype(int)
    assert np.abs(to_square(found, 40, "crop") - whole).mean() < 1


def test_a_png_is_decoded_at_full_size(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(encoded(smooth(400), "PNG"))
    assert open_image(path, 100).size == (400, 400)


def test_exif_orientation_is_applied_at_any_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path = tmp_path / "x.jpeg"
    path.write_bytes(encoded(smooth(400).crop((0, 0, 400, 300)), "JPEG", exif=exif))
    assert open_image(path, 100).size == (150, 200)


def thirds(axis: int) -> NDArray[np.uint8]:
    """90 x 30 pixels (30 x 90 for axis 0): black, mid gray, white."""
    bands = np.repeat(np.uint8([0, 128, 255]), 30)
    wide = np.broadcast_to(bands, (30, 90)).copy()
    return wide if axis else wide.T.copy()


def along(pixels: NDArray[np.uint8], axis: int) -> NDArray[np.uint8]:
    """In landscape, as `thirds(1)`."""
    return pixels if axis else pixels.T


AXES = pytest.mark.parametrize("axis", [0, 1], ids=["tall", "wide"])


@AXES
def test_crop_keeps_the_center(axis: int) -> None:
    found = to_square(Image.fromarray(thirds(axis)), 24, "crop")
    np.testing.assert_array_equal(found[2:-2, 2:-2], 128)
    np.testing.assert_allclose(found, 128, atol=15)  # antialiasing extends beyond the edge


@AXES
def test_stretch_keeps_everything_and_fills(axis: int) -> None:
    found = along(to_square(Image.fromarray(thirds(axis)), 24, "stretch"), axis)
    for number, value in enumerate((0, 128, 255)):
        np.testing.assert_array_equal(found[:, 8 * number + 2 : 8 * number + 6], value)


@AXES
def test_letterbox_keeps_everything_between_black_bars(axis: int) -> None:
    found = along(to_square(Image.fromarray(255 - thirds(axis)), 24, "letterbox"), axis)
    assert not found[:8].any()
    assert not found[16:].any()
    for number, value in enumerate((255, 127, 0)):
        np.testing.assert_array_equal(found[8:16, 8 * number + 2 : 8 * number + 6], value)


@pytest.mark.parametrize("resize", RESIZES)
def test_neither_rotated_nor_flipped(resize: str) -> None:
    found = to_square(colors("L"), 20, resize)
    np.testing.assert_allclose(middles(found), LUMINANCE, atol=1)


@pytest.mark.parametrize("resize", RESIZES)
def test_downscaling_is_antialiased(resize: str) -> None:
    board = (np.indices((128, 128)).sum(axis=0) % 2 * 255).astype(np.uint8)
    found = to_square(Image.fromarray(board), 16, resize)
    np.testing.assert_allclose(found, 127.5, atol=2)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (640, 480)])
@pytest.mark.parametrize("resize", RESIZES)
def test_size_and_type(size: tuple[int, int], resize: str) -> None:
    found = to_square(Image.new("L", size, 200), 16, resize)
    assert found.shape == (16, 16)
    assert found.dtype == np.uint8
    assert found.min() == (200 if resize != "letterbox" or size[0] == size[1] else 0)


def test_palette_with_transparency_makes_no_warning(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4))
    image.putpalette([10, 10, 10, 200, 200, 200])
    image.save(tmp_path / "x.png", transparency=b"\x00\x80")
    assert (np.asarray(to_gray(open_image(tmp_path / "x.png"))) == 10).all()
