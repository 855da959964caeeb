"""Files of any kind: shown as the standards say, refused by one error, and silent about patients.

DICOM files are written here. Their grey values are worked out again, pixel by pixel, by the
formulae of DICOM PS3.3, C.11.2; pydicom's own functions are a second opinion.
"""

import io
import logging
import math
import struct
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom import dcmread, uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, apply_windowing
from pydicom.tag import Tag

from cxr import radiograph
from cxr.images import ImageError, decode, to_grey
from cxr.radiograph import Radiograph, read

# As outside of tests: warnings of libraries stop nothing.
pytestmark = pytest.mark.filterwarnings("ignore")

Grey = NDArray[np.uint8]

# --- how they are made ---------------------------------------------------------------------------


def ramp(bits: int = 12, signed: bool = False, side: int = 32) -> NDArray[Any]:
    """From the lowest to the highest value, the steps equal."""
    lowest = -(2 ** (bits - 1)) if signed else 0
    levels = np.linspace(lowest, lowest + 2**bits - 1, side * side)
    kind = f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}"
    return levels.round().astype(kind).reshape(side, side)


def picture(bits: int = 8, channels: int = 0) -> NDArray[Any]:
    """Smooth, as JPEG likes it, higher than wide; no two rows or columns the same."""
    rows, columns = np.mgrid[:24, :16]
    grey = (rows * 7 + columns * 3) / 210
    planes = [grey, grey**2, 1 - grey][:channels] or [grey]
    levels = np.stack(planes, axis=-1) * (2**bits - 1)
    found = levels.round().astype("u1" if bits <= 8 else "u2")
    return found if channels else found[..., 0]


