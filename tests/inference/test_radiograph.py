"""Reading files: pixels, size, gray range, and nothing that identifies a patient."""

import logging
import struct
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom.tag import Tag

from cxr.data.images import ImageError, decode, to_gray
from cxr.inference import radiograph
from cxr.inference.radiograph import from_bytes, read
from tests.support.dicom_files import content_of, dataset, grey8, picture, radiograph_of

# As outside of tests: warnings of libraries are not errors.
pytestmark = pytest.mark.filterwarnings("ignore")

FLAT = {
    "black": dataset(picture(4).astype(np.uint16), 16, WindowCenter=32768, WindowWidth=65536),
    "white": dataset(picture(), WindowCenter=-400, WindowWidth=1000),
    "flat": dataset(picture(4) + 100),
}


@pytest.mark.parametrize("kind", FLAT)
def test_low_contrast_is_noted(kind: str) -> None:
    assert radiograph_of(FLAT[kind]).notes == (radiograph.LOW_CONTRAST,)


def test_12_bits_in_a_16_bit_png_are_noted_without_sbit(tmp_path: Path) -> None:
    pixels = picture(12)
    marked = pixels.copy()
    marked[0, 0] = 65535  # such as a white letter; of 384 pixels less than 0.5 %
    for name, values in (("plain.png", pixels), ("marked.png", marked)):
        Image.fromarray(values).save(tmp_path / name)
        assert read(tmp_path / name).notes == (radiograph.LOW_CONTRAST,)
    content = (tmp_path / "plain.png").read_bytes()
    chunk = b"sBIT\x0c"
    chunk = struct.pack(">I", 1) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "sbit.png").write_bytes(content[:33] + chunk + content[33:])
    found = read(tmp_path / "sbit.png")
    assert found.notes == ()
    np.testing.assert_allclose(found.image, pixels / 4095 * 255, atol=1)


SECRET = b"SECRET7 "
TEXTS = [
    *[(8, number) for number in (0x5, 0x20, 0x50, 0x80, 0x90, 0x1030, 0x103E, 0x1070, 0x2111)],
    *[(0x10, number) for number in (0x10, 0x20, 0x21, 0x30, 0x40, 0x1000, 0x1010, 0x4000)],
    *[(0x18, number) for number in (0x15, 0x1000, 0x1030, 0x5101)],
    *[(0x20, number) for number in (0x10, 0x4000)],
    *[(0x9, number) for number in (0x10, 0x1001)],
]
SECRET_KINDS = ["LO", "DA", "IS", "DS", "PN", "UI", "US", "AS", "CS", "XX"]
NUMERIC = ["WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept", "NumberOfFrames"]
NUMERIC += ["PixelPaddingValue", "BitsStored", "PhotometricInterpretation", "VOILUTFunction"]
NUMERIC += ["HighBit", "Modality", "ViewPosition", "BodyPartExamined", "PixelRepresentation"]


def element(group: int, number: int, kind: str, value: bytes) -> bytes:
    return struct.pack("<HH2sH", group, number, kind.encode(), len(value)) + value


def with_secrets(kind: str, numeric: str = "") -> bytes:
    """Text tags of a VR contain the secret, and so does a tag that needs another value."""
    made = grey8()
    made.WindowCenter, made.WindowWidth = 100, 100
    head, _, _ = content_of(made).partition(b"\x08\0\x16\0UI")
    rest = {
        (one.tag.group, one.tag.element): (one.VR, made[one.tag].value)
        for one in made
        if one.tag.group in (0x28, 0x7FE0)
    }
    data = {place: element(*place, kind, SECRET) for place in TEXTS}
    for place, (vr, value) in rest.items():
        if vr == "US":
            data[place] = element(*place, vr, struct.pack("<H", value))
        elif vr in ("DS", "CS"):
            text = str(value).encode()
            data[place] = element(*place, vr, text + b" " * (len(text) % 2))
    if numeric:
        tag = Tag(numeric)
        vr = "DS" if numeric[0] in "WR" else "IS" if numeric == "NumberOfFrames" else "LO"
        data[tag.group, tag.element] = element(tag.group, tag.element, vr, SECRET)
    pixels = struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OB", 0, len(made.PixelData)) + made.PixelData
    return head + b"".join(data[place] for place in sorted(data)) + pixels


