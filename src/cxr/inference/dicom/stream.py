"""Decode PixelData of a DICOM file to stored values.

A compressed image declares its own size, which decoders trust: a forged size would cost minutes and
gigabytes. So the stream is compared with the tags before it is decoded, and GDCM decodes in a child
process with limits, because some damaged images crash it.
"""

import io
import json
import math
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.encaps import get_frame, parse_basic_offsets
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, JPEG2000TransferSyntaxes, JPEGExtended12Bit, RLELossless

from cxr.inference.dicom.tags import DicomError, PixelLayout, plugin

SEGMENT = re.compile(rb"\xff+([^\xff])(..)", re.DOTALL)  # of JPEG: marker and length
FRAME_HEADERS = bytes({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})  # SOF, also of JPEG-LS
SCAN = 0xDA  # marker of the pixels in JPEG
MAX_SEGMENTS = 1000  # before the pixels; real images have about 10
SIZ_2000 = struct.Struct(">4s2H8IH")  # SOC and SIZ of JPEG 2000 up to its components
MAX_TILES = 4096  # OpenJPEG allocates some kilobytes for each
SCAN_2000 = b"\xff\x93"  # marker of the pixels in JPEG 2000
END = b"\xff\xd9"  # cannot occur within compressed pixels
START = re.compile(rb"\xff(\xd8\xff|\x4f\xff\x51)")  # of JPEG and of JPEG 2000

WORKER = str(Path(__file__).with_name("gdcm_worker.py"))
WORKER_SECONDS = 60  # 20 million pixels take 4

EXTRA_BITS = "gray values have bits beyond BitsStored, which were ignored"


