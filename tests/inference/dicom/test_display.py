"""Gray values of DICOM files agree with the formulas of DICOM PS3.3, C.11.2, for each pixel."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset

from cxr.inference.dicom import display
from tests.support.dicom_files import (
    content_of,
    dataset,
    picture,
    radiograph_of,
    ramp,
    shown,
    table,
)

# As outside of tests: warnings of libraries are not errors.
pytestmark = pytest.mark.filterwarnings("ignore")


def by_formula(value: float, center: float, width: float, function: str) -> float:
    """DICOM PS3.3, C.11.2.1.2 and C.11.2.1.3, for an output from 0 to 255."""
    if function == "SIGMOID":
        return 255 / (1 + math.exp(-4 * (value - center) / width))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    if value <= center - width / 2:
        return 0
    if value > center + width / 2:
        return 255
    return ((value - center) / width + 0.5) * 255


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("colors", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    ("bits", "signed", "slope", "intercept", "center", "width"),
    [
        (8, False, 1, 0, 100, 120),
        (12, False, 1, 0, 2048, 4096),
        (12, True, 1, 0, 40.5, 1500),
        (12, False, 2.5, -1024, 300, 4000),
        (16, False, 1, 0, 30000, 20000),
        (16, True, -0.5, 100, 0, 9000),
    ],
)
def test_a_window_is_applied_by_the_formulas_of_the_standard(
    function: str,
    colors: str,
    bits: int,
    signed: bool,
    slope: float,
    intercept: float,
    center: float,
    width: float,
) -> None:
    pixels = ramp(bits, signed)
    rescale = {"RescaleSlope": slope, "RescaleIntercept": intercept}
    window = {"WindowCenter": center, "WindowWidth": width, "VOILUTFunction": function}
    made = dataset(pixels, bits, PhotometricInterpretation=colors, **rescale, **window)
    values = pixels * float(slope) + intercept
    expected = np.array(
        [by_formula(value, center, width, function) for value in values.ravel()]
    ).reshape(values.shape)
    found = shown(content_of(made)).astype(float)
    if colors == "MONOCHROME1":
        found = 255 - found
    np.testing.assert_allclose(found, expected, atol=0.51)


@pytest.mark.parametrize("first", [0, 500, -300])
def test_the_first_voi_table_is_applied_before_any_window(first: int) -> None:
    pixels = ramp(12, signed=first < 0)
    curve = np.linspace(0, 1023, 1000) ** 2 // 1023
    tables = table(first, curve, 10)
    made = dataset(pixels, 12, VOILUTSequence=tables, WindowCenter=1, WindowWidth=2)
    if first < 0:
        made["VOILUTSequence"].value[0]["LUTDescriptor"].VR = "SS"
        made["VOILUTSequence"].value[0]["LUTDescriptor"].value = [1000, first, 10]
    places = np.clip(pixels.astype(int) - first, 0, 999)
    np.testing.assert_allclose(shown(content_of(made)), curve[places] / 1023 * 255, atol=0.51)


@pytest.mark.parametrize(("used", "declared"), [(12, 16), (12, 8), (8, 12), (16, 12), (12, 0)])
def test_a_voi_table_is_scaled_by_the_bits_that_its_entries_use(used: int, declared: int) -> None:
    pixels = ramp(12)
    curve = np.linspace(0, 2**used - 1, 4096).astype(int)
    tables = table(0, curve, declared)
    found = radiograph_of(dataset(pixels, 12, VOILUTSequence=tables))
    np.testing.assert_allclose(found.image, curve[pixels] / (2**used - 1) * 255, atol=0.51)
    assert found.notes == (display.WRONG_DESCRIPTOR,)


@pytest.mark.parametrize(
    ("bits", "first", "curve", "slope"),
    [
        (16, 0, np.arange(2**16)[::-1], 1),  # the number of entries is stored as 0
        (16, 40000, np.arange(2**15)[:20000], 1),  # not taken for a negative number
        (12, 40000, np.arange(2**15)[:20000], 40),  # pydicom alone would wrap the values around
    ],
    ids=["65536 entries", "from above 32767", "rescaled values of more than 16 bits"],
)
def test_a_voi_table_of_16_bits(bits: int, first: int, curve: NDArray[Any], slope: int) -> None:
    pixels, used = ramp(bits), int(curve.max()).bit_length()
    made = dataset(pixels, bits, RescaleSlope=slope, RescaleIntercept=0)
    made.VOILUTSequence = table(first, curve, used)
    found = radiograph_of(made)
    assert found.notes == ()
    places = np.clip(pixels * float(slope) - first, 0, len(curve) - 1).astype(int)
    np.testing.assert_allclose(found.image, curve[places] / (2**used - 1) * 255, atol=0.51)


@pytest.mark.parametrize("entries", [256, 255])
@pytest.mark.parametrize("vr", ["US", "OW"])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_two_entries_of_a_table_may_share_a_word(vr: str, syntax: uid.UID, entries: int) -> None:
    pixels, curve = np.minimum(ramp(8), entries - 1), np.arange(256)[::-1]
    words = curve[::2] + 256 * curve[1::2]  # the first in the low byte
    tables = table(0, curve[:entries], 8)
    order = "<u2" if syntax == uid.ExplicitVRLittleEndian else ">u2"
    data = words.astype(order).tobytes() if vr == "OW" else words.tolist()
    tables[0].add_new("LUTData", vr, data)
    made = dataset(pixels, VOILUTSequence=tables)
    made.file_meta.TransferSyntaxUID = syntax
    found = radiograph_of(made)
    assert found.notes == ()
    np.testing.assert_array_equal(found.image, curve[pixels])


def test_a_table_with_fewer_entries_than_declared_is_used_and_noted() -> None:
    pixels, curve = ramp(12), np.arange(4000)
    tables = table(0, curve, 12)
    tables[0].LUTDescriptor = [4096, 0, 12]
    found = radiograph_of(dataset(pixels, 12, VOILUTSequence=tables))
    assert found.notes == (display.WRONG_DESCRIPTOR,)
    np.testing.assert_allclose(found.image, np.minimum(pixels, 3999) / 4095 * 255, atol=0.51)


def test_a_modality_table_is_applied_before_the_window() -> None:
    pixels = ramp(12)
    curve = 5000 - np.arange(4096)
    tables = table(0, curve, 16)
    made = dataset(
        pixels, 12, ModalityLUTSequence=tables, WindowCenter=3000, WindowWidth=3000, RescaleSlope=9
    )
    expected = [by_formula(5000 - int(value), 3000, 3000, "LINEAR") for value in pixels.ravel()]
    np.testing.assert_allclose(shown(content_of(made)).ravel(), expected, atol=0.51)


@pytest.mark.parametrize("colors", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_not_a_part_of_the_range(colors: str) -> None:
    pixels = np.array([[0, 60000, 61000], [1000, 2000, 3000]], np.uint16)
    made = dataset(pixels, PhotometricInterpretation=colors)
    made.add_new("PixelPaddingValue", "US", 60000)
    made.add_new("PixelPaddingRangeLimit", "US", 65535)
    black_to_white = [[0, 0, 0], [85, 170, 255]]
    inverse = [[255, 0, 0], [170, 85, 0]]
    found = shown(content_of(made))
    assert found.tolist() == (inverse if colors == "MONOCHROME1" else black_to_white)


@pytest.mark.parametrize("bits", [1, 4, 7])
def test_without_a_window_fewer_bits_use_the_whole_range(bits: int) -> None:
    pixels = picture(bits)
    expected = np.rint(255 * (pixels / (2**bits - 1)))
    np.testing.assert_array_equal(shown(content_of(dataset(pixels, bits))), expected)


def test_without_a_window_8_bits_are_unchanged() -> None:
    pixels = picture() // 2 + 20
    np.testing.assert_array_equal(shown(content_of(dataset(pixels))), pixels)
    inverted = dataset(pixels, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(shown(content_of(inverted)), 255 - pixels)


def test_without_a_window_deep_data_are_clipped_to_quantiles() -> None:
    pixels = np.linspace(1000, 3000, 4000).astype(np.uint16).reshape(40, 100)
    pixels[0, 0], pixels[-1, -1] = 0, 65535
    low, high = np.sort(pixels.ravel())[[20, -21]].astype(float)
    expected = np.clip((pixels - low) / (high - low), 0, 1) * 255
    np.testing.assert_allclose(shown(content_of(dataset(pixels))), expected, atol=1)


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": 5000, "WindowWidth": 10},
        {"WindowCenter": 9, "WindowWidth": 0},
        {"WindowCenter": 9, "WindowWidth": ""},
        {"WindowCenter": 9, "WindowWidth": 1},
        {"WindowCenter": 9, "WindowWidth": 9, "VOILUTFunction": "CUBIC"},
        {"VOILUTSequence": table(0, np.zeros(256), 8)},
    ],
    ids=["outside", "no width", "empty width", "threshold", "unknown function", "table of zeros"],
)
def test_an_invalid_window_is_noted_and_ignored(tags: dict[str, Any]) -> None:
    found = radiograph_of(dataset(picture(), **tags))
    assert found.notes == (display.NO_WINDOW,)
    np.testing.assert_array_equal(np.asarray(found.image), picture())


def test_a_window_outside_the_used_values_is_noted_and_ignored() -> None:
    pixels = np.arange(1000, 1024, dtype=np.uint16).reshape(4, 6)
    found = radiograph_of(dataset(pixels, WindowCenter=5000, WindowWidth=10))
    assert found.notes == (display.NO_WINDOW,)
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
def test_empty_window_tags_are_absent(tags: dict[str, Any]) -> None:
    made = dataset(picture(), WindowCenter="", WindowWidth="")
    for keyword, value in tags.items():
        setattr(made, keyword, value)
    found = radiograph_of(made)
    assert found.notes == ()
    np.testing.assert_array_equal(np.asarray(found.image), picture())


def with_palette(pixels: NDArray[Any], *curves: NDArray[Any]) -> Dataset:
    """Palette indices with words of 16 bits for red, green and blue."""
    made = dataset(pixels, PhotometricInterpretation="PALETTE COLOR")
    for color, curve in zip(("Red", "Green", "Blue"), curves, strict=True):
        made.add_new(f"{color}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
        data = curve.astype("<u2").tobytes()
        made.add_new(f"{color}PaletteColorLookupTableData", "OW", data)
    return made


LEVELS = np.arange(256)


@pytest.mark.parametrize(
    "made",
    [
        dataset(np.repeat(picture()[..., np.newaxis], 3, axis=2)),
        with_palette(picture(), *[LEVELS * 257] * 3),
    ],
    ids=["RGB", "palette"],
)
def test_equal_channels_are_not_colors(made: Dataset) -> None:
    found = radiograph_of(made)
    assert (found.has_color, found.notes) == (False, ())
    np.testing.assert_array_equal(found.image, picture())


def test_channels_of_12_bits_are_not_dark() -> None:
    pixels = np.repeat(picture(12)[..., np.newaxis], 3, axis=2)
    np.testing.assert_array_equal(radiograph_of(dataset(pixels, 12)).image, picture(12) >> 4)


def test_a_palette_of_8_bits_in_words_of_16_is_not_black() -> None:
    found = radiograph_of(with_palette(picture(), *[LEVELS] * 3))
    np.testing.assert_array_equal(found.image, picture())
    assert found.notes == (display.WRONG_DESCRIPTOR,)


def test_colors_become_luminance() -> None:
    pixels = picture(8, channels=3)
    found = radiograph_of(dataset(pixels))
    expected = pixels @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(np.asarray(found.image), expected, atol=1)
    assert (found.has_color, found.width, found.height) == (True, 16, 24)


def test_palette_colors_become_luminance() -> None:
    pixels = ramp(8, size=16)
    curves = (LEVELS, LEVELS[::-1], LEVELS // 2)
    expected = np.stack([curve[pixels] for curve in curves], -1) @ np.array([0.299, 0.587, 0.114])
    found = radiograph_of(with_palette(pixels, *(curve * 257 for curve in curves)))
    np.testing.assert_allclose(found.image, expected, atol=1)