def output_of(path: Path) -> str:
    """Everything that a call returns: the result, or the error with its chained errors."""
    try:
        found = read(path)
        return f"{found!r} {found.image.info} {vars(found.image)} {found.notes}"
    except ImageError as error:
        chained = (error, error.__cause__, error.__context__)
        return " ".join(f"{one!r} {one} {vars(one) if one else ''}" for one in chained)


@pytest.mark.parametrize("cut", [0, 100])
@pytest.mark.parametrize(
    ("kind", "numeric"),
    [(kind, "") for kind in SECRET_KINDS] + [("LO", numeric) for numeric in NUMERIC],
)
def test_nothing_identifies_a_patient(
    kind: str,
    numeric: str,
    cut: int,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    content = with_secrets(kind, numeric)
    assert content.count(b"SECRET7") >= len(TEXTS)
    path = tmp_path / "x.dcm"
    path.write_bytes(content[: len(content) - cut])
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        found = output_of(path)
    out, err = capfd.readouterr()
    found += f"{out} {err} {caplog.text} {[str(one.message) for one in warned]}"
    assert "SECRET7" not in found
    assert not warned and not out and not err and not caplog.text


@pytest.mark.parametrize("content", [content_of(grey8()), content_of(grey8())[:-50]])
def test_the_log_of_pydicom_is_silenced_only_while_a_file_is_read(content: bytes) -> None:
    logger = logging.getLogger("pydicom")
    assert logger.level < logging.CRITICAL
    before = logger.level
    with suppress(ImageError):
        from_bytes(content, Path("x"))
    assert logger.level == before


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_comments_of_jpeg_and_png_are_dropped(kind: str, tmp_path: Path) -> None:
    exif, text = Image.Exif(), PngInfo()
    exif[0x010E] = "SECRET7"
    text.add_text("SECRET7", "SECRET7")
    options = {"comment": b"SECRET7"} if kind == "JPEG" else {"pnginfo": text}
    Image.fromarray(picture()).save(tmp_path / "x", kind, exif=exif, **options)
    assert (tmp_path / "x").read_bytes().count(b"SECRET7") >= 2
    assert "SECRET7" not in output_of(tmp_path / "x")
    read(tmp_path / "x").image.save(tmp_path / "y.png")
    assert b"SECRET7" not in (tmp_path / "y.png").read_bytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("channels", [0, 3])
def test_jpeg_and_png_give_the_pixels_of_training(kind: str, channels: int, tmp_path: Path) -> None:
    Image.fromarray(picture(8, channels)).save(tmp_path / "x", kind)
    found = read(tmp_path / "x")
    assert (found.has_color, found.notes) == (channels == 3, ())
    assert (found.width, found.height) == (16, 24)
    np.testing.assert_array_equal(
        found.image, to_gray(decode((tmp_path / "x").read_bytes(), tmp_path / "x"))
    )


def test_gray_in_three_channels_has_no_color(tmp_path: Path) -> None:
    Image.fromarray(picture()).convert("RGB").save(tmp_path / "x", "JPEG")
    assert not read(tmp_path / "x").has_color


@pytest.mark.parametrize("min_side", [0, 20])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_that_of_the_upright_original(
    min_side: int, orientation: int, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.kron(picture(8, 3), np.ones((8, 8, 1), np.uint8))
    Image.fromarray(pixels).save(tmp_path / "x", "JPEG", exif=exif)
    found = read(tmp_path / "x", min_side)
    expected = (192, 128) if orientation > 4 else (128, 192)
    assert (found.width, found.height) == expected
    scale = found.width // found.image.width
    assert found.image.size == (expected[0] // scale, expected[1] // scale)
    assert (scale > 1, found.has_color) == (min_side > 0, True)
