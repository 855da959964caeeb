"""Files of any kind: shown as the standards say, refused by one error, and silent about patients.

DICOM files are written here. Their grey values are worked out again, pixel by pixel, by the formulae
of DICOM PS3.3, C.11.2; pydicom's own functions are a second opinion.
"""

import io
import logging
import math
import struct
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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

from cxr import radiograph
from cxr.images import ImageError, open_image, to_grey
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
    [{"WindowCenter": 5000, "WindowWidth": 10}, {"WindowCenter": 9, "WindowWidth": 0}]
    + [{"WindowCenter": 9, "WindowWidth": 9, "VOILUTFunction": "CUBIC"}],
    ids=["beside all values", "no width", "unknown function"],
)
def test_a_useless_window_is_told_and_passed_over(tmp_path: Path, tags: dict[str, Any]) -> None:
    (tmp_path / "x").write_bytes(content_of(dataset(picture(), **tags)))
    found = read(tmp_path / "x")
    assert found.notes == (radiograph.NO_WINDOW,)
    np.testing.assert_array_equal(np.asarray(found.image), picture())


def test_colours_become_luminance(tmp_path: Path) -> None:
    pixels = picture(8, channels=3)
    (tmp_path / "x").write_bytes(content_of(dataset(pixels)))
    found = read(tmp_path / "x")
    wanted = pixels @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(np.asarray(found.image), wanted, atol=1)
    assert (found.coloured, found.width, found.height) == (True, 16, 24)


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


@pytest.mark.parametrize("kind", [kind for kind in PACKED if kind != "JPEG baseline"])
def test_the_same_pixels_however_compressed(
    shown: Callable[[bytes], Grey], kind: str, tmp_path: Path
) -> None:
    wanted = shown(content_of(grey16()))
    np.testing.assert_array_equal(shown(PACKED[kind](tmp_path)), wanted)


@pytest.mark.parametrize("channels", [0, 3])
def test_nearly_the_same_pixels_as_baseline_jpeg(
    shown: Callable[[bytes], Grey], channels: int
) -> None:
    pixels = picture(8, channels)
    wanted = shown(content_of(dataset(pixels))).astype(int)
    colours = {"PhotometricInterpretation": "YBR_FULL_422"} if channels else {}
    packed = framed(dataset(pixels, **colours), uid.JPEGBaseline8Bit, jpeg(pixels))
    np.testing.assert_allclose(shown(packed), wanted, atol=6)