def dataset(pixels: NDArray[Any], bits: int = 0, **tags: Any) -> Dataset:
    """Pixels and what belongs to them, and `tags`; a tag that is None is left out."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    made.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    made.SOPInstanceUID = "1.2.3"
    made.Rows, made.Columns = pixels.shape[:2]
    made.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    made.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    if pixels.ndim == 3:
        made.PlanarConfiguration = 0
    made.BitsAllocated = 8 * pixels.itemsize
    made.BitsStored = bits or made.BitsAllocated
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    made.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    if len(made.PixelData) % 2:
        made.PixelData += b"\0"
    made["PixelData"].VR = "OB" if pixels.itemsize == 1 else "OW"
    for keyword, value in tags.items():
        if value is None:
            del made[keyword]
        else:
            setattr(made, keyword, value)
    return made


def content_of(made: Dataset) -> bytes:
    buffer = io.BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def table(first: int, values: NDArray[Any], bits: int) -> list[Dataset]:
    """The value of a sequence of lookup tables."""
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(values) % 2**16, first % 2**16, bits])
    item.add_new("LUTData", "OW", values.astype("<u2").tobytes())
    return [item]


def framed(made: Dataset, syntax: uid.UID, *frames: bytes, **tags: Any) -> bytes:
    """A file of frames that are already compressed."""
    made.file_meta.TransferSyntaxUID = syntax
    made.PixelData = encapsulate(list(frames))
    made["PixelData"].VR = "OB"
    for keyword, value in tags.items():
        setattr(made, keyword, value)
    return content_of(made)


def by_gdcm(made: Dataset, kind: int, folder: Path) -> bytes:
    """The file, its pixels compressed."""
    plain, packed = folder / "plain.dcm", folder / "packed.dcm"
    plain.write_bytes(content_of(made))
    reader, change, writer = (
        gdcm.ImageReader(),
        gdcm.ImageChangeTransferSyntax(),
        gdcm.ImageWriter(),
    )
    reader.SetFileName(str(plain))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(kind))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(packed))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return packed.read_bytes()


def jpeg(pixels: NDArray[Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **{"quality": 95, **options})
    return buffer.getvalue()


KINDS = gdcm.TransferSyntax
PACKED: dict[str, Callable[[Path], bytes]] = {
    "JPEG lossless": lambda to: by_gdcm(grey16(), KINDS.JPEGLosslessProcess14_1, to),
    "JPEG-LS": lambda to: by_gdcm(grey16(), KINDS.JPEGLSLossless, to),
    "JPEG 2000": lambda to: by_gdcm(grey16(), KINDS.JPEG2000Lossless, to),
    "RLE": lambda to: by_gdcm(grey16(), KINDS.RLELossless, to),
    "JPEG baseline": lambda _: framed(grey8(), uid.JPEGBaseline8Bit, jpeg(picture())),
}
FOUND_AS = {"JPEG 2000": b"\xff\x4f\xff\x51", "JPEG-LS": b"\xff\xf7"}  # SIZ, SOF55
FOUND_AS |= {"JPEG baseline": b"\xff\xc0", "JPEG lossless": b"\xff\xc3"}  # SOF0, SOF3


def grey16() -> Dataset:
    return dataset(picture(16), Modality="DX", WindowCenter=32768, WindowWidth=65536)


def grey8() -> Dataset:
    return dataset(picture(), Modality="DX")


@pytest.fixture
def shown(tmp_path: Path) -> Callable[[bytes], Grey]:
    """The grey values of a file."""

    def show(content: bytes) -> Grey:
        (tmp_path / "x").write_bytes(content)
        return np.asarray(read(tmp_path / "x").image)

    return show


# --- grey values ---------------------------------------------------------------------------------


def by_formula(value: float, centre: float, width: float, function: str) -> float:
    """DICOM PS3.3, C.11.2.1.2 and C.11.2.1.3, for an output from 0 to 255."""
    if function == "SIGMOID":
        return 255 / (1 + math.exp(-4 * (value - centre) / width))
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    if value <= centre - width / 2:
        return 0
    if value > centre + width / 2:
        return 255
    return ((value - centre) / width + 0.5) * 255


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("colours", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    ("bits", "signed", "slope", "intercept", "centre", "width"),
    [
        (8, False, 1, 0, 100, 120),
        (12, False, 1, 0, 2048, 4096),
        (12, True, 1, 0, 40.5, 1500),
        (12, False, 2.5, -1024, 300, 4000),
        (16, False, 1, 0, 30000, 20000),
        (16, True, -0.5, 100, 0, 9000),
    ],
)
def test_a_window_is_applied_as_the_standard_says(
    shown: Callable[[bytes], Grey],
    function: str,
    colours: str,
    bits: int,
    signed: bool,
    slope: float,
    intercept: float,
    centre: float,
    width: float,
) -> None:
    pixels = ramp(bits, signed)
    rescale = {"RescaleSlope": slope, "RescaleIntercept": intercept}
    window = {"WindowCenter": centre, "WindowWidth": width, "VOILUTFunction": function}
    made = dataset(pixels, bits, PhotometricInterpretation=colours, **rescale, **window)
    values = pixels * float(slope) + intercept
    wanted = np.array(
        [by_formula(value, centre, width, function) for value in values.ravel()]
    ).reshape(values.shape)
    found = shown(content_of(made)).astype(float)
    if colours == "MONOCHROME1":
        found = 255 - found
    np.testing.assert_allclose(found, wanted, atol=0.51)
    ends = [(pixels.dtype.kind == "i") * -(2 ** (bits - 1)) + top for top in (0, 2**bits - 1)]
    ends = sorted(end * slope + intercept for end in ends)
    if slope > 0:  # of negative slopes pydicom exchanges black and white
        other = np.interp(apply_windowing(values, made), ends, [0, 255])
        np.testing.assert_allclose(found, other, atol=1)


@pytest.mark.parametrize("first", [0, 500, -300])
def test_the_first_voi_table_is_applied_before_any_window(
    shown: Callable[[bytes], Grey], first: int
) -> None:
    pixels = ramp(12, signed=first < 0)
    curve = np.linspace(0, 1023, 1000) ** 2 // 1023
    tables = table(first, curve, 10)
    made = dataset(pixels, 12, VOILUTSequence=tables, WindowCenter=1, WindowWidth=2)
    if first < 0:
        made["VOILUTSequence"].value[0]["LUTDescriptor"].VR = "SS"
        made["VOILUTSequence"].value[0]["LUTDescriptor"].value = [1000, first, 10]
    places = np.clip(pixels.astype(int) - first, 0, 999)
    np.testing.assert_allclose(shown(content_of(made)), curve[places] / 1023 * 255, atol=0.51)
    other = apply_voi_lut(pixels, made, prefer_lut=True)
    np.testing.assert_allclose(shown(content_of(made)), other / 1023 * 255, atol=0.51)


@pytest.mark.parametrize(("used", "declared"), [(12, 16), (12, 8), (8, 12), (16, 12), (12, 0)])
def test_a_voi_table_is_scaled_by_the_bits_that_its_entries_use(
    tmp_path: Path, used: int, declared: int
) -> None:
    pixels = ramp(12)
    curve = np.linspace(0, 2**used - 1, 4096).astype(int)
    tables = table(0, curve, declared)
    (tmp_path / "x").write_bytes(content_of(dataset(pixels, 12, VOILUTSequence=tables)))
    found = read(tmp_path / "x")
    np.testing.assert_allclose(found.image, curve[pixels] / (2**used - 1) * 255, atol=0.51)
    assert found.notes == (radiograph.OTHER_TABLE,)


def test_a_voi_table_may_have_an_entry_for_each_of_16_bits(tmp_path: Path) -> None:
    """Their number, 65536, is written as 0."""
    pixels, curve = ramp(16), np.arange(2**16)[::-1]
    made = dataset(pixels, VOILUTSequence=table(0, curve, 16))
    (tmp_path / "x").write_bytes(content_of(made))
    found = read(tmp_path / "x")
    assert found.notes == ()
    np.testing.assert_allclose(found.image, curve[pixels] / 65535 * 255, atol=0.51)


def test_a_voi_table_may_begin_in_the_upper_half_of_16_bits(shown: Callable[[bytes], Grey]) -> None:
    """Which is no negative number where the values reach it."""
    pixels, curve = ramp(16), np.arange(20000)
    made = dataset(pixels, VOILUTSequence=table(40000, curve, 15))
    places = np.clip(pixels.astype(int) - 40000, 0, 19999)
    np.testing.assert_allclose(shown(content_of(made)), curve[places] / 32767 * 255, atol=0.51)


@pytest.mark.parametrize("entries", [256, 255])
@pytest.mark.parametrize("vr", ["US", "OW"])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_two_entries_of_a_table_may_share_a_word(
    tmp_path: Path, vr: str, syntax: uid.UID, entries: int
) -> None:
    pixels, curve = np.minimum(ramp(8), entries - 1), np.arange(256)[::-1]
    words = curve[::2] + 256 * curve[1::2]  # the first in the low byte
    tables = table(0, curve[:entries], 8)
    order = "<u2" if syntax == uid.ExplicitVRLittleEndian else ">u2"
    data = words.astype(order).tobytes() if vr == "OW" else words.tolist()
    tables[0].add_new("LUTData", vr, data)
    made = dataset(pixels, VOILUTSequence=tables)
    made.file_meta.TransferSyntaxUID = syntax
    (tmp_path / "x").write_bytes(content_of(made))
    found = read(tmp_path / "x")
    assert found.notes == ()
    np.testing.assert_array_equal(found.image, curve[pixels])


def test_a_table_with_fewer_entries_than_it_says_is_used_and_noted(tmp_path: Path) -> None:
    pixels, curve = ramp(12), np.arange(4000)
    tables = table(0, curve, 12)
    tables[0].LUTDescriptor = [4096, 0, 12]
    (tmp_path / "x").write_bytes(content_of(dataset(pixels, 12, VOILUTSequence=tables)))
    found = read(tmp_path / "x")
    assert found.notes == (radiograph.OTHER_TABLE,)
    np.testing.assert_allclose(found.image, np.minimum(pixels, 3999) / 4095 * 255, atol=0.51)


def test_a_modality_table_is_applied_before_the_window(shown: Callable[[bytes], Grey]) -> None:
    pixels = ramp(12)
    curve = 5000 - np.arange(4096)
    tables = table(0, curve, 16)
    made = dataset(
        pixels, 12, ModalityLUTSequence=tables, WindowCenter=3000, WindowWidth=3000, RescaleSlope=9
    )
    wanted = [by_formula(5000 - int(value), 3000, 3000, "LINEAR") for value in pixels.ravel()]
    found = shown(content_of(made))
    np.testing.assert_allclose(found.ravel(), wanted, atol=0.51)
    values = apply_modality_lut(pixels, made)
    np.testing.assert_array_equal(values, curve[pixels])


@pytest.mark.parametrize("colours", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_not_a_part_of_the_range(
    shown: Callable[[bytes], Grey], colours: str
) -> None:
    pixels = np.array([[0, 60000, 61000], [1000, 2000, 3000]], np.uint16)
    made = dataset(pixels, PhotometricInterpretation=colours)
    made.add_new("PixelPaddingValue", "US", 60000)
    made.add_new("PixelPaddingRangeLimit", "US", 65535)
    black_to_white = [[0, 0, 0], [85, 170, 255]]
    inverse = [[255, 0, 0], [170, 85, 0]]
    found = shown(content_of(made))
    assert found.tolist() == (inverse if colours == "MONOCHROME1" else black_to_white)


@pytest.mark.parametrize("bits", [1, 4, 7])
def test_without_a_window_fewer_bits_use_all_of_the_range(
    shown: Callable[[bytes], Grey], bits: int
) -> None:
    pixels = picture(bits)
    expected = np.rint(255 * (pixels / (2**bits - 1)))
    np.testing.assert_array_equal(shown(content_of(dataset(pixels, bits))), expected)


def test_without_a_window_8_bits_stay_as_they_are(shown: Callable[[bytes], Grey]) -> None:
    pixels = picture() // 2 + 20
    np.testing.assert_array_equal(shown(content_of(dataset(pixels))), pixels)
    inverted = dataset(pixels, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(shown(content_of(inverted)), 255 - pixels)


def test_without_a_window_deep_data_fill_the_range_but_for_outliers(
    shown: Callable[[bytes], Grey],
) -> None:
    pixels = np.linspace(1000, 3000, 4000).astype(np.uint16).reshape(40, 100)
    pixels[0, 0], pixels[-1, -1] = 0, 65535
    low, high = np.sort(pixels.ravel())[[20, -21]].astype(float)
    wanted = np.clip((pixels - low) / (high - low), 0, 1) * 255
    np.testing.assert_allclose(shown(content_of(dataset(pixels))), wanted, atol=1)


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": 5000, "WindowWidth": 10},
        {"WindowCenter": 9, "WindowWidth": 0},
        {"WindowCenter": 9, "WindowWidth": 9, "VOILUTFunction": "CUBIC"},
        {"VOILUTSequence": table(0, np.zeros(256), 8)},
    ],
    ids=["beside all values", "no width", "unknown function", "table of zeros"],
)
def test_a_useless_window_is_told_and_passed_over(tmp_path: Path, tags: dict[str, Any]) -> None:
    (tmp_path / "x").write_bytes(content_of(dataset(picture(), **tags)))
    found = read(tmp_path / "x")
    assert found.notes == (radiograph.NO_WINDOW,)
    np.testing.assert_array_equal(np.asarray(found.image), picture())


def test_a_window_beside_the_values_in_use_is_told_and_passed_over(tmp_path: Path) -> None:
    pixels = np.arange(1000, 1024, dtype=np.uint16).reshape(4, 6)
    made = dataset(pixels, WindowCenter=5000, WindowWidth=10)
    (tmp_path / "x").write_bytes(content_of(made))
    found = read(tmp_path / "x")
    assert found.notes == (radiograph.NO_WINDOW,)
    np.testing.assert_allclose(found.image, (pixels - 1000) / 23 * 255, atol=0.51)


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": "", "WindowWidth": ""},
        {"WindowCenter": None, "WindowWidth": ""},
        {"WindowCenter": ["", ""], "WindowWidth": ["", ""]},
        {"VOILUTSequence": [Dataset()]},
        {"ModalityLUTSequence": [Dataset()]},
        {"VOILUTSequence": []},
    ],
    ids=str,
)
def test_empty_window_tags_are_absent(tmp_path: Path, tags: dict[str, Any]) -> None:
    made = dataset(picture(), WindowCenter="", WindowWidth="")
    for keyword, value in tags.items():
        setattr(made, keyword, value)
    (tmp_path / "x").write_bytes(content_of(made))
    found = read(tmp_path / "x")
    assert found.notes == ()
    np.testing.assert_array_equal(np.asarray(found.image), picture())


def test_a_window_without_its_width_is_told(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content_of(dataset(picture(), WindowCenter=9, WindowWidth="")))
    assert read(tmp_path / "x").notes == (radiograph.NO_WINDOW,)


def test_equal_channels_are_no_colours(tmp_path: Path) -> None:
    pixels = np.repeat(picture()[..., np.newaxis], 3, axis=2)
    (tmp_path / "rgb").write_bytes(content_of(dataset(pixels)))
    palette = dataset(picture(), PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        palette.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
        data = (np.arange(256) * 257).astype("<u2").tobytes()
        palette.add_new(f"{colour}PaletteColorLookupTableData", "OW", data)
    (tmp_path / "palette").write_bytes(content_of(palette))
    for name in ("rgb", "palette"):
        found = read(tmp_path / name)
        assert (found.coloured, found.notes) == (False, ())
        np.testing.assert_array_equal(found.image, picture())


def test_channels_of_12_bits_are_not_dark(tmp_path: Path) -> None:
    pixels = np.repeat(picture(12)[..., np.newaxis], 3, axis=2)
    (tmp_path / "x").write_bytes(content_of(dataset(pixels, 12)))
    found = read(tmp_path / "x")
    assert (found.coloured, found.notes) == (False, ())
    np.testing.assert_array_equal(found.image, picture(12) >> 4)


@pytest.mark.parametrize("frames", ["0", "1", ""])
def test_a_number_of_frames_that_means_one_image(
    shown: Callable[[bytes], Grey], frames: str
) -> None:
    made = dataset(picture(), NumberOfFrames=frames)
    np.testing.assert_array_equal(shown(content_of(made)), picture())


def test_a_palette_of_8_bits_in_words_of_16_is_not_black(tmp_path: Path) -> None:
    made = dataset(picture(), PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        made.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
        made.add_new(
            f"{colour}PaletteColorLookupTableData", "OW", np.arange(256, dtype="<u2").tobytes()
        )
    (tmp_path / "x").write_bytes(content_of(made))
    found = read(tmp_path / "x")
    np.testing.assert_array_equal(found.image, picture())
    assert found.notes == (radiograph.OTHER_TABLE,)


def test_colours_become_luminance(tmp_path: Path) -> None:
    pixels = picture(8, channels=3)
    (tmp_path / "x").write_bytes(content_of(dataset(pixels)))
    found = read(tmp_path / "x")
    wanted = pixels @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(np.asarray(found.image), wanted, atol=1)
    assert (found.coloured, found.width, found.height) == (True, 16, 24)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_bits_beyond_bits_stored_are_left_out_and_noted(
    tmp_path: Path, syntax: uid.UID, signed: bool
) -> None:
    pixels = ramp(12, signed)
    low = pixels.view("u2") & 0xFFF  # of negative values without the copies of the sign
    window = {"WindowCenter": 0 if signed else 2048, "WindowWidth": 4096}
    found = []
    for values in (pixels.view("u2"), low, low | 0x2000):
        made = dataset(values, 12, PixelRepresentation=int(signed), **window)
        made.file_meta.TransferSyntaxUID = syntax
        if syntax == uid.ExplicitVRBigEndian:
            made["PixelData"].value = values.astype(">u2").tobytes()
        (tmp_path / "x").write_bytes(content_of(made))
        found.append(read(tmp_path / "x"))
        np.testing.assert_array_equal(found[-1].image, found[0].image)
    assert [one.notes for one in found] == [(), (), (radiograph.MORE_BITS,)]
    assert np.ptp(np.asarray(found[0].image)) == 255


LITTLE = {
    "black": dataset(picture(4).astype(np.uint16), 16, WindowCenter=32768, WindowWidth=65536),
    "white": dataset(picture(), WindowCenter=-400, WindowWidth=1000),
    "flat": dataset(picture(4) + 100),
}


@pytest.mark.parametrize("kind", LITTLE)
def test_grey_values_of_little_range_are_noted(tmp_path: Path, kind: str) -> None:
    (tmp_path / "x").write_bytes(content_of(LITTLE[kind]))
    assert read(tmp_path / "x").notes == (radiograph.LITTLE_RANGE,)


def test_12_bits_in_a_png_of_16_are_noted_unless_it_says_so(tmp_path: Path) -> None:
    pixels = picture(12)
    marked = pixels.copy()
    marked[0, 0] = 65535  # as a letter drawn in white; of 384 pixels it is less than 0.5 %
    for name, values in (("plain.png", pixels), ("marked.png", marked)):
        Image.fromarray(values).save(tmp_path / name)
        assert read(tmp_path / name).notes == (radiograph.LITTLE_RANGE,)
    content = (tmp_path / "plain.png").read_bytes()
    chunk = b"sBIT\x0c"
    chunk = struct.pack(">I", 1) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "sbit.png").write_bytes(content[:33] + chunk + content[33:])
    found = read(tmp_path / "sbit.png")
    assert found.notes == ()
    np.testing.assert_allclose(found.image, pixels / 4095 * 255, atol=1)


def test_palette_colours_become_luminance(shown: Callable[[bytes], Grey]) -> None:
    pixels = ramp(8, side=16)
    made = dataset(pixels, PhotometricInterpretation="PALETTE COLOR")
    curves = [np.arange(256), np.arange(256)[::-1], np.arange(256) // 2]
    for colour, curve in zip(("Red", "Green", "Blue"), curves, strict=True):
        made.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
        data = (curve * 257).astype("<u2").tobytes()
        made.add_new(f"{colour}PaletteColorLookupTableData", "OW", data)
    wanted = np.stack([curve[pixels] for curve in curves], -1) @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(shown(content_of(made)), wanted, atol=1)
    other = apply_color_lut(pixels, made) @ np.array([0.299, 0.587, 0.114]) / 257
    np.testing.assert_allclose(shown(content_of(made)), other, atol=1)


# --- transfer syntaxes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "syntax",
    [uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian],
    ids=["implicit", "big-endian", "deflated"],
)
@pytest.mark.parametrize("bits", [8, 16])
def test_the_same_pixels_however_written(
    shown: Callable[[bytes], Grey], syntax: uid.UID, bits: int
) -> None:
    wanted = shown(content_of(dataset(picture(bits))))
    made = dataset(picture(bits))
    made.file_meta.TransferSyntaxUID = syntax
    if syntax == uid.ExplicitVRBigEndian and bits == 16:
        made["PixelData"].value = picture(bits).astype(">u2").tobytes()
    np.testing.assert_array_equal(shown(content_of(made)), wanted)


@pytest.mark.parametrize("lacks", ["preamble", "preamble and header"])
@pytest.mark.parametrize(
    ("syntax", "begin"),
    [
        (uid.ExplicitVRLittleEndian, b"\x08\0\x16\0"),
        (uid.ImplicitVRLittleEndian, b"\x08\0\x16\0"),
        (uid.ExplicitVRBigEndian, b"\0\x08\0\x16"),
    ],
    ids=["explicit", "implicit", "big-endian"],
)
def test_the_same_pixels_without_what_precedes_the_tags(
    shown: Callable[[bytes], Grey], syntax: uid.UID, begin: bytes, lacks: str
) -> None:
    """As some scanners and old archives write them."""
    made = dataset(picture(16))
    wanted = shown(content_of(made))
    made.file_meta.TransferSyntaxUID = syntax
    if syntax == uid.ExplicitVRBigEndian:
        made["PixelData"].value = picture(16).astype(">u2").tobytes()
    content = content_of(made)
    bare = content[132:] if lacks == "preamble" else content[content.index(begin) :]
    np.testing.assert_array_equal(shown(bare), wanted)


@pytest.mark.parametrize("kind", [kind for kind in PACKED if kind != "JPEG baseline"])
def test_the_same_pixels_however_compressed(
    shown: Callable[[bytes], Grey], kind: str, tmp_path: Path
) -> None:
    wanted = shown(content_of(grey16()))
    np.testing.assert_array_equal(shown(PACKED[kind](tmp_path)), wanted)


@pytest.mark.parametrize(
    "kind", ["JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless", "RLELossless"]
)
@pytest.mark.parametrize(
    ("pixels", "bits"),
    [(ramp(12, signed=True), 12), (ramp(16, signed=True), 16), (picture(8, 3), 8)],
    ids=["12 bits signed", "16 bits signed", "colours"],
)
def test_the_same_signed_values_and_colours_however_compressed(
    shown: Callable[[bytes], Grey], kind: str, pixels: NDArray[Any], bits: int, tmp_path: Path
) -> None:
    made = dataset(pixels, bits, WindowCenter=0, WindowWidth=4000)
    wanted = shown(content_of(made))
    packed = by_gdcm(made, getattr(KINDS, kind), tmp_path)
    np.testing.assert_array_equal(shown(packed), wanted)


@pytest.mark.parametrize("channels", [0, 3])
def test_nearly_the_same_pixels_as_baseline_jpeg(
    shown: Callable[[bytes], Grey], channels: int
) -> None:
    pixels = picture(8, channels)
    wanted = shown(content_of(dataset(pixels))).astype(int)
    colours = {"PhotometricInterpretation": "YBR_FULL_422"} if channels else {}
    packed = framed(dataset(pixels, **colours), uid.JPEGBaseline8Bit, jpeg(pixels))
    np.testing.assert_allclose(shown(packed), wanted, atol=6)


# --- refused -------------------------------------------------------------------------------------


def changed(content: bytes, after: bytes, offset: int, value: bytes) -> bytes:
    """Bytes at an offset from a marker within PixelData are others."""
    start = content.index(after, content.index(b"\xe0\x7f\x10\x00")) + offset
    return content[:start] + value + content[start + len(value) :]


def bomb() -> bytes:
    made = grey8()
    made.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    content = content_of(made)
    packer = zlib.compressobj(wbits=-15)
    head = struct.pack("<HH2sHI", 8, 0x70, b"UT", 0, 150_000_000)
    packed = b"".join(packer.compress(part) for part in (head, *[bytes(10**6)] * 150))
    start = 132 + 12 + struct.unpack_from("<I", content, 140)[0]
    return content[:start] + packed + packer.flush()


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
    "more rows than pixels": (tagged(Rows=25), "cut off"),
    "fewer rows than pixels": (tagged(Rows=12), "more than one image"),
    "two frames": (tagged(NumberOfFrames=2), "NumberOfFrames"),
    "odd bits": (tagged(BitsAllocated=12), "BitsAllocated"),
    "more bits than there are": (tagged(BitsStored=12), "BitsStored"),
    "bits in an unusual place": (tagged(HighBit=3), "HighBit"),
    "samples of colours": (tagged(SamplesPerPixel=3), "SamplesPerPixel"),
    "no sign": (tagged(PixelRepresentation=2), "PixelRepresentation"),
    "slope of nothing": (tagged(RescaleSlope=0, RescaleIntercept=0), "RescaleSlope"),
    "all padding": (lambda: all_padding(), "padding"),
    "cut off": (lambda: content_of(grey8())[:-50], "cut off"),
    "inflates to a bomb": (bomb, "bomb"),
    "a film": (lambda: framed(grey8(), uid.MPEG4HP41, b"1234"), "film"),
    "of high throughput": (lambda: framed(grey8(), uid.HTJ2K, b"1234"), "cannot be read"),
    "12-bit JPEG": (
        lambda: framed(
            dataset(picture(12), 12), uid.JPEGExtended12Bit, changed12(jpeg(picture(8)))
        ),
        "12 bits",
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
        "no JPEG",
    ),
}


def all_padding() -> bytes:
    made = dataset(np.full((4, 4), 7, np.uint8))
    made.add_new("PixelPaddingValue", "US", 7)
    return content_of(made)


def changed12(frame: bytes) -> bytes:
    return frame.replace(b"\xff\xc0\0\x0b\x08", b"\xff\xc1\0\x0b\x0c")


def two_headers(frame: bytes) -> bytes:
    """The first as it should be, the second of 65535 x 65535."""
    start = frame.index(b"\xff\xc0")
    header = frame[start : start + 13]
    return frame[: start + 13] + header[:5] + b"\xff" * 4 + header[9:] + frame[start + 13 :]


def refused(content: bytes, folder: Path) -> str:
    """Why, without the file's name."""
    path = folder / "bad.dcm"
    path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert caught.value.__cause__ is caught.value.__context__ is None
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.fixture
def no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders get nothing to see."""

    def never(*_: Any) -> Any:
        pytest.fail("a decoder saw what should have been refused")

    monkeypatch.setattr(radiograph, "_decoded_apart", never)


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_refused_by_name_before_any_decoder(
    kind: str, tmp_path: Path, no_decoder: None
) -> None:
    make, reason = BAD[kind]
    assert reason in refused(make(), tmp_path)


@pytest.mark.parametrize("kind", FOUND_AS)
def test_a_forged_size_is_refused_at_once(kind: str, tmp_path: Path, no_decoder: None) -> None:
    one_tile = struct.pack(">8I", *[65535, 65535, 0, 0] * 2)
    offset, value = (8, one_tile) if kind == "JPEG 2000" else (5, b"\xff" * 4)
    content = changed(PACKED[kind](tmp_path), FOUND_AS[kind], offset, value)
    before = time.process_time()
    assert "another size" in refused(content, tmp_path)
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
def test_more_bits_than_the_tags_say_are_refused(
    kind: str, tmp_path: Path, no_decoder: None
) -> None:
    offset, bits = (42, b"\x10") if kind == "JPEG 2000" else (4, b"\x11")
    content = changed(PACKED[kind](tmp_path), FOUND_AS[kind], offset, bits)
    assert "more bits" in refused(content, tmp_path)


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
def test_what_follows_the_end_of_a_frame_is_passed_over(
    shown: Callable[[bytes], Grey], kind: str, padding: bytes, tmp_path: Path
) -> None:
    whole = PACKED[kind](tmp_path)
    found = dcmread(io.BytesIO(whole))
    frame = get_frame(found.PixelData, 0, number_of_frames=1).rstrip(b"\0")
    padded = framed(found, found.file_meta.TransferSyntaxUID, frame + padding)
    np.testing.assert_array_equal(shown(padded), shown(whole))


def test_an_end_within_the_header_of_a_frame_is_none(tmp_path: Path, no_decoder: None) -> None:
    frame = jpeg(picture(), comment=b"\xff\xd9").rstrip(b"\0")
    assert "no end" in refused(framed(grey8(), uid.JPEGBaseline8Bit, frame[:-2]), tmp_path)


@pytest.mark.parametrize(
    "ending",
    ["import os; os.abort()", "print('x')", "raise ValueError", "import time; time.sleep(99)"],
)
def test_a_decoder_that_crashes_takes_nothing_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    (tmp_path / "decoder.py").write_text(ending)
    monkeypatch.setattr(radiograph, "DECODER", str(tmp_path / "decoder.py"))
    monkeypatch.setattr(radiograph, "DECODER_SECONDS", 3)
    assert "damaged" in refused(PACKED["JPEG baseline"](tmp_path), tmp_path)


def spoiled(content: bytes, numbers: np.random.Generator) -> bytes:
    """Some bytes are others; every tenth is cut off."""
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
def test_spoiled_files_are_read_or_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without GDCM, whose process would take its time for each of them."""
    plain = np.zeros((24, 16), np.uint8)
    monkeypatch.setattr(radiograph, "_decoded_apart", lambda *_: (plain, "MONOCHROME2"))
    made = grey8()
    if kind == "deflated":
        made.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    content = PACKED[kind](tmp_path) if kind in PACKED else content_of(made)
    numbers = np.random.default_rng(7)
    try_all((spoiled(content, numbers) for _ in range(300)), tmp_path / "x")


