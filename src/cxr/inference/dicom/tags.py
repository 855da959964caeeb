"""Read the tags of a DICOM file that describe its pixels, with warnings about its content.

Only the tags in `TAGS` are read, and neither results nor errors contain a value of a text tag, so
they cannot identify a patient.
"""

import io
import math
import re
import unicodedata
import zlib
from contextlib import suppress
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_preamble
from pydicom.pixels.decoders.base import get_decoder
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from cxr.data.images import MAX_PIXELS

# First bytes of DICOM data without the preamble: group 2 or 8 little-endian, group 8 big-endian.
FIRST_GROUPS = (b"\x02\0", b"\x08\0", b"\0\x08")

# Samples per pixel, by photometric interpretation.
SAMPLES = {
    **{"MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1},
    **{"RGB": 3, "YBR_FULL": 3, "YBR_FULL_422": 3, "YBR_ICT": 3, "YBR_RCT": 3},
}
PALETTES = [
    f"{segmented}{color}PaletteColorLookupTable{part}"
    for color in ("Red", "Green", "Blue")
    for segmented, part in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
]
TAGS: list[BaseTag | int] = [
    Tag(keyword)
    for keyword in (
        *("PixelData", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation"),
        *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
        *("PlanarConfiguration", "NumberOfFrames"),
        *("PixelPaddingValue", "PixelPaddingRangeLimit"),
        *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
        *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
        *("Modality", "BodyPartExamined", "ViewPosition"),
        *("SOPClassUID", "PresentationIntentType"),
        *PALETTES,
    )
]

RADIOGRAPHY = ("CR", "DX", "DR", "RG", "XR")  # Modality; DR is not a defined term, but is in use
# In BodyPartExamined, without accents; also as a part of a longer word: CHESTPA, PULMONES.
CHEST = re.compile(
    r"CHEST|LUNG|PULMO"  # English, German, Latin
    r"|THORAX|TORAX|TORACE"  # French and German, Spanish and Portuguese, Italian
    r"|BRUSTKORB|\bBRUST\b"  # German; not BRUSTWIRBEL, which are bones of the back
    r"|POITRINE|POUMON|PECHO|PEITO|PETTO|PULMAO|POLMON"
)
# In ViewPosition: defined terms, and words of these languages.
LATERAL = re.compile(r"\b(LL|RL|LLAT|RLAT|LAT|LATERAL\w*|PERFIL|PROFIL|PROFILO|SEITLICH)\b")
OTHER_MODALITY = f"Modality is not one of {', '.join(RADIOGRAPHY)}: not a radiograph"
OTHER_PART = "BodyPartExamined is not a known word for the chest"
OTHER_VIEW = "ViewPosition is lateral, not frontal"
FOR_PROCESSING = "FOR PROCESSING, not FOR PRESENTATION: raw detector data, not for viewing"


class DicomError(Exception):
    """A DICOM file cannot be read; the message contains no value of a text tag."""


@dataclass(frozen=True)
class PixelLayout:
    """How the pixels are stored; the names are those of pydicom's decoder options."""

    rows: int
    columns: int
    samples_per_pixel: int
    bits_allocated: int
    bits_stored: int
    pixel_representation: int
    planar_configuration: int
    photometric_interpretation: str

    @property
    def is_monochrome(self) -> bool:
        return self.photometric_interpretation.startswith("MONOCHROME")

    @property
    def n_bytes(self) -> int:
        """Size of the uncompressed pixels."""
        samples = self.rows * self.columns * self.samples_per_pixel
        if self.photometric_interpretation == "YBR_FULL_422":
            samples = samples * 2 // 3  # half of the chrominance samples
        return samples * self.bits_allocated // 8


def begins_as_dicom(content: bytes) -> bool:
    """Whether the first 132 bytes of a file are those of a DICOM file, with or without preamble."""
    return content[128:132] == b"DICM" or content.startswith(FIRST_GROUPS)


def read_tags(content: bytes) -> tuple[Dataset, UID]:
    """Raw tags of a file, of those in `TAGS`, and its transfer syntax.

    Raises:
        DicomError: the transfer syntax is not supported, or the inflated data exceed the limit.
    """
    file = io.BytesIO(content)
    read_preamble(file, force=True)  # skips it if there is one
    syntax = _syntax_of(file)
    if syntax == DeflatedExplicitVRLittleEndian:
        file = io.BytesIO(_inflated(file.read()))
    # `read_dataset` detects explicit and implicit value representations by itself.
    return read_dataset(file, False, syntax.is_little_endian, specific_tags=TAGS), syntax


def _syntax_of(file: io.BytesIO) -> UID:
    """The transfer syntax; the file position is then the start of the data set."""
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
        if not decoder.UID.is_encapsulated or plugin(decoder.UID) in decoder.available_plugins:
            return decoder.UID
    raise DicomError("DICOM transfer syntax is not supported (such as video)")


def plugin(syntax: UID) -> str:
    """The pydicom plugin for a transfer syntax: the same one whatever is installed."""
    if not syntax.is_encapsulated:
        return ""
    return "pydicom" if syntax == RLELossless else "gdcm"


def _inflated(packed: bytes) -> bytes:
    """Raises DicomError: the data exceed the largest image at 16 bits."""
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    data = unpacker.decompress(packed, 2 * MAX_PIXELS)
    if unpacker.unconsumed_tail:
        raise DicomError(
            f"deflated DICOM file exceeds the {2 * MAX_PIXELS // 10**6}-megabyte limit "
            "(possible decompression bomb)"
        )
    return data


def layout_of(tags: Dataset) -> PixelLayout:
    """How the pixels are stored.

    Raises:
        DicomError: tags are missing or contradict each other, there are several frames, or more
            than `MAX_PIXELS` pixels.
    """
    layout = PixelLayout(
        rows=whole(tags, "Rows"),
        columns=whole(tags, "Columns"),
        samples_per_pixel=whole(tags, "SamplesPerPixel", 1),
        bits_allocated=whole(tags, "BitsAllocated"),
        bits_stored=whole(tags, "BitsStored"),
        pixel_representation=whole(tags, "PixelRepresentation", 0),
        planar_configuration=whole(tags, "PlanarConfiguration", 0),
        photometric_interpretation=text(tags, "PhotometricInterpretation"),
    )
    stored, pixels = layout.bits_stored, layout.rows * layout.columns
    samples = SAMPLES.get(layout.photometric_interpretation)
    is_wrong = {
        f"{layout.columns} x {layout.rows} pixels exceed the {MAX_PIXELS // 10**6}-megapixel "
        "limit (possible decompression bomb)": pixels > MAX_PIXELS,
        "Rows or Columns is 0": pixels <= 0,
        "NumberOfFrames is not 1: split the file by frame": whole(tags, "NumberOfFrames", 1)
        not in (0, 1),
        "PhotometricInterpretation is not supported": samples is None,
        "SamplesPerPixel and PhotometricInterpretation disagree": layout.samples_per_pixel
        != samples,
        "BitsAllocated is neither 8 nor 16": layout.bits_allocated not in (8, 16),
        "BitsStored is not from 1 to BitsAllocated": not 1 <= stored <= layout.bits_allocated,
        "HighBit is not BitsStored - 1": whole(tags, "HighBit", stored - 1) != stored - 1,
        "PixelRepresentation is neither 0 nor 1": layout.pixel_representation not in (0, 1),
        "PlanarConfiguration is neither 0 nor 1": layout.planar_configuration not in (0, 1),
    }
    for problem, found in is_wrong.items():
        if found:
            raise DicomError(problem)
    return layout


def content_warnings(tags: Dataset) -> tuple[str, ...]:
    """Warnings about tags that contradict a frontal chest radiograph for viewing."""
    modality, part = text(tags, "Modality"), _words(tags, "BodyPartExamined")
    view = _words(tags, "ViewPosition")
    found = {
        OTHER_MODALITY: modality and modality not in RADIOGRAPHY,
        OTHER_PART: part and not CHEST.search(part),
        # The view in lateral decubitus position is frontal.
        OTHER_VIEW: LATERAL.search(view) and "DECUB" not in view,
        FOR_PROCESSING: text(tags, "PresentationIntentType") == "FOR PROCESSING"
        or tags.get("SOPClassUID") == DigitalXRayImageStorageForProcessing,
    }
    return tuple(warning for warning, applies in found.items() if applies)


def text(tags: Dataset, keyword: str) -> str:
    """Value of a tag in upper case; empty if missing."""
    return str(tags.get(keyword) or "").strip().upper()


def _words(tags: Dataset, keyword: str) -> str:
    """Value of a tag in upper case, words without accents separated by spaces; empty if missing."""
    found = text(tags, keyword)
    with suppress(UnicodeError):  # such tags are in ASCII; UTF-8 is read as Latin-1
        found = found.encode("latin-1").decode()
    characters = unicodedata.normalize("NFKD", found).upper()
    letters = "".join(one for one in characters if not unicodedata.combining(one))
    return re.sub(r"[\W_]+", " ", letters)


def number(tags: Dataset, keyword: str, missing: float = math.nan) -> float:
    """The first value of a tag; NaN if it is not a number."""
    try:
        value = tags.get(keyword)
        if value is not None and not isinstance(value, (str, bytes, float, int)):
            value = value[0] if len(value) else None
        return float(missing if value is None or value == "" else value)
    except Exception:  # pydicom raises nearly any type
        return math.nan


def whole(tags: Dataset, keyword: str, missing: int | None = None) -> int:
    """Integer value of a tag. Raises DicomError: it is missing or not an integer."""
    value = number(tags, keyword, math.inf if missing is None else missing)
    if value == math.inf and missing is None:
        raise DicomError(f"DICOM file without {keyword}")
    if not value.is_integer():
        raise DicomError(f"{keyword} is not an integer")
    return int(value)
