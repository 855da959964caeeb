"""Stored values of a DICOM file -> 8-bit grey or color, as a viewer shows it first (PS3.3, C.11).

pydicom applies the lookup tables, the rescaling and the window, after headers that are wrong in
common ways were repaired. There are at most 65,536 stored values, so all of this is computed once
for each value that is possible (a level), not for each pixel.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut

from cxr.inference.dicom.tags import DicomError, PixelLayout, number, text

# Share of the pixels, at each end of the grey values, that may become black or white where a file
# has no window: dead pixels, lead letters and metal would otherwise leave the chest a narrow range.
BEYOND_RANGE = 0.005

OTHER_TABLE = "the descriptor of its lookup table does not fit the entries, whose range was used"
NO_WINDOW = "its window or VOI LUT cannot be used: the range of its grey values was used"


def grey_of(
    stored: NDArray[Any], tags: Dataset, layout: PixelLayout
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Grey, uint8 (H, W), 0 black to 255 white, of monochrome pixels (H, W); and warnings.

    Raises:
        DicomError: every pixel is padding, or the modality LUT or rescaling cannot be used.
    """
    levels, indices = _levels_of(stored)
    padding = _padding(levels, tags)
    counts = np.bincount(indices.ravel(), minlength=len(levels))
    counts[padding] = 0
    if not counts.any():
        raise DicomError("every pixel is padding (PixelPaddingValue)")
    grey, notes = _windowed(_rescaled(levels, tags), counts, tags, layout)
    if layout.photometric_interpretation == "MONOCHROME1":  # low values are light
        grey = 1 - grey
    grey[padding] = 0
    return np.rint(255 * grey).astype(np.uint8)[indices], notes


