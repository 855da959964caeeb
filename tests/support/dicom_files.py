"""DICOM files for tests: written by pydicom, compressed by GDCM."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

from cxr.data.images import ImageError
from cxr.inference.radiograph import Radiograph, from_bytes, read

Gray = NDArray[np.uint8]


def ramp(bits: int = 12, signed: bool = False, size: int = 32) -> NDArray[Any]:
    """Pixels from the lowest to the highest value in equal steps."""
    lowest = -(2 ** (bits - 1)) if signed else 0
    levels = np.linspace(lowest, lowest + 2**bits - 1, size * size)
    kind = f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}"
    return levels.round().astype(kind).reshape(size, size)


def picture(bits: int = 8, channels: int = 0) -> NDArray[Any]:
    """A smooth image, higher than wide, without equal rows or columns."""
    rows, columns = np.mgrid[:24, :16]
    gray = (rows * 7 + columns * 3) / 210
    planes = [gray, gray**2, 1 - gray][:channels] or [gray]
    levels = np.stack(planes, axis=-1) * (2**bits - 1)
    pixels = levels.round().astype("u1" if bits <= 8 else "u2")
    return pixels if channels else pixels[..., 0]


def dataset(pixels: NDArray[Any], bits: int = 0, **tags: Any) -> Dataset:
    """Data set with pixels and `tags`; a tag that is None is removed."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    ds.SOPInstanceUID = "1.2.3"
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    ds.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    if pixels.ndim == 3:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = 8 * pixels.itemsize
    ds.BitsStored = bits or ds.BitsAllocated
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    ds.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    if len(ds.PixelData) % 2:
        ds.PixelData += b"\0"
    ds["PixelData"].VR = "OB" if pixels.itemsize == 1 else "OW"
    for keyword, value in tags.items():
        if value is None:
            del ds[keyword]
        else:
            setattr(ds, keyword, value)
    return ds


def content_of(ds: Dataset) -> bytes:
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def table(first: int, values: NDArray[Any], bits: int) -> list[Dataset]:
    """Value of a sequence of one lookup table."""
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(values) % 2**16, first % 2**16, bits])
    item.add_new("LUTData", "OW", values.astype("<u2").tobytes())
    return [item]


def framed(ds: Dataset, syntax: uid.UID, *frames: bytes, **tags: Any) -> bytes:
    """File with frames that are already compressed."""
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = encapsulate(list(frames))
    ds["PixelData"].VR = "OB"
    for keyword, value in tags.items():
        setattr(ds, keyword, value)
    return content_of(ds)


def by_gdcm(ds: Dataset, kind: int, folder: Path) -> bytes:
    """File with pixels that GDCM compresses."""
    raw, compressed = folder / "raw.dcm", folder / "compressed.dcm"
    raw.write_bytes(content_of(ds))
    reader, change, writer = (
        gdcm.ImageReader(),
        gdcm.ImageChangeTransferSyntax(),
        gdcm.ImageWriter(),
    )
    reader.SetFileName(str(raw))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(kind))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(compressed))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return compressed.read_bytes()


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


def radiograph_of(ds: Dataset) -> Radiograph:
    return from_bytes(content_of(ds), Path("x.dcm"))


def shown(content: bytes) -> Gray:
    """Gray values of a file."""
    return np.asarray(from_bytes(content, Path("x.dcm")).image)


def changed(content: bytes, after: bytes, offset: int, value: bytes) -> bytes:
    """Replace bytes at an offset from a marker within PixelData."""
    start = content.index(after, content.index(b"\xe0\x7f\x10\x00")) + offset
    return content[:start] + value + content[start + len(value) :]


def bomb() -> bytes:
    ds = grey8()
    ds.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    content = content_of(ds)
    packer = zlib.compressobj(wbits=-15)
    head = struct.pack("<HH2sHI", 8, 0x70, b"UT", 0, 150_000_000)
    packed = b"".join(packer.compress(part) for part in (head, *[bytes(10**6)] * 150))
    start = 132 + 12 + struct.unpack_from("<I", content, 140)[0]
    return content[:start] + packed + packer.flush()


def refused(content: bytes, folder: Path) -> str:
    """Message of the error for an unreadable file, without its name."""
    path = folder / "bad.dcm"
    path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert caught.value.__cause__ is caught.value.__context__ is None
    return str(caught.value).removeprefix(f"{path}: ")
