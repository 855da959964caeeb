"""PixelData of DICOM files: every compression; bad files are refused before decoding."""

import io
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread, uid
from pydicom.encaps import get_frame

from cxr.data.images import ImageError
from cxr.inference.dicom import stream
from cxr.inference.radiograph import Radiograph, read
from tests.support.dicom_files import (
    FOUND_AS,
    KINDS,
    PACKED,
    bomb,
    by_gdcm,
    changed,
    content_of,
    dataset,
    framed,
    grey8,
    jpeg,
    picture,
    radiograph_of,
    ramp,
    refused,
    shown,
)

# As outside of tests: warnings of libraries are not errors.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_bits_beyond_bits_stored_are_left_out_and_noted(syntax: uid.UID, signed: bool) -> None:
    pixels = ramp(12, signed)
    low = pixels.view("u2") & 0xFFF  # of negative values without the copies of the sign
    window = {"WindowCenter": 0 if signed else 2048, "WindowWidth": 4096}
    found = []
    for values in (pixels.view("u2"), low, low | 0x2000):
        made = dataset(values, 12, PixelRepresentation=int(signed), **window)
        made.file_meta.TransferSyntaxUID = syntax
        if syntax == uid.ExplicitVRBigEndian:
            made["PixelData"].value = values.astype(">u2").tobytes()
        found.append(radiograph_of(made))
        np.testing.assert_array_equal(found[-1].image, found[0].image)
    assert [one.notes for one in found] == [(), (), (stream.EXTRA_BITS,)]
    assert np.ptp(np.asarray(found[0].image)) == 255


@pytest.mark.parametrize(
    "kind", ["JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless", "RLELossless"]
)
@pytest.mark.parametrize(
    ("pixels", "bits"),
    [
        (picture(16), 16),
        (ramp(12, signed=True), 12),
        (ramp(16, signed=True), 16),
        (picture(8, 3), 8),
    ],
    ids=["16 bits", "12 bits signed", "16 bits signed", "colors"],
)
def test_lossless_compression_does_not_change_the_pixels(
    kind: str, pixels: NDArray[Any], bits: int, tmp_path: Path
) -> None:
    made = dataset(pixels, bits, WindowCenter=0, WindowWidth=4000)
    expected = shown(content_of(made))
    packed = by_gdcm(made, getattr(KINDS, kind), tmp_path)
    np.testing.assert_array_equal(shown(packed), expected)


@pytest.mark.parametrize("channels", [0, 3])
def test_baseline_jpeg_gives_nearly_the_same_pixels(channels: int) -> None:
    pixels = picture(8, channels)
    expected = shown(content_of(dataset(pixels))).astype(int)
    colors = {"PhotometricInterpretation": "YBR_FULL_422"} if channels else {}
    packed = framed(dataset(pixels, **colors), uid.JPEGBaseline8Bit, jpeg(pixels))
    np.testing.assert_allclose(shown(packed), expected, atol=6)