def stored_values(
    pixel_data: DataElement, layout: PixelLayout, syntax: UID
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Check, decode and clear the bits beyond BitsStored.

    Returns:
        (H, W), or (H, W, 3) in RGB, of 8 or 16 bits in native byte order; and warnings.

    Raises:
        DicomError: the pixels are damaged or truncated, are several images, or contradict the tags.
    """
    if syntax.is_encapsulated != pixel_data.is_undefined_length:
        raise DicomError("PixelData and transfer syntax disagree on compression")
    if syntax.is_encapsulated:
        if len(parse_basic_offsets(pixel_data.value)) > 1:
            raise DicomError("PixelData contains more than one image")
        _check_stream(get_frame(pixel_data.value, 0, number_of_frames=1), layout, syntax)
    else:
        _check_length(len(pixel_data.value), layout)
    return _within_bits(_decoded(pixel_data, layout, syntax), layout.bits_stored)


def _decoded(pixel_data: DataElement, layout: PixelLayout, syntax: UID) -> NDArray[Any]:
    options = {
        **asdict(layout),
        "pixel_keyword": "PixelData",
        "pixel_vr": pixel_data.VR,
        "number_of_frames": 1,
        "decoding_plugin": plugin(syntax),
        "correct_unused_bits": False,  # `_within_bits` also keeps the sign
    }
    if plugin(syntax) == "gdcm":
        stored, colors = _decoded_by_worker(pixel_data.value, {"syntax": syntax, **options})
    else:
        stored, found = get_decoder(syntax).as_array(pixel_data.value, index=0, **options)
        colors = str(found["photometric_interpretation"])
    if stored.ndim == 3 and colors != "RGB":
        raise DicomError("PhotometricInterpretation contradicts the transfer syntax")
    return stored.astype(stored.dtype.newbyteorder("="), copy=False)


def _decoded_by_worker(value: bytes, options: dict[str, Any]) -> tuple[NDArray[Any], str]:
    """Decode in a child process, which may crash: pixels and photometric interpretation.

    Raises:
        DicomError: it crashed, reported damage, or took longer than `WORKER_SECONDS`.
    """
    try:
        ran = subprocess.run(
            [sys.executable, "-I", WORKER],
            input=json.dumps(options).encode() + b"\n" + value,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # may contain values of tags
            timeout=WORKER_SECONDS,
            check=True,
        )
        colors, _, pixels = ran.stdout.partition(b"\n")
        return np.load(io.BytesIO(pixels), allow_pickle=False), json.loads(colors)
    except (subprocess.SubprocessError, ValueError, EOFError):
        pass
    raise DicomError("the compressed image is damaged or not supported")


def _within_bits(stored: NDArray[Any], bits: int) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Clear the bits beyond BitsStored (DICOM PS3.5, 8.1.1), which may be zeros, the sign repeated,
    old overlays, or values larger than the header declares; and warnings.
    """
    unused = 8 * stored.itemsize - bits
    if unused <= 0:
        return stored, ()
    kept = (stored << unused) >> unused
    beyond = (kept != stored) & (stored.view(f"u{stored.itemsize}") >> bits != 0)
    return kept, (EXTRA_BITS,) if beyond.any() else ()


# --- checks before decoding ----------------------------------------------------------------------


def _check_length(n_bytes: int, layout: PixelLayout) -> None:
    expected = layout.n_bytes
    if n_bytes < expected:
        raise DicomError(f"PixelData is truncated: {n_bytes} of {expected} bytes")
    if n_bytes >= 2 * expected > 2:  # even an image of one byte is padded to two
        raise DicomError("PixelData contains more than one image of Rows x Columns")


def _check_stream(frame: bytes, layout: PixelLayout, syntax: UID) -> None:
    """Compare the headers of a compressed image with the tags, and check that it has an end."""
    if syntax == RLELossless:
        if len(frame) > 2 * layout.n_bytes + 1024:
            raise DicomError("PixelData is longer than Rows x Columns allow")
        return
    is_2000 = syntax in JPEG2000TransferSyntaxes
    *size, bits = _size_in_2000(frame) if is_2000 else _size_in_jpeg(frame)
    if size != [layout.rows, layout.columns, layout.samples_per_pixel]:
        raise DicomError("the size of the compressed image contradicts the tags")
    if bits > layout.bits_allocated:
        raise DicomError("the compressed image has more bits than BitsAllocated")
    if syntax == JPEGExtended12Bit and bits > 8:
        raise DicomError("12-bit JPEG (Process 4) is not supported")
    pixels = frame.partition(SCAN_2000)[2] if is_2000 else dict(_segments(frame))[SCAN]
    _, end, padding = pixels.partition(END)
    if not end:
        raise DicomError("PixelData is truncated: the compressed image has no end")
    if START.search(padding):
        raise DicomError("PixelData contains more than one image")


def _size_in_jpeg(frame: bytes) -> tuple[int, int, int, int]:
    """Rows, columns, samples and bits of JPEG, lossless JPEG or JPEG-LS, from its frame header.

    Raises:
        DicomError: there is none, or several, of which a decoder may use another.
    """
    headers = [data for marker, data in _segments(frame) if marker in FRAME_HEADERS]
    if len(headers) != 1 or len(headers[0]) < 6:
        raise DicomError("the compressed image is damaged: no single frame header")
    bits, rows, columns, samples = struct.unpack_from(">BHHB", headers[0])
    return rows, columns, samples, bits


def _segments(frame: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and data of each segment before the pixels of a JPEG, then `SCAN` and the rest.

    Raises:
        DicomError: there is anything else between them, which a decoder may interpret.
    """
    at = 2 if frame.startswith(b"\xff\xd8") else len(frame)
    for _ in range(MAX_SEGMENTS):
        found = SEGMENT.match(frame, at)
        if not found:
            break
        marker, length = found[1][0], int.from_bytes(found[2], "big")
        at = found.end() - 2 + length
        if marker == SCAN:
            yield marker, frame[at:]
            return
        if length < 2 or at > len(frame):
            break
        yield marker, frame[found.end() : at]
    raise DicomError("the compressed image is damaged: not a JPEG")


def _size_in_2000(frame: bytes) -> tuple[int, int, int, int]:
    """Rows, columns, samples and bits of JPEG 2000, from its SIZ segment.

    Raises:
        DicomError: the codestream does not begin with the SIZ segment (a JP2 file does not, which
            DICOM does not allow); its samples differ in size or bits; or it has too many tiles.
    """
    if len(frame) < SIZ_2000.size or not frame.startswith(b"\xff\x4f\xff\x51"):
        raise DicomError("the compressed image is damaged: not a JPEG 2000 codestream")
    found = SIZ_2000.unpack_from(frame)
    _, length, _, right, bottom, left, top, wide, high, tiles_left, tiles_top, samples = found
    components = {*struct.iter_unpack("3B", frame[SIZ_2000.size :][: 3 * samples])}
    if len(components) != 1 or length != 38 + 3 * samples:
        raise DicomError("the compressed image is damaged: samples differ in size or bits")
    ((depth, *steps),) = components
    across, down = (right - tiles_left) / (wide or 1), (bottom - tiles_top) / (high or 1)
    if steps != [1, 1] or math.ceil(across) * math.ceil(down) > MAX_TILES:
        raise DicomError("the compressed image is damaged: invalid tiles or subsampling")
    return bottom - top, right - left, samples, (depth & 127) + 1