@pytest.mark.parametrize("kind", FOUND_AS)
def test_spoiled_pixels_are_decoded_or_refused(kind: str, tmp_path: Path) -> None:
    content = PACKED[kind](tmp_path)
    start = content.index(b"\xe0\x7f\x10\x00") + 28  # after the fragment's header
    numbers = np.random.default_rng(7)
    ends = (content[:start] + spoiled(content[start:-10], numbers) for _ in range(12))
    try_all((end + content[-10:] for end in ends), tmp_path / "x")


# --- privacy -------------------------------------------------------------------------------------

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
    """Text tags, all of a kind, hold the secret; and so does a tag that wants another value."""
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


def told_by(path: Path) -> str:
    """All that a call says: the result, or the error with what is chained to it."""
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
def test_nothing_names_a_patient(
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
        told = told_by(path)
    out, err = capfd.readouterr()
    told += f"{out} {err} {caplog.text} {[str(one.message) for one in warned]}"
    assert "SECRET7" not in told
    assert not warned and not out and not err and not caplog.text


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_comments_of_pictures_are_dropped(kind: str, tmp_path: Path) -> None:
    exif, text = Image.Exif(), PngInfo()
    exif[0x010E] = "SECRET7"
    text.add_text("SECRET7", "SECRET7")
    options = {"comment": b"SECRET7"} if kind == "JPEG" else {"pnginfo": text}
    Image.fromarray(picture()).save(tmp_path / "x", kind, exif=exif, **options)
    assert (tmp_path / "x").read_bytes().count(b"SECRET7") >= 2
    assert "SECRET7" not in told_by(tmp_path / "x")
    read(tmp_path / "x").image.save(tmp_path / "y.png")
    assert b"SECRET7" not in (tmp_path / "y.png").read_bytes()


# --- pictures, and what is odd about files -------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("channels", [0, 3])
def test_a_picture_gives_the_pixels_that_the_pipeline_trains_on(
    kind: str, channels: int, tmp_path: Path
) -> None:
    Image.fromarray(picture(8, channels)).save(tmp_path / "x", kind)
    found = read(tmp_path / "x")
    assert (found.coloured, found.notes) == (channels == 3, ())
    assert (found.width, found.height) == (16, 24)
    np.testing.assert_array_equal(
        found.image, to_grey(decode((tmp_path / "x").read_bytes(), tmp_path / "x"))
    )


def test_grey_in_three_channels_is_not_coloured(tmp_path: Path) -> None:
    Image.fromarray(picture()).convert("RGB").save(tmp_path / "x", "JPEG")
    assert not read(tmp_path / "x").coloured


@pytest.mark.parametrize("enough", [0, 20])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_that_of_the_upright_original(
    enough: int, orientation: int, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.kron(picture(8, 3), np.ones((8, 8, 1), np.uint8))
    Image.fromarray(pixels).save(tmp_path / "x", "JPEG", exif=exif)
    found = read(tmp_path / "x", enough)
    wanted = (192, 128) if orientation > 4 else (128, 192)
    assert (found.width, found.height) == wanted
    scale = found.width // found.image.width
    assert found.image.size == (wanted[0] // scale, wanted[1] // scale)
    assert (scale > 1, found.coloured) == (enough > 0, True)


@pytest.mark.parametrize(
    ("tags", "notes"),
    [
        ({}, ()),
        ({"Modality": "DX", "BodyPartExamined": "PORT CHEST", "ViewPosition": "AP"}, ()),
        ({"Modality": "DR", "ViewPosition": "LLD"}, ()),
        *(
            ({"BodyPartExamined": word}, ())
            for word in (
                *("TORAX", "TÓRAX PA", "PECHO", "PULMONES", "PEITO", "PULMÃO", "TORACE", "petto"),
                *("POLMONI", "THORAX", "POITRINE", "POUMONS", "BRUSTKORB", "LUNGE", "CHEST_PA"),
                *("BRUST", "BRUST_AP", "T\xc3\x93RAX"),  # UTF-8, read as Latin-1
            )
        ),
        ({"BodyPartExamined": "BRUSTWIRBELSAULE"}, (radiograph.OTHER_PART,)),
        *(
            ({"ViewPosition": word}, (radiograph.OTHER_VIEW,))
            for word in ("LATERALE", "L LATERAL", "CHEST_LAT", "PERFIL", "PROFIL", "SEITLICH")
        ),
        ({"ViewPosition": "LATERAL DECUBITUS"}, ()),
        ({"PresentationIntentType": "FOR PROCESSING"}, (radiograph.FOR_PROCESSING,)),
        ({"PresentationIntentType": "FOR PRESENTATION"}, ()),
        (
            {"SOPClassUID": uid.DigitalXRayImageStorageForProcessing},
            (radiograph.FOR_PROCESSING,),
        ),
        ({"Modality": "CT"}, (radiograph.OTHER_MODALITY,)),
        ({"BodyPartExamined": "HAND"}, (radiograph.OTHER_PART,)),
        ({"ViewPosition": "LL"}, (radiograph.OTHER_VIEW,)),
        (
            {"Modality": "MR", "ViewPosition": "lateral"},
            (radiograph.OTHER_MODALITY, radiograph.OTHER_VIEW),
        ),
    ],
)
def test_what_is_no_frontal_chest_radiograph_is_noted(
    tags: dict[str, str], notes: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "x").write_bytes(content_of(dataset(picture(), **tags)))
    found = read(tmp_path / "x")
    assert found.notes == notes