def colors_of(
    stored: NDArray[Any], tags: Dataset, bits: int
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """RGB, uint8 (H, W, 3), of palette indices (H, W) or of RGB (H, W, 3) with `bits` bits; and
    warnings.
    """
    if stored.ndim == 3:
        return _high_bits(stored, bits), ()
    levels, indices = _levels_of(stored)
    colors = apply_color_lut(levels, tags)[:, :3]
    if colors.itemsize == 2 and colors.max() < 256:  # entries of 8 bits in words of 16
        return colors.astype(np.uint8)[indices], (OTHER_TABLE,)
    return _high_bits(colors, 8 * colors.itemsize)[indices], ()


def _levels_of(stored: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """All values of a type, and for each pixel the index of its value in them."""
    indices = stored.view(f"u{stored.itemsize}")
    return np.arange(256**stored.itemsize, dtype=indices.dtype).view(stored.dtype), indices


def _high_bits(colors: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    return (colors >> max(0, bits - 8)).astype(np.uint8)


def _padding(levels: NDArray[Any], tags: Dataset) -> NDArray[np.bool_]:
    """Which levels mean that nothing was imaged there."""
    value = number(tags, "PixelPaddingValue")
    limit = number(tags, "PixelPaddingRangeLimit", value)
    if not math.isfinite(value) or not math.isfinite(limit):
        return np.zeros(len(levels), bool)
    # Signed values are often written as unsigned ones: the cast wraps them around.
    ends = np.array([value, limit]).astype(np.int64).astype(levels.dtype)
    return (levels >= ends.min()) & (levels <= ends.max())


def _rescaled(levels: NDArray[Any], tags: Dataset) -> NDArray[np.float64]:
    """By the modality LUT, or else the rescale tags.

    Raises:
        DicomError: the table is damaged, or the tags give no numbers or the same for all.
    """
    view = _empty_view()
    if _has_table(tags, "ModalityLUTSequence"):
        view.ModalityLUTSequence = [_repaired_table(tags, "ModalityLUTSequence", levels)[0]]
    else:  # pydicom ignores one of these without the other
        view.RescaleSlope = number(tags, "RescaleSlope", 1.0)
        view.RescaleIntercept = number(tags, "RescaleIntercept", 0.0)
    values = apply_modality_lut(levels.astype(np.int64), view).astype(np.float64)
    if view.get("RescaleSlope") == 0 or not np.isfinite(values).all():
        raise DicomError("RescaleSlope or RescaleIntercept cannot be used")
    return values


def _windowed(
    values: NDArray[np.float64], counts: NDArray[np.int64], tags: Dataset, layout: PixelLayout
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Grey from 0 to 1 of the rescaled levels, and warnings; `counts`: pixels of each level."""
    try:
        grey, notes = _by_header(values, tags)
    except (DicomError, ValueError):  # the latter from pydicom: wrong width or function
        return _by_range(values, counts, layout), (NO_WINDOW,)
    if grey is None:
        return _by_range(values, counts, layout), ()
    # The window excludes all the values, or is not a number, or infinite.
    if not np.ptp(grey[counts > 0]) > 0:
        return _by_range(values, counts, layout), (NO_WINDOW,)
    return grey, notes


def _by_header(
    values: NDArray[np.float64], tags: Dataset
) -> tuple[NDArray[np.float64] | None, tuple[str, ...]]:
    """By the first VOI LUT or else the first window, from 0 to 1, and warnings; None: has neither.

    Raises:
        DicomError: the table is damaged, or the window is a threshold.
        ValueError: the width or function of the window is not allowed.
    """
    view = _empty_view()
    if _has_table(tags, "VOILUTSequence"):
        item, bits, fits = _repaired_table(tags, "VOILUTSequence", values)
        view.VOILUTSequence = [item]
        # Indices have 16 bits in pydicom, so larger ones would wrap around.
        first = item.LUTDescriptor[1]
        inputs = np.rint(values).clip(first, first + 0xFFFF).astype(np.int64)
        return apply_voi_lut(inputs, view) / (2**bits - 1), () if fits else (OTHER_TABLE,)
    center, width = (number(tags, key, math.inf) for key in ("WindowCenter", "WindowWidth"))
    if center == width == math.inf:  # missing, or empty
        return None, ()
    view.WindowCenter, view.WindowWidth = center, width
    view.VOILUTFunction = text(tags, "VOILUTFunction") or "LINEAR"
    if view.VOILUTFunction == "LINEAR" and width == 1:  # allowed, but leaves black and white only
        raise DicomError("WindowWidth is 1")
    view.PhotometricInterpretation = "MONOCHROME2"
    view.BitsStored, view.PixelRepresentation = 1, 0  # makes the output range 0 to 1
    return apply_voi_lut(values, view), ()


def _by_range(
    values: NDArray[np.float64], counts: NDArray[np.int64], layout: PixelLayout
) -> NDArray[np.float64]:
    """Grey from 0 to 1 where a file does not say which values are black and white."""
    if len(values) == 256:  # 8 bits or fewer are made to be shown as they are
        possible = values if layout.pixel_representation else values[: 2**layout.bits_stored]
        low, high = possible.min(), possible.max()
    else:
        order = np.argsort(values)
        below = np.cumsum(counts[order]) / counts.sum()
        ends = np.searchsorted(below, (BEYOND_RANGE, 1 - BEYOND_RANGE))
        low, high = values[order][ends]
    return np.clip((values - low) / ((high - low) or 1), 0, 1)


# --- lookup tables that pydicom can apply --------------------------------------------------------


def _empty_view() -> Dataset:
    """For the repaired tags that pydicom applies; lookup tables in it are little-endian."""
    view = Dataset()
    view.set_original_encoding(False, True)
    return view


def _has_table(tags: Dataset, keyword: str) -> bool:
    """Whether a sequence has a table that is not empty."""
    tables = tags.get(keyword)
    return bool(tables) and len(tables[0]) > 0


def _repaired_table(tags: Dataset, keyword: str, values: NDArray[Any]) -> tuple[Dataset, int, bool]:
    """The first table of a sequence, declared as it is; the bits that its entries use; and whether
    the file declares these bits and the number of entries. Raises DicomError: damaged.

    pydicom rejects tables with fewer entries than declared or with two entries in a word, and
    indexes tables of 8 bits with 8 bits, so all are declared with 16. Some devices declare the 16
    bits in which entries of 12 are stored, hence the used ones.
    """
    try:
        found = tags[keyword].value[0]
        n_entries, first, bits = (int(value) for value in found["LUTDescriptor"].value)
        n_entries = n_entries or 2**16
        entries = _entries(found["LUTData"].value, n_entries, bool(tags.original_encoding[1]))
        first -= 2**16 if first > values.max() else 0  # negative, but written as unsigned
        used = max(1, int(entries.max()).bit_length())
        item = Dataset()
        item.add_new("LUTDescriptor", "SL", [len(entries), first, 16])
        item.add_new("LUTData", "OW", entries.tobytes())
        return item, used, (used, len(entries)) == (bits, n_entries)
    except Exception:  # its message may hold values of tags
        pass
    raise DicomError(f"{keyword} is damaged")


def _entries(data: Any, n_entries: int, is_little: bool) -> NDArray[np.uint16]:
    """LUTData: words, or their bytes; a word holds one entry, or two, the first in its low byte."""
    words = np.frombuffer(data, "<u2" if is_little else ">u2") if isinstance(data, bytes) else data
    words = np.atleast_1d(words).astype("<u2")
    if n_entries > 1 and len(words) == (n_entries + 1) // 2:
        words = words.view("u1")
    return words[:n_entries].astype("<u2")
