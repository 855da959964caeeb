"""A file of any kind (JPEG, PNG, DICOM) -> an 8-bit grey image, and what is odd about the file.

Of a DICOM file only those tags are read that tell what its pixels mean and what was radiographed.
No value of a text tag is passed on, and what pydicom says about values it says to nobody: so
neither results nor errors, warnings or logs can name a patient.
"""

import io
import json
import logging
import math
import re
import struct
import subprocess
import sys
import threading
import unicodedata
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame, parse_basic_offsets
from pydicom.filereader import read_dataset, read_preamble
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGExtended12Bit,
    RLELossless,
)

from cxr.images import (
    FORMATS,
    MOST_PIXELS,
    ImageError,
    decode,
    read_file,
    to_grey,
    uses_little_range,
)

SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")  # by which Pillow tells JPEG and PNG
# How DICOM data without the preamble begin: group 2 or 8, little-endian; group 8, big-endian.
FIRST_GROUPS = (b"\x02\0", b"\x08\0", b"\0\x08")

MOST_BYTES = 2 * MOST_PIXELS  # of a file: the largest image that is decoded, at 16 bits

GREY_MODES = ("1", "L", "LA", "F")  # of Pillow, and all that begin with I
COLOUR_SIDE = 256  # pixels, longer side, of the copy in which colours are looked for
LEAST_COLOUR = 16  # of 255, between channels; JPEG leaves up to 3 in grey images

