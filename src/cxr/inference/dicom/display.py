"""Stored values of a DICOM file to 8-bit gray or color, as a viewer displays it initially (PS3.3,
C.11).

pydicom applies the lookup tables, the rescaling and the window, after common errors in headers were
repaired. There are at most 65,536 stored values, so all of this is computed once for each possible
value (level), not for each pixel.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut

from cxr.inference.dicom.tags import DicomError, PixelLayout, number, text

# Fraction of the pixels clipped at each end of the gray values if a file has no window: otherwise
# dead pixels, lead letters and metal would leave the chest a narrow range.
CLIPPED = 0.005

WRONG_DESCRIPTOR = "LUTDescriptor contradicts the entries of the lookup table; their range was used"
NO_WINDOW = "invalid window or VOI LUT; the range of the gray values was used"


def to_gray_levels(
    stored: NDArray[Any], tags: Dataset, layout: PixelLayout
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Gray, uint8 (H, W), 0 black to 255 white, of monochrome pixels (H, W); and warnings.

    Raises:
        DicomError: every pixel is padding, or the modality LUT or rescaling is invalid.
    """
    levels, indices = _levels_of(stored)
    padding = _padding(levels, tags)
    counts = np.bincount(indices.ravel(), minlength=len(levels))
    counts[padding] = 0
    if not counts.any():
        raise DicomError("every pixel is padding (PixelPaddingValue)")
    gray, notes = _windowed(_rescaled(levels, tags), counts, tags, layout)
    if layout.photometric_interpretation == "MONOCHROME1":  # low values are light
        gray = 1 - gray
    gray[padding] = 0
    return np.rint(255 * gray).astype(np.uint8)[indices], notes


def to_colors(
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
        return colors.astype(np.uint8)[indices], (WRONG_DESCRIPTOR,)
    return _high_bits(colors, 8 * colors.itemsize)[indices], ()


def _levels_of(stored: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """All values of the data type, and the index of each pixel's value in them."""
    indices = stored.view(f"u{stored.itemsize}")
    return np.arange(256**stored.itemsize, dtype=indices.dtype).view(stored.dtype), indices


def _high_bits(colors: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    return (colors >> max(0, bits - 8)).astype(np.uint8)


def _padding(levels: NDArray[Any], tags: Dataset) -> NDArray[np.bool_]:
    """Whether each level is padding (pixels outside of the image)."""
    value = number(tags, "PixelPaddingValue")
    limit = number(tags, "PixelPaddingRangeLimit", value)
    if not math.isfinite(value) or not math.isfinite(limit):
        return np.zeros(len(levels), bool)
    # Signed values are often written as unsigned ones: the cast wraps them around.
    ends = np.array([value, limit]).astype(np.int64).astype(levels.dtype)
    return (levels >= ends.min()) & (levels <= ends.max())


def _rescaled(levels: NDArray[Any], tags: Dataset) -> NDArray[np.float64]:
    """Apply the modality LUT, or else the rescale tags.

    Raises:
        DicomError: the table is damaged, or the slope is 0, or a tag is not a number.
    """
    view = _empty_view()
    if _has_table(tags, "ModalityLUTSequence"):
        view.ModalityLUTSequence = [_repaired_table(tags, "ModalityLUTSequence", levels)[0]]
    else:  # pydicom ignores one of these without the other
        view.RescaleSlope = number(tags, "RescaleSlope", 1.0)
        view.RescaleIntercept = number(tags, "RescaleIntercept", 0.0)
    values = apply_modality_lut(levels.astype(np.int64), view).astype(np.float64)
    if view.get("RescaleSlope") == 0 or not np.isfinite(values).all():
        raise DicomError("RescaleSlope or RescaleIntercept is invalid")
    return values


def _windowed(
    values: NDArray[np.float64], counts: NDArray[np.int64], tags: Dataset, layout: PixelLayout
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Gray from 0 to 1 of the rescaled levels, and warnings; `counts`: pixels of each level."""
    try:
        gray, notes = _by_header(values, tags)
    except (DicomError, ValueError):  # the latter from pydicom: wrong width or function
        return _by_range(values, counts, layout), (NO_WINDOW,)
    if gray is None:
        return _by_range(values, counts, layout), ()
    # The window excludes all the values, or is not a number, or infinite.
    if not np.ptp(gray[counts > 0]) > 0:
        return _by_range(values, counts, layout), (NO_WINDOW,)
    return gray, notes


def _by_header(
    values: NDArray[np.float64], tags: Dataset
) -> tuple[NDArray[np.float64] | None, tuple[str, ...]]:
    """Apply the first VOI LUT, or else the first window: 0 to 1, and warnings; None: has neither.

    Raises:
        DicomError: the table is damaged, or the window has width 1 (a threshold).
        ValueError: the width or function of the window is not allowed.
    """
    view = _empty_view()
    if _has_table(tags, "VOILUTSequence"):
        item, bits, fits = _repaired_table(tags, "VOILUTSequence", values)
        view.VOILUTSequence = [item]
        # Indices have 16 bits in pydicom, so larger ones would wrap around.
        first = item.LUTDescriptor[1]
        inputs = np.rint(values).clip(first, first + 0xFFFF).astype(np.int64)
        return apply_voi_lut(inputs, view) / (2**bits - 1), () if fits else (WRONG_DESCRIPTOR,)
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
    """Gray from 0 to 1 for a file without a window."""
    if len(values) == 256:  # up to 8 bits: displayed unchanged
        possible = values if layout.pixel_representation else values[: 2**layout.bits_stored]
        low, high = possible.min(), possible.max()
    else:
        order = np.argsort(values)
        below = np.cumsum(counts[order]) / counts.sum()
        ends = np.searchsorted(below, (CLIPPED, 1 - CLIPPED))
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
    """First table of a sequence with a corrected descriptor; the bits that its entries use; and
    whether the file's descriptor was correct. Raises DicomError: the table is damaged.

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
    except Exception:  # its message may contain values of tags
        pass
    raise DicomError(f"{keyword} is damaged")


def _entries(data: Any, n_entries: int, is_little: bool) -> NDArray[np.uint16]:
    """LUTData: words, or their bytes; a word has one entry, or two, the first in its low byte."""
    words = np.frombuffer(data, "<u2" if is_little else ">u2") if isinstance(data, bytes) else data
    words = np.atleast_1d(words).astype("<u2")
    if n_entries > 1 and len(words) == (n_entries + 1) // 2:
        words = words.view("u1")
    return words[:n_entries].astype("<u2")