def tagged(**tags: Any) -> Callable[[], bytes]:
    return lambda: content_of(dataset(picture(), **tags))


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "zero bytes": (lambda: b"", "empty file"),
    "text": (lambda: b"a text", "cannot identify"),
    "begin of DICOM alone": (lambda: bytes(128) + b"DICM", "without pixel data"),
    "no pixels": (tagged(PixelData=None), "without pixel data"),
    "no rows": (tagged(Rows=None), "without Rows"),
    "no columns": (tagged(Columns=None), "without Columns"),
    "no bits": (tagged(BitsAllocated=None), "without BitsAllocated"),
    "no photometric interpretation": (tagged(PhotometricInterpretation=None), "Photometric"),
    "no width": (tagged(Columns=0), "Columns is 0"),
    "huge": (tagged(Rows=65535, Columns=65535), "bomb"),
    "more rows than pixels": (tagged(Rows=25), "truncated"),
    "fewer rows than pixels": (tagged(Rows=12), "more than one image"),
    "two frames": (tagged(NumberOfFrames=2), "NumberOfFrames"),
    "odd bits": (tagged(BitsAllocated=12), "BitsAllocated"),
    "more bits than there are": (tagged(BitsStored=12), "BitsStored"),
    "bits in an unusual place": (tagged(HighBit=3), "HighBit"),
    "samples of colors": (tagged(SamplesPerPixel=3), "SamplesPerPixel"),
    "no sign": (tagged(PixelRepresentation=2), "PixelRepresentation"),
    "slope of nothing": (tagged(RescaleSlope=0, RescaleIntercept=0), "RescaleSlope"),
    "all padding": (lambda: all_padding(), "padding"),
    "truncated": (lambda: content_of(grey8())[:-50], "truncated"),
    "inflates to a bomb": (bomb, "bomb"),
    "a film": (lambda: framed(grey8(), uid.MPEG4HP41, b"1234"), "video"),
    "of high throughput": (lambda: framed(grey8(), uid.HTJ2K, b"1234"), "not supported"),
    "12-bit JPEG": (
        lambda: framed(
            dataset(picture(12), 12), uid.JPEGExtended12Bit, changed12(jpeg(picture(8)))
        ),
        "12-bit",
    ),
    "two compressed frames": (
        lambda: framed(grey8(), uid.JPEGBaseline8Bit, *[jpeg(picture())] * 2),
        "more than one image",
    ),
    "two images in a frame": (
        lambda: framed(grey8(), uid.JPEGBaseline8Bit, jpeg(picture()) * 2),
        "more than one image",
    ),
    "two images with padding between": (
        lambda: framed(
            grey8(), uid.JPEGBaseline8Bit, jpeg(picture()) + b"\0\1" * 9 + jpeg(picture())
        ),
        "more than one image",
    ),
    "JPEG 2000 named JPEG": (lambda: framed(grey8(), uid.JPEG2000, jpeg(picture())), "damaged"),
    "JPEG with two headers": (
        lambda: framed(grey8(), uid.JPEGBaseline8Bit, two_headers(jpeg(picture()))),
        "single frame header",
    ),
    "JP2 file": (
        lambda: framed(grey8(), uid.JPEG2000, b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(99)),
        "codestream",
    ),
    "JPEG of endless segments": (
        lambda: framed(grey8(), uid.JPEGBaseline8Bit, b"\xff\xd8" + b"\xff\xe0\0\2" * 10**6),
        "not a JPEG",
    ),
}


def all_padding() -> bytes:
    made = dataset(np.full((4, 4), 7, np.uint8))
    made.add_new("PixelPaddingValue", "US", 7)
    return content_of(made)


def changed12(frame: bytes) -> bytes:
    return frame.replace(b"\xff\xc0\0\x0b\x08", b"\xff\xc1\0\x0b\x0c")


def two_headers(frame: bytes) -> bytes:
    """The first is valid, the second declares 65535 x 65535."""
    start = frame.index(b"\xff\xc0")
    header = frame[start : start + 13]
    return frame[: start + 13] + header[:5] + b"\xff" * 4 + header[9:] + frame[start + 13 :]


@pytest.fixture
def no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """GDCM must not be started."""

    def never(*_: Any) -> Any:
        pytest.fail("GDCM was started for a file that should have been refused")

    monkeypatch.setattr(stream, "_decoded_by_worker", never)


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_refused_with_the_reason_before_decoding(
    kind: str, tmp_path: Path, no_decoder: None
) -> None:
    make, reason = BAD[kind]
    assert reason in refused(make(), tmp_path)


@pytest.mark.parametrize("kind", FOUND_AS)
def test_forged_sizes_and_bits_are_refused_at_once(
    kind: str, tmp_path: Path, no_decoder: None
) -> None:
    forged = {"contradicts the tags": (5, b"\xff" * 4), "more bits": (4, b"\x11")}
    if kind == "JPEG 2000":
        one_tile = struct.pack(">8I", *[65535, 65535, 0, 0] * 2)
        forged = {"contradicts the tags": (8, one_tile), "more bits": (42, b"\x10")}
    for reason, (offset, value) in forged.items():
        content = changed(PACKED[kind](tmp_path), FOUND_AS[kind], offset, value)
        before = time.process_time()
        assert reason in refused(content, tmp_path)
        assert time.process_time() - before < 1