# Samples of a pixel, by photometric interpretation.
SAMPLES = {
    **{"MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1},
    **{"RGB": 3, "YBR_FULL": 3, "YBR_FULL_422": 3, "YBR_ICT": 3, "YBR_RCT": 3},
}
NUMBERS = {  # pydicom's name of what it decodes by: the tag, and what it is where missing
    "rows": ("Rows", None),
    "columns": ("Columns", None),
    "samples_per_pixel": ("SamplesPerPixel", 1),
    "bits_allocated": ("BitsAllocated", None),
    "bits_stored": ("BitsStored", None),
    "pixel_representation": ("PixelRepresentation", 0),
    "planar_configuration": ("PlanarConfiguration", 0),
}
PALETTES = [
    f"{segmented}{colour}PaletteColorLookupTable{part}"
    for colour in ("Red", "Green", "Blue")
    for segmented, part in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
]
TAGS: list[BaseTag | int] = [
    Tag(keyword)
    for keyword in (
        *(keyword for keyword, _ in NUMBERS.values()),
        *("PixelData", "NumberOfFrames", "HighBit", "PhotometricInterpretation"),
        *("PixelPaddingValue", "PixelPaddingRangeLimit"),
        *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
        *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
        *("Modality", "BodyPartExamined", "ViewPosition"),
        *("SOPClassUID", "PresentationIntentType"),
        *PALETTES,
    )
]
# Of the pixels, at each end of the grey values, that may become black or white where a file has no
# window: dead pixels, lead letters and metal are fewer, and would leave the chest a narrow range.
BEYOND_RANGE = 0.005

# Within compressed images.
SEGMENT = re.compile(rb"\xff+([^\xff])(..)", re.DOTALL)  # of JPEG: marker and length
FRAME_HEADERS = bytes({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})  # SOF, also of JPEG-LS
SCAN = 0xDA  # where pixels begin
MOST_SEGMENTS = 1000  # before them; real images have about 10
SIZES_2000 = struct.Struct(">4s2H8IH")  # SOC and SIZ of JPEG 2000 up to its components
MOST_TILES = 4096  # for each of them OpenJPEG takes some kilobytes
DECODER = str(Path(__file__).with_name("decoder.py"))
DECODER_SECONDS = 60  # 20 million pixels take 4
SCAN_2000 = b"\xff\x93"  # where pixels begin in JPEG 2000
END = b"\xff\xd9"  # cannot be a part of compressed pixels
START = re.compile(rb"\xff(\xd8\xff|\x4f\xff\x51)")  # of JPEG and of JPEG 2000

RADIOGRAPHY = ("CR", "DX", "DR", "RG", "XR")  # Modality; DR is no defined term, but is written
# In BodyPartExamined, without accents: also a part of a longer word, as in CHESTPA or PULMONES.
CHEST = re.compile(
    r"CHEST|LUNG|PULMO"  # English, German, Latin
    r"|THORAX|TORAX|TORACE"  # French and German, Spanish and Portuguese, Italian
    r"|BRUSTKORB|\bBRUST\b"  # German; not BRUSTWIRBEL, which are bones of the back
    r"|POITRINE|POUMON|PECHO|PEITO|PETTO|PULMAO|POLMON"
)
# In ViewPosition: defined terms, and words of these languages.
LATERAL = re.compile(r"\b(LL|RL|LLAT|RLAT|LAT|LATERAL\w*|PERFIL|PROFIL|PROFILO|SEITLICH)\b")
OTHER_MODALITY = f"its Modality is none of {', '.join(RADIOGRAPHY)}: not a radiograph"
OTHER_PART = "its BodyPartExamined is no known word for the chest"
OTHER_VIEW = "its ViewPosition is lateral, not frontal"
FOR_PROCESSING = "it is FOR PROCESSING, not FOR PRESENTATION: no radiograph as a viewer shows it"
LITTLE_RANGE = "uses less than an eighth of the grey range: nearly black, white or flat"
OTHER_TABLE = "the descriptor of its lookup table does not fit the entries, whose range was used"
MORE_BITS = "its grey values have bits beyond BitsStored, which were left out"
NO_WINDOW = "its window or VOI LUT cannot be used: the range of its grey values was used"

OFF = logging.CRITICAL + 1
logging.getLogger("pydicom").setLevel(OFF)  # it logs values of tags
_alone = threading.Lock()  # filters of warnings are one for all threads


@dataclass(frozen=True)
class Radiograph:
    """What was read from a file.

    Attributes:
        image: mode L, 0 black to 255 white: bones are light; without metadata. It may be smaller
            than the original.
        width: of the original, upright, pixels.
        height: likewise.
        coloured: the channels differ visibly.
        notes: why the grey values may not be those of a radiograph, and what a DICOM file says
            against itself (another modality, part of the body or view); sentences without values
            of the file, empty where all is well.
    """

    image: Image.Image
    width: int
    height: int
    coloured: bool
    notes: tuple[str, ...] = ()


class _UnusableError(Exception):
    """Why a DICOM file is refused, in words without values of text tags."""


def read(path: Path, enough: int = 0) -> Radiograph:
    """Read a JPEG, PNG or DICOM file; its content tells which it is, not its name.

    JPEG and PNG give the pixels that the pipeline trains on. DICOM gives what a viewer shows
    at first: the modality LUT or rescaling, then the first VOI LUT or window, MONOCHROME1
    inverted, padding black. A VOI LUT is scaled by the bits that its entries use. Without a
    window, 8-bit data keep their levels, as in a JPEG; of deeper data the range that holds all but
    0.5 % of the pixels at each end becomes 0 to 255.

    Args:
        path: the file.
        enough: pixels that suffice for the shorter side of a JPEG, as `cxr.images.decode` takes
            it; 0: at full size.

    Raises:
        ImageError: as `bytes_of` and `from_bytes`.
    """
    return from_bytes(bytes_of(path), path, enough)


def bytes_of(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        ImageError: as `read_file`, or more than `MOST_BYTES`.
    """
    with suppress(OSError, ValueError):  # of which `read_file` tells
        if path.stat().st_size > MOST_BYTES:
            raise ImageError(f"{path}: more than {MOST_BYTES} bytes")
    return read_file(path)


def may_be_radiograph(path: Path) -> bool:
    """Whether a file begins as JPEG, PNG or DICOM, or cannot be opened, which reading reports."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            start = file.read(132)
    except OSError:
        return True
    return start.startswith(SIGNATURES) or _begins_as_dicom(start)


def from_bytes(content: bytes, path: Path, enough: int = 0) -> Radiograph:
    """As `read`, from the bytes of a file.

    Args:
        content: of the file.
        path: names the file in errors.
        enough: as for `read`.

    Raises:
        ImageError: empty, of another kind, damaged, cut off, without pixels, of more than one
            frame, of contradictory tags, or of a size that suggests an attack.
    """
    if not content or content.startswith(SIGNATURES):
        return _from_picture(content, path, enough)
    if _begins_as_dicom(content):
        return _from_dicom(content, path)
    raise ImageError(f"{path}: cannot identify a JPEG, PNG or DICOM image")


def _begins_as_dicom(content: bytes) -> bool:
    return content[128:132] == b"DICM" or content.startswith(FIRST_GROUPS)


# --- JPEG and PNG --------------------------------------------------------------------------------


def _from_picture(content: bytes, path: Path, enough: int) -> Radiograph:
    image = decode(content, path, enough)
    with Image.open(io.BytesIO(content), formats=FORMATS) as original:
        coloured = _has_colours(image, original)
        size = image.size if image.size in (original.size, original.size[::-1]) else original.size
        if size != image.size and original.getexif().get(ExifTags.Base.Orientation, 1) > 4:
            size = size[::-1]  # scaled by DCT, and lay on its side
    grey = to_grey(image)
    grey.info.clear()  # comments and EXIF data may name a patient
    return Radiograph(grey, *size, coloured, _range_notes(grey))


def _has_colours(image: Image.Image, original: Image.Image) -> bool:
    """Whether channels differ visibly.

    Args:
        image: decoded, perhaps in grey only.
        original: the same, not yet decoded.
    """
    if original.mode in GREY_MODES or original.mode.startswith("I"):
        return False
    if image.mode != original.mode:  # was decoded in grey
        image = original
        image.draft("RGB", (COLOUR_SIDE, COLOUR_SIDE))
    return _channels_differ(image.convert("RGBA").convert("RGB"))


def _channels_differ(image: Image.Image) -> bool:
    """Of an image in mode RGB."""
    small = image.copy()
    small.thumbnail((COLOUR_SIDE, COLOUR_SIDE))
    return bool(np.ptp(np.asarray(small), axis=-1).max() >= LEAST_COLOUR)


def _range_notes(grey: Image.Image) -> tuple[str, ...]:
    return (LITTLE_RANGE,) if uses_little_range(grey) else ()


# --- DICOM: from the file to its stored values ---------------------------------------------------


def _from_dicom(content: bytes, path: Path) -> Radiograph:
    try:
        with _in_silence():
            return _read_dicom(content)
    except _UnusableError as error:
        problem = str(error)
    except MemoryError:
        raise
    except Exception as error:  # its text may hold values of tags
        problem = f"damaged DICOM file ({type(error).__name__})"
    raise ImageError(f"{path}: {problem}")  # out here: without those errors as its context


@contextmanager
def _in_silence() -> Iterator[None]:
    """No warnings; one thread at a time."""
    with _alone, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _read_dicom(content: bytes) -> Radiograph:
    tags, syntax = _tags_of(content)
    if "PixelData" not in tags:
        raise _UnusableError("DICOM file without pixel data: no image, or cut off before them")
    layout = _layout_of(tags)
    stored, bit_notes = _within_bits(_stored_values(tags["PixelData"], layout, syntax), layout)
    if layout["photometric_interpretation"].startswith("MONOCHROME"):
        pixels, notes = _shown(stored, tags, layout)
        image, coloured = Image.fromarray(pixels), False
    else:
        pixels, notes = _in_colour(stored, tags, layout["bits_stored"])
        colours = Image.fromarray(pixels)
        image, coloured = to_grey(colours), _channels_differ(colours)
    notes = _notes_of(tags) + bit_notes + notes + _range_notes(image)
    return Radiograph(image, *image.size, coloured, notes)


def _tags_of(content: bytes) -> tuple[Dataset, UID]:
    """The wanted tags, not yet interpreted, and the transfer syntax."""
    file = io.BytesIO(content)
    read_preamble(file, force=True)  # passes over it where there is one
    syntax = _syntax_of(file)
    if syntax == DeflatedExplicitVRLittleEndian:
        file = io.BytesIO(_inflated(file.read()))
    # It finds out by itself whether types of values are written (explicit) or not.
    return read_dataset(file, False, syntax.is_little_endian, specific_tags=TAGS), syntax


def _syntax_of(file: io.BytesIO) -> UID:
    """The transfer syntax; leaves the file at the begin of its data set."""
    tag = Tag("TransferSyntaxUID")
    meta = read_dataset(
        file, False, True, stop_when=lambda tag, *_: tag >> 16 != 2, specific_tags=[tag]
    )
    named = meta.get("TransferSyntaxUID")
    if not named:
        group = file.read(2)
        file.seek(-len(group), io.SEEK_CUR)
        return ExplicitVRBigEndian if group == b"\0\x08" else ImplicitVRLittleEndian
    with suppress(NotImplementedError):
        decoder = get_decoder(str(named))
        if not decoder.UID.is_encapsulated or _plugin(decoder.UID) in decoder.available_plugins:
            return decoder.UID
    raise _UnusableError("DICOM file of a transfer syntax that cannot be read, such as a film")


def _inflated(packed: bytes) -> bytes:
    """Raises _UnusableError: it does not end where the largest image of 16 bits would."""
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    data = unpacker.decompress(packed, 2 * MOST_PIXELS)
    if unpacker.unconsumed_tail:
        raise _UnusableError("DICOM file that inflates to a size which suggests a bomb")
    return data


def _layout_of(tags: Dataset) -> dict[str, Any]:
    """How the pixels are stored, by the names that pydicom decodes by.

    Raises:
        _UnusableError: tags are missing or contradict each other, or there are several frames.
    """
    layout: dict[str, Any] = {
        name: _whole(tags, keyword, missing) for name, (keyword, missing) in NUMBERS.items()
    }
    colours = _text(tags, "PhotometricInterpretation")
    layout["photometric_interpretation"] = colours
    stored, allocated = layout["bits_stored"], layout["bits_allocated"]
    pixels = layout["rows"] * layout["columns"]
    if pixels > MOST_PIXELS:
        size = f"{layout['columns']} x {layout['rows']}"
        raise _UnusableError(f"{size} pixels suggest a bomb")
    wanted = {
        "Rows or Columns is 0": pixels > 0,
        "NumberOfFrames is not 1: give one file for each image": _whole(tags, "NumberOfFrames", 1)
        in (0, 1),
        "its PhotometricInterpretation cannot be read": colours in SAMPLES,
        "SamplesPerPixel and PhotometricInterpretation disagree": layout["samples_per_pixel"]
        == SAMPLES.get(colours),
        "BitsAllocated is neither 8 nor 16": allocated in (8, 16),
        "BitsStored is not from 1 to BitsAllocated": 1 <= stored <= allocated,
        "HighBit is not BitsStored - 1": _whole(tags, "HighBit", stored - 1) == stored - 1,
        "PixelRepresentation is neither 0 nor 1": layout["pixel_representation"] in (0, 1),
        "PlanarConfiguration is neither 0 nor 1": layout["planar_configuration"] in (0, 1),
    }
    for problem, is_well in wanted.items():
        if not is_well:
            raise _UnusableError(problem)
    return layout


def _stored_values(element: Any, layout: dict[str, Any], syntax: UID) -> NDArray[Any]:
    """Decoded: (H, W), or (H, W, 3) in RGB, of 8 or 16 bits in the machine's byte order."""
    if syntax.is_encapsulated != element.is_undefined_length:
        raise _UnusableError("compressed and uncompressed: PixelData and transfer syntax disagree")
    if syntax.is_encapsulated:
        if len(parse_basic_offsets(element.value)) > 1:
            raise _UnusableError("PixelData holds more than one image")
        _check_stream(get_frame(element.value, 0, number_of_frames=1), layout, syntax)
    else:
        _check_length(len(element.value), layout)
    options = {"pixel_keyword": "PixelData", "pixel_vr": element.VR, "number_of_frames": 1}
    options |= {"decoding_plugin": _plugin(syntax), "correct_unused_bits": False, **layout}
    if options["decoding_plugin"] == "gdcm":
        stored, colours = _decoded_apart(element.value, {"syntax": syntax, **options})
    else:
        stored, found = get_decoder(syntax).as_array(element.value, index=0, **options)
        colours = str(found["photometric_interpretation"])
    if stored.ndim == 3 and colours != "RGB":
        raise _UnusableError("its PhotometricInterpretation does not fit its transfer syntax")
    return stored.astype(stored.dtype.newbyteorder("="), copy=False)


def _within_bits(
    stored: NDArray[Any], layout: dict[str, Any]
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Without what is beyond BitsStored (DICOM PS3.5, 8.1.1), and notes: there may have been zeros,
    copies of the sign, old overlays, or values that are larger than the header says.
    """
    bits = layout["bits_stored"]
    unused = 8 * stored.itemsize - bits
    if unused <= 0:
        return stored, ()
    kept = (stored << unused) >> unused
    beyond = (kept != stored) & (stored.view(f"u{stored.itemsize}") >> bits != 0)
    return kept, (MORE_BITS,) if beyond.any() else ()


def _decoded_apart(value: bytes, options: dict[str, Any]) -> tuple[NDArray[Any], str]:
    """Pixels and their photometric interpretation, by a process that may crash.

    Raises:
        _UnusableError: it did, or told of damage, or took too long.
    """
    try:
        ran = subprocess.run(
            [sys.executable, "-I", DECODER],
            input=json.dumps(options).encode() + b"\n" + value,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # may hold values of tags
            timeout=DECODER_SECONDS,
            check=True,
        )
        told, _, pixels = ran.stdout.partition(b"\n")
        return np.load(io.BytesIO(pixels), allow_pickle=False), json.loads(told)
    except (subprocess.SubprocessError, ValueError, EOFError):
        pass
    raise _UnusableError("the compressed image is damaged, or of a kind that cannot be read")


def _plugin(syntax: UID) -> str:
    """Always the same decoder, whatever else is installed."""
    if not syntax.is_encapsulated:
        return ""
    return "pydicom" if syntax == RLELossless else "gdcm"


def _bytes_of(layout: dict[str, Any]) -> int:
    """That the pixels have without compression."""
    samples = layout["rows"] * layout["columns"] * layout["samples_per_pixel"]
    if layout["photometric_interpretation"] == "YBR_FULL_422":
        samples = samples * 2 // 3  # half of the colours
    return samples * layout["bits_allocated"] // 8


def _check_length(found: int, layout: dict[str, Any]) -> None:
    wanted = _bytes_of(layout)
    if found < wanted:
        raise _UnusableError(f"PixelData is cut off: {found} of {wanted} bytes")
    if found >= 2 * wanted > 2:  # even an image of one byte is padded to two
        raise _UnusableError("PixelData holds more than one image of Rows x Columns")


def _check_stream(frame: bytes, layout: dict[str, Any], syntax: UID) -> None:
    """Decoders go by the size that the compressed image names itself, and fill up what is cut.

    A forged size would cost them minutes and gigabytes, so none of them sees it.
    """
    if syntax == RLELossless:
        if len(frame) > 2 * _bytes_of(layout) + 1024:
            raise _UnusableError("PixelData is longer than Rows x Columns can be")
        return
    is_2000 = syntax in JPEG2000TransferSyntaxes
    *size, bits = _size_in_2000(frame) if is_2000 else _size_in_jpeg(frame)
    if size != [layout["rows"], layout["columns"], layout["samples_per_pixel"]]:
        raise _UnusableError("the compressed image has another size than its tags say")
    if bits > layout["bits_allocated"]:
        raise _UnusableError("the compressed image has more bits than BitsAllocated")
    if syntax == JPEGExtended12Bit and bits > 8:
        raise _UnusableError("JPEG of 12 bits (Process 4) cannot be read")
    pixels = frame.partition(SCAN_2000)[2] if is_2000 else dict(_segments(frame))[SCAN]
    _, end, padding = pixels.partition(END)
    if not end:
        raise _UnusableError("PixelData is cut off: the compressed image has no end")
    if START.search(padding):
        raise _UnusableError("PixelData holds more than one image")


def _size_in_jpeg(frame: bytes) -> tuple[int, int, int, int]:
    """Rows, columns, samples and bits of JPEG, lossless JPEG or JPEG-LS, from its frame header.

    Raises:
        _UnusableError: it has none, or several of which a decoder may take another.
    """
    headers = [data for marker, data in _segments(frame) if marker in FRAME_HEADERS]
    if len(headers) != 1 or len(headers[0]) < 6:
        raise _UnusableError("the compressed image is damaged: no single frame header")
    bits, rows, columns, samples = struct.unpack_from(">BHHB", headers[0])
    return rows, columns, samples, bits


def _segments(frame: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and data of what precedes the pixels of a JPEG, then `SCAN` and the rest of it.

    Raises:
        _UnusableError: anything else is between them, where a decoder may see something.
    """
    at = 2 if frame.startswith(b"\xff\xd8") else len(frame)
    for _ in range(MOST_SEGMENTS):
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
    raise _UnusableError("the compressed image is damaged: no JPEG")


def _size_in_2000(frame: bytes) -> tuple[int, int, int, int]:
    """Rows, columns, samples and bits of JPEG 2000, from its SIZ segment, which has to come first.

    Raises:
        _UnusableError: it does not, as in a JP2 file, which DICOM does not allow; its samples
            differ in size or bits; or it has too many tiles.
    """
    if len(frame) < SIZES_2000.size or not frame.startswith(b"\xff\x4f\xff\x51"):
        raise _UnusableError("the compressed image is damaged: no codestream of JPEG 2000")
    found = SIZES_2000.unpack_from(frame)
    _, length, _, right, bottom, left, top, wide, high, tiles_left, tiles_top, samples = found
    components = {*struct.iter_unpack("3B", frame[SIZES_2000.size :][: 3 * samples])}
    if len(components) != 1 or length != 38 + 3 * samples:
        raise _UnusableError("the compressed image is damaged: samples of several kinds")
    ((depth, *steps),) = components
    across, down = (right - tiles_left) / (wide or 1), (bottom - tiles_top) / (high or 1)
    if steps != [1, 1] or math.ceil(across) * math.ceil(down) > MOST_TILES:
        raise _UnusableError("the compressed image is damaged: wrong tiles or steps")
    return bottom - top, right - left, samples, (depth & 127) + 1


# --- DICOM: from stored values to grey -----------------------------------------------------------


def _shown(
    stored: NDArray[Any], tags: Dataset, layout: dict[str, Any]
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """As a viewer shows it: uint8 (H, W), and notes.

    There are at most 65,536 stored values, so what happens to each is worked out once, in a table.
    """
    indices = stored.view(f"u{stored.itemsize}")
    levels = np.arange(256**stored.itemsize, dtype=indices.dtype).view(stored.dtype)
    padding = _padding(levels, tags)
    counts = np.bincount(indices.ravel(), minlength=len(levels))
    counts[padding] = 0
    if not counts.any():
        raise _UnusableError("every pixel is padding (PixelPaddingValue)")
    grey, notes = _windowed(_rescaled(levels, tags), counts, tags)
    if layout["photometric_interpretation"] == "MONOCHROME1":  # low values are light
        grey = 1 - grey
    grey[padding] = 0
    return np.rint(255 * grey).astype(np.uint8)[indices], notes


def _padding(levels: NDArray[Any], tags: Dataset) -> NDArray[np.bool_]:
    """Which stored values mean that nothing was radiographed there."""
    value = _number(tags, "PixelPaddingValue")
    limit = _number(tags, "PixelPaddingRangeLimit", value)
    if not math.isfinite(value) or not math.isfinite(limit):
        return np.zeros(len(levels), bool)
    # Signed values are often written as unsigned ones: the cast wraps them around.
    ends = np.array([value, limit]).astype(np.int64).astype(levels.dtype)
    return (levels >= ends.min()) & (levels <= ends.max())


def _rescaled(levels: NDArray[Any], tags: Dataset) -> NDArray[np.float64]:
    """By the modality LUT or the rescale tags.

    Raises:
        _UnusableError: they give no numbers, or the same for all.
    """
    if _has_table(tags, "ModalityLUTSequence"):
        return _looked_up(levels.astype(np.float64), tags, "ModalityLUTSequence")[0]
    slope = _number(tags, "RescaleSlope", 1.0)
    values = levels * slope + _number(tags, "RescaleIntercept", 0.0)
    if slope == 0 or not np.isfinite(values).all():
        raise _UnusableError("RescaleSlope or RescaleIntercept cannot be used")
    return values


def _has_table(tags: Dataset, keyword: str) -> bool:
    """Whether a sequence has a table that is not empty."""
    tables = tags.get(keyword)
    return bool(tables) and len(tables[0]) > 0


def _looked_up(
    values: NDArray[np.float64], tags: Dataset, keyword: str
) -> tuple[NDArray[np.float64], int, bool]:
    """Through the first table of a sequence; also the largest value of as many bits as its entries
    use, and whether these bits and the number of entries are those of its descriptor. Some devices
    write the 16 bits in which entries of 12 are stored.

    Raises:
        _UnusableError: the table is damaged.
    """
    try:
        item = tags[keyword].value[0]
        entries, first, bits = (int(number) for number in item["LUTDescriptor"].value)
        entries = entries or 2**16
        table = _table(item["LUTData"].value, entries, bool(tags.original_encoding[1]))
        first -= 2**16 if first > values.max() else 0  # negative, but written as unsigned
        places = np.clip(np.rint(values) - first, 0, len(table) - 1).astype(np.int64)
        used = max(1, int(table.max()).bit_length())
        return table[places], 2**used - 1, (used, len(table)) == (bits, entries)
    except Exception:  # its text may hold values of tags
        pass
    raise _UnusableError(f"{keyword} is damaged")


def _table(data: Any, entries: int, is_little: bool) -> NDArray[np.float64]:
    """LUTData: words, or their bytes; a word holds one entry, or two, the first in its low byte."""
    words = np.frombuffer(data, "<u2" if is_little else ">u2") if isinstance(data, bytes) else data
    words = np.atleast_1d(words).astype("<u2")
    if entries > 1 and len(words) == (entries + 1) // 2:
        words = words.view("u1")
    return words[:entries].astype(np.float64)


def _windowed(
    values: NDArray[np.float64], counts: NDArray[np.int64], tags: Dataset
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Grey from 0 to 1 of each value, and notes.

    Args:
        values: that stored values stand for.
        counts: pixels that have them.
        tags: of the file.
    """
    try:
        told, notes = _as_told(values, tags)
    except _UnusableError:
        return _by_range(values, counts, tags), (NO_WINDOW,)
    if told is None:
        return _by_range(values, counts, tags), ()
    if np.ptp(told[counts > 0]) == 0:  # beside all the values
        return _by_range(values, counts, tags), (NO_WINDOW,)
    return told, notes


def _as_told(
    values: NDArray[np.float64], tags: Dataset
) -> tuple[NDArray[np.float64] | None, tuple[str, ...]]:
    """By the first VOI LUT or else the first window (DICOM PS3.3, C.11.2), with notes; None: has
    neither.

    Raises:
        _UnusableError: no such window is possible.
    """
    if _has_table(tags, "VOILUTSequence"):
        found, most, fits = _looked_up(values, tags, "VOILUTSequence")
        return found / most, () if fits else (OTHER_TABLE,)
    window = [_number(tags, keyword, math.inf) for keyword in ("WindowCenter", "WindowWidth")]
    if window == [math.inf, math.inf]:  # missing, or empty
        return None, ()
    function = _text(tags, "VOILUTFunction") or "LINEAR"
    return _through_window(values, window[0], window[1], function), ()


def _through_window(
    values: NDArray[np.float64], centre: float, width: float, function: str
) -> NDArray[np.float64]:
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    if not math.isfinite(centre) or not 0 < width < math.inf:
        raise _UnusableError("WindowCenter or WindowWidth cannot be used")
    match function:
        case "LINEAR" | "LINEAR_EXACT":
            return np.clip((values - centre) / width + 0.5, 0, 1)
        case "SIGMOID":
            return 1 / (1 + np.exp(-4 * (values - centre) / width))
        case _:
            raise _UnusableError("its VOILUTFunction is unknown")


def _by_range(
    values: NDArray[np.float64], counts: NDArray[np.int64], tags: Dataset
) -> NDArray[np.float64]:
    """Grey from 0 to 1 where a file does not say which values are black and white."""
    if len(values) == 256:  # 8 bits or fewer are made to be shown as they are
        is_signed = _whole(tags, "PixelRepresentation", 0)
        possible = values if is_signed else values[: 2 ** _whole(tags, "BitsStored")]
        low, high = possible.min(), possible.max()
    else:
        order = np.argsort(values)
        below = np.cumsum(counts[order]) / counts.sum()
        ends = np.searchsorted(below, (BEYOND_RANGE, 1 - BEYOND_RANGE))
        low, high = values[order][ends]
    return np.clip((values - low) / ((high - low) or 1), 0, 1)


def _in_colour(
    stored: NDArray[Any], tags: Dataset, bits: int
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """RGB: uint8 (H, W, 3) of palette indices (H, W) or of RGB (H, W, 3) of so many bits; notes."""
    if stored.ndim == 3:
        return _high_bits(stored, bits), ()
    indices = stored.view(f"u{stored.itemsize}")
    levels = np.arange(256**stored.itemsize, dtype=indices.dtype).view(stored.dtype)
    colours = apply_color_lut(levels, tags)[:, :3]
    if colours.itemsize == 2 and colours.max() < 256:  # entries of 8 bits in words of 16
        return colours.astype(np.uint8)[indices], (OTHER_TABLE,)
    return _high_bits(colours, 8 * colours.itemsize)[indices], ()


def _high_bits(colours: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    return (colours >> max(0, bits - 8)).astype(np.uint8)


# --- DICOM: single tags --------------------------------------------------------------------------


def _notes_of(tags: Dataset) -> tuple[str, ...]:
    """What the file says that a chest radiograph would not; missing tags say nothing."""
    modality, part = _text(tags, "Modality"), _words(tags, "BodyPartExamined")
    view = _words(tags, "ViewPosition")
    found = {
        OTHER_MODALITY: modality and modality not in RADIOGRAPHY,
        OTHER_PART: part and not CHEST.search(part),
        # Of a patient who lies on the side, the view is frontal.
        OTHER_VIEW: LATERAL.search(view) and "DECUB" not in view,
        FOR_PROCESSING: _text(tags, "PresentationIntentType") == "FOR PROCESSING"
        or tags.get("SOPClassUID") == DigitalXRayImageStorageForProcessing,
    }
    return tuple(note for note, is_so in found.items() if is_so)


def _text(tags: Dataset, keyword: str) -> str:
    """Upper case; empty where missing."""
    return str(tags.get(keyword) or "").strip().upper()


def _words(tags: Dataset, keyword: str) -> str:
    """Upper case without accents, separated by spaces; empty where missing."""
    text = _text(tags, keyword)
    with suppress(UnicodeError):  # such tags are in ASCII; UTF-8 is read as Latin-1
        text = text.encode("latin-1").decode()
    signs = unicodedata.normalize("NFKD", text).upper()
    letters = "".join(sign for sign in signs if not unicodedata.combining(sign))
    return re.sub(r"[\W_]+", " ", letters)


def _number(tags: Dataset, keyword: str, missing: float = math.nan) -> float:
    """The first value of a tag; not a number where it is none."""
    try:
        value = tags.get(keyword)
        if value is not None and not isinstance(value, (str, bytes, float, int)):
            value = value[0] if len(value) else None
        return float(missing if value is None or value == "" else value)
    except Exception:  # pydicom raises nearly anything
        return math.nan


def _whole(tags: Dataset, keyword: str, missing: int | None = None) -> int:
    """Raises _UnusableError: missing or not a whole number."""
    number = _number(tags, keyword, math.inf if missing is None else missing)
    if number == math.inf and missing is None:
        raise _UnusableError(f"DICOM file without {keyword}")
    if not number.is_integer():
        raise _UnusableError(f"{keyword} is not a whole number")
    return int(number)