@pytest.mark.parametrize("offset", [24, 28])
def test_jpeg_2000_of_very_many_tiles_is_refused(
    offset: int, tmp_path: Path, no_decoder: None
) -> None:
    made = dataset(np.zeros((5000, 16), np.uint8) if offset == 28 else np.zeros((16, 5000), "u1"))
    content = changed(by_gdcm(made, KINDS.JPEG2000Lossless, tmp_path), b"\xff\x4f", 24, b"\0\0\0\1")
    content = changed(content, b"\xff\x4f", 28, b"\0\0\0\1")
    assert "tiles" in refused(content, tmp_path)


@pytest.mark.parametrize("kind", FOUND_AS)
def test_a_frame_without_its_end_is_refused(kind: str, tmp_path: Path, no_decoder: None) -> None:
    whole = dcmread(io.BytesIO(PACKED[kind](tmp_path)))
    frame = get_frame(whole.PixelData, 0, number_of_frames=1)
    for cut in (frame[: len(frame) - 20], frame.rstrip(b"\0")[:-2]):
        for padding in (b"", bytes(1000)):
            packed = framed(whole, whole.file_meta.TransferSyntaxUID, cut + padding)
            assert "no end" in refused(packed, tmp_path)


@pytest.mark.parametrize("kind", FOUND_AS)
@pytest.mark.parametrize("padding", [bytes(13), bytes(1000), b"\xff" * 30, b"of an older image"])
def test_bytes_after_the_end_of_a_frame_are_ignored(
    kind: str, padding: bytes, tmp_path: Path
) -> None:
    whole = PACKED[kind](tmp_path)
    found = dcmread(io.BytesIO(whole))
    frame = get_frame(found.PixelData, 0, number_of_frames=1).rstrip(b"\0")
    padded = framed(found, found.file_meta.TransferSyntaxUID, frame + padding)
    np.testing.assert_array_equal(shown(padded), shown(whole))


def test_an_end_marker_in_the_header_of_a_frame_does_not_count(
    tmp_path: Path, no_decoder: None
) -> None:
    frame = jpeg(picture(), comment=b"\xff\xd9").rstrip(b"\0")
    assert "no end" in refused(framed(grey8(), uid.JPEGBaseline8Bit, frame[:-2]), tmp_path)


@pytest.mark.parametrize(
    "ending",
    ["import os; os.abort()", "print('x')", "raise ValueError", "import time; time.sleep(99)"],
)
def test_a_crash_of_the_decoder_is_an_error_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    (tmp_path / "worker.py").write_text(ending)
    monkeypatch.setattr(stream, "WORKER", str(tmp_path / "worker.py"))
    monkeypatch.setattr(stream, "WORKER_SECONDS", 3)
    assert "damaged" in refused(PACKED["JPEG baseline"](tmp_path), tmp_path)


def corrupted(content: bytes, numbers: np.random.Generator) -> bytes:
    """Change some bytes; truncate every tenth file."""
    found = bytearray(content)
    for place in numbers.integers(0, len(found), numbers.integers(1, 5)):
        found[place] = numbers.integers(256)
    return bytes(found[: numbers.integers(len(found))] if numbers.random() < 0.1 else found)


def try_all(contents: Iterator[bytes], path: Path) -> None:
    for content in contents:
        path.write_bytes(content)
        try:
            assert isinstance(read(path), Radiograph)
        except ImageError as error:
            assert str(error).startswith(f"{path}: ")


@pytest.mark.parametrize("kind", [*PACKED, "none", "deflated"])
def test_corrupted_files_are_read_or_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without GDCM, whose process would take long for so many files."""
    plain = np.zeros((24, 16), np.uint8)
    monkeypatch.setattr(stream, "_decoded_by_worker", lambda *_: (plain, "MONOCHROME2"))
    made = grey8()
    if kind == "deflated":
        made.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    content = PACKED[kind](tmp_path) if kind in PACKED else content_of(made)
    numbers = np.random.default_rng(7)
    try_all((corrupted(content, numbers) for _ in range(300)), tmp_path / "x")


@pytest.mark.parametrize("kind", FOUND_AS)
def test_corrupted_pixels_are_decoded_or_refused(kind: str, tmp_path: Path) -> None:
    content = PACKED[kind](tmp_path)
    start = content.index(b"\xe0\x7f\x10\x00") + 28  # after the fragment's header
    numbers = np.random.default_rng(7)
    ends = (content[:start] + corrupted(content[start:-10], numbers) for _ in range(12))
    try_all((end + content[-10:] for end in ends), tmp_path / "x")
