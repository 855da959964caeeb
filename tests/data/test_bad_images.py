"""Every kind of bad or odd image: decoded to the right pixels, or refused by name in one error.

`KINDS` is the list. All of them lie in one folder, which is verified as a whole and brought in by
each source; and each one is read alone, as preprocessing and predictions read it.
"""

import base64
import io
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import kagglehub
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cxr.common.files import write_csv
from cxr.data import manifest
from cxr.data.download import ensure_raw
from cxr.data.images import ImageError, read_file
from cxr.data.manifest import verify
from cxr.data.transforms import read_prepared
from cxr.errors import CxrError
from cxr.params import ImageParams, read_params
from cxr.tools.project_copy import PROJECT
from tests.support.servers import Serve, zipped

# As outside of tests: Pillow's warnings stop nothing.
pytestmark = pytest.mark.filterwarnings("ignore")

Levels = list[list[int]]

GRAYS: Levels = [[40, 200], [120, 80]]  # of the four quarters of most images
COLORS = [[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (255, 255, 255)]]
LUMINANCE: Levels = [[76, 150], [29, 255]]  # of these
PLACE = "train/NORMAL"
DATA = read_params(PROJECT / "params.yaml").data
PARAMS = ImageParams(input_size=32, resize="stretch")
NOBODY = 65534


@dataclass(frozen=True)
class Kind:
    """One kind of image.

    Attributes:
        put: content of the file, or what puts something in its place.
        pixels: gray values of the four quarters; None: unreadable.
        reason: part of the error; empty: not rejected. With `pixels` it is refused only as a
            part of a folder: what is wrong is its name or its place.
        name: of the file; empty: made from the kind.
    """

    put: bytes | Callable[[Path], object]
    pixels: Levels | None = None
    reason: str = ""
    name: str = ""


# --- how they are made ---------------------------------------------------------------------------


def quarters(levels: Any = GRAYS, width: int = 64, height: int = 64) -> Image.Image:
    pixels = np.array(levels, np.uint8)
    return Image.fromarray(pixels.repeat(height // 2, axis=0).repeat(width // 2, axis=1))


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64), np.uint8))


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def jpeg(image: Image.Image, **options: Any) -> bytes:
    return encoded(image, "JPEG", **{"quality": 95, **options})


def png(image: Image.Image, **options: Any) -> bytes:
    return encoded(image, "PNG", **options)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def raw_png(
    width: int, height: int, depth: int, color: int, rows: bytes, interlaced: int = 0
) -> bytes:
    """A PNG of the given header and rows, each with its filter byte; none where it is empty."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    data = chunk(b"IDAT", zlib.compress(rows)) if rows else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def rows_of(pixels: NDArray[Any]) -> bytes:
    """Rows of a PNG, big-endian, without filters."""
    data = pixels.astype(pixels.dtype.newbyteorder(">"))
    return b"".join(b"\0" + row.tobytes() for row in data)


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def exif_with(tag: int, kind: int) -> bytes:
    """Turned by EXIF, with another field of a wrong kind beside it."""
    entries = [(0x0112, 3, 6), (tag, kind, 1)]
    body = b"".join(struct.pack("<HHII", t, k, 1, v) for t, k, v in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + body + b"\0" * 8


def with_frame_header(offset: int, value: bytes) -> bytes:
    """A JPEG whose frame header is changed; its height is at offset 5."""
    content = bytearray(jpeg(quarters()))
    start = content.index(b"\xff\xc0") + offset
    content[start : start + len(value)] = value
    return bytes(content)


def parts(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The file cut off at every tenth of its length."""
    return ((tenth, content[: len(content) * tenth // 10]) for tenth in range(1, 10))


def without_checksum(content: bytes) -> bytes:
    """The checksum of the header is spoiled."""
    end = content.index(b"IDAT") - 4
    return content[: end - 4] + b"\0\0\0\0" + content[end:]


def link_to(target: Callable[[Path], Path]) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target(path))


def outside(path: Path) -> Path:
    """An image beside the folder of all images."""
    found = path.parents[3] / "outside.png"
    found.write_bytes(png(quarters()))
    return found


def beside(path: Path) -> Path:
    """An image in the same folder, hidden."""
    found = path.with_name(".hidden.png")
    found.write_bytes(png(quarters()))
    return Path(found.name)


def unreadable(path: Path) -> None:
    path.write_bytes(png(quarters()))
    path.chmod(0)


SMALL = png(quarters())
ARITHMETIC = base64.b64decode(  # by jpegtran -arithmetic of libjpeg-turbo
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBwYIDAoMDAsKCwsNDhIQDQ4RDgsLEBYQ"
    "ERMUFRUVDA8XGBYUGBIUFRT/yQALCAAQABABAREA/8wABgAQEAX/2gAIAQEAAD8A/wDmqvqKl8O4/9k="
)
UPRIGHT = {  # the quarters as they are seen, by the EXIF orientation
    1: [[40, 200], [120, 80]],
    2: [[200, 40], [80, 120]],
    3: [[80, 120], [200, 40]],
    4: [[120, 80], [40, 200]],
    5: [[40, 120], [200, 80]],
    6: [[120, 40], [80, 200]],
    7: [[80, 200], [120, 40]],
    8: [[200, 80], [40, 120]],
}

DECODED: dict[str, Kind] = {
    "gray jpeg": Kind(jpeg(quarters()), GRAYS),
    "gray png": Kind(SMALL, GRAYS),
    "color jpeg": Kind(jpeg(quarters(COLORS)), LUMINANCE),
    "color png": Kind(png(quarters(COLORS)), LUMINANCE),
    "progressive jpeg": Kind(jpeg(quarters(), progressive=True), GRAYS),
    "arithmetic-coded jpeg": Kind(ARITHMETIC, [[40, 200], [120, 200]]),
    "cmyk jpeg": Kind(jpeg(quarters(COLORS).convert("CMYK")), LUMINANCE),
    "jpeg with more after its end": Kind(jpeg(quarters()) + b"more" * 999, GRAYS),
    "palette": Kind(png(quarters(COLORS).convert("P")), LUMINANCE),
    "palette with transparency": Kind(
        png(quarters(COLORS).convert("P"), transparency=b"\0\x80\xff"), LUMINANCE
    ),
    "alpha": Kind(png(quarters(COLORS).convert("RGBA")), LUMINANCE),
    "gray with alpha": Kind(png(quarters().convert("LA")), GRAYS),
    "one bit": Kind(png(quarters([[0, 255], [255, 0]]).convert("1")), [[0, 255], [255, 0]]),
    "16-bit": Kind(png(Image.fromarray(np.asarray(quarters()).astype(np.uint16) * 257)), GRAYS),
    "animated png": Kind(png(quarters(), save_all=True, append_images=[noise()]), GRAYS),
    "1 pixel png": Kind(png(Image.new("L", (1, 1), 90)), [[90, 90], [90, 90]]),
    "30000 x 4 png": Kind(png(quarters(width=30_000, height=4)), GRAYS),
    "large": Kind(jpeg(quarters(width=600, height=500)), GRAYS),
    "png named jpeg": Kind(SMALL, GRAYS, name="a png.jpeg"),
    "jpeg named png": Kind(jpeg(quarters()), GRAYS, name="a jpeg.png"),
    "suffix in capitals": Kind(jpeg(quarters()), GRAYS, name="CAPITALS.JPEG"),
    "png with more after its end": Kind(SMALL + b"more" * 999, GRAYS),
    **{
        f"exif-rotated jpeg, {number}": Kind(jpeg(quarters(), exif=exif_of(number)), levels)
        for number, levels in UPRIGHT.items()
    },
    **{
        f"exif-rotated png, {number}": Kind(png(quarters(), exif=exif_of(number)), levels)
        for number, levels in UPRIGHT.items()
    },
    **{
        f"exif of unknown rotation, {number}": Kind(jpeg(quarters(), exif=exif_of(number)), GRAYS)
        for number in (0, 9, 65535)
    },
    **{
        f"damaged exif field {tag:x}": Kind(jpeg(quarters(), exif=exif_with(tag, kind)), UPRIGHT[6])
        for tag, kind in ((0x011A, 2), (0x0213, 7), (0x02BC, 2))
    },
    "very long name": Kind(SMALL, GRAYS, name="n" * 251 + ".png"),
    "very long name, not ASCII": Kind(SMALL, GRAYS, name="ü" * 125 + ".png"),
    "name of marks": Kind(SMALL, GRAYS, name="a,b;\"c'd`e$(f)|&<g>*?#%.png"),
    "name with a backslash": Kind(SMALL, GRAYS, name="back\\slash.png"),
    "name like a gap": Kind(SMALL, GRAYS, name="NA.png"),
    "name of other scripts": Kind(SMALL, GRAYS, name="胸部\u00a0ทรวงอก\u202f🩻.png"),
    "link within the folder": Kind(link_to(beside), GRAYS),
}

REFUSED: dict[str, Kind] = {
    "zero bytes": Kind(b"", reason="empty file"),
    **{
        f"{name} cut at {tenth}0 %": Kind(content, reason="truncated")
        for name, whole in (
            ("jpeg", jpeg(noise())),
            ("progressive jpeg", jpeg(noise(), progressive=True)),
            ("png", png(noise())),
        )
        for tenth, content in parts(whole)
    },
    "web page": Kind(b"<html>not found</html>", reason="cannot identify"),
    "dicom": Kind(bytes(128) + b"DICM" + bytes(500), reason="cannot identify"),
    **{
        f"{name.lower()} named jpeg": Kind(encoded(quarters(), name), reason="cannot identify")
        for name in ("GIF", "BMP", "TIFF", "WEBP", "PPM", "PDF", "JPEG2000")
    },
    "jpeg without height": Kind(with_frame_header(5, b"\0\0"), reason="cannot identify"),
    "jpeg with a gigapixel header": Kind(with_frame_header(5, b"\xff\xdc" * 2), reason="bomb"),
    "png with a gigapixel header": Kind(raw_png(100_000, 100_000, 8, 0, b"\0"), reason="bomb"),
    "png of 81 million pixels": Kind(raw_png(9_000, 9_000, 8, 0, b"\0"), reason="bomb"),
    "png without pixels": Kind(raw_png(64, 64, 8, 0, b""), reason="cannot load"),
    "png with a wrong checksum": Kind(without_checksum(SMALL), reason="cannot identify"),
    "link out of the folder": Kind(link_to(outside), GRAYS, reason="symbolic link"),
    "link to nothing": Kind(link_to(lambda path: Path("nothing.png")), reason="symbolic link"),
    "link to itself": Kind(link_to(lambda path: Path(path.name)), reason="symbolic link"),
    "unreadable permissions": Kind(unreadable, reason="ermission denied"),
    "folder named jpeg": Kind(Path.mkdir, reason="not a file"),
    "pipe": Kind(os.mkfifo, reason="not a file"),
    "name that is not UTF-8": Kind(SMALL, GRAYS, "not UTF-8", os.fsdecode(b"caf\xe9.png")),
    "name with a line feed": Kind(SMALL, GRAYS, "control", "line\nfeed.png"),
    "name with an escape": Kind(SMALL, GRAYS, "control", "\x1b[2Jescape.png"),
}

KINDS = DECODED | REFUSED


def name_of(kind: str) -> str:
    put = KINDS[kind].put
    suffix = "jpeg" if isinstance(put, bytes) and put[:2] == b"\xff\xd8" else "png"
    return KINDS[kind].name or f"{kind}.{suffix}"


def listed(kind: str) -> str:
    """How errors and tables name the file: on one line, in UTF-8."""
    signs = (f"\\x{ord(s):02x}" if ord(s) < 32 else s for s in name_of(kind))
    text = "".join(signs).replace("\\x0a", "\\n")
    return f"{PLACE}/{text.encode('utf-8', 'backslashreplace').decode()}"


def put(path: Path, kind: str) -> Path:
    made = KINDS[kind].put
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(made, bytes):
        path.write_bytes(made)
    else:
        made(path)
    return path


@contextmanager
def unprivileged() -> Iterator[None]:
    """As a user whom permissions bind; root is not."""
    if os.getuid():
        yield
        return
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A place that every user may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="module")
def folder(home: Path) -> Path:
    """All kinds, and one image of the other class. Do not change it."""
    found = home / "images"
    for kind in KINDS:
        put(found / PLACE / name_of(kind), kind)
    (found / "test/PNEUMONIA").mkdir(parents=True)
    (found / "test/PNEUMONIA/good.png").write_bytes(SMALL)
    verify(found, "skip")  # loads what an unprivileged user may not be permitted to
    return found


GOOD = sorted(["test/PNEUMONIA/good.png", *map(listed, DECODED)])


# --- all of them in a folder ---------------------------------------------------------------------


def test_there_are_enough_kinds() -> None:
    assert len(KINDS) >= 90
    assert len(set(map(name_of, KINDS))) == len(KINDS)
    assert all(kind.pixels and not kind.reason for kind in DECODED.values())
    assert all(kind.reason for kind in REFUSED.values())


def test_one_error_names_every_bad_file_and_no_other(folder: Path) -> None:
    with pytest.raises(CxrError, match=f"^{len(REFUSED)} file") as caught, unprivileged():
        verify(folder, "error")
    first, *lines, last = str(caught.value).splitlines()
    assert str(folder) in first
    assert "on_bad_image" in last
    assert len(lines) == len(REFUSED)
    for kind, expected in REFUSED.items():
        (line,) = [line for line in lines if line.startswith(f"  {listed(kind)}: ")]
        reason = line.removeprefix(f"  {listed(kind)}: ")
        assert expected.reason in reason
        assert len(reason) > 5
        assert str(folder) not in reason


def test_good_files_are_listed_and_bad_ones_reported(folder: Path, tmp_path: Path) -> None:
    with unprivileged():
        found = verify(folder, "skip")
    assert list(found.images["path"]) == GOOD
    for row in found.images.itertuples():
        content = (folder / row.path).read_bytes()
        assert (row.bytes, row.sha256) == (len(content), sha256(content).hexdigest())
        with Image.open(io.BytesIO(content)) as image:
            assert {row.width, row.height} == set(image.size)
    assert sorted(found.rejects["path"]) == sorted(map(listed, REFUSED))
    assert found.rejects["reason"].str.len().min() > 5
    write_csv(tmp_path / "rejects.csv", found.rejects)
    write_csv(tmp_path / "manifest.csv", found.images)
    assert list(manifest.read(tmp_path / "manifest.csv")["path"]) == GOOD


def test_an_unreadable_folder_is_named(home: Path) -> None:
    closed = home / "closed/train/NORMAL"
    closed.mkdir(parents=True)
    closed.chmod(0)
    try:
        with pytest.raises(PermissionError, match="NORMAL"), unprivileged():
            verify(home / "closed", "skip")
    finally:
        closed.chmod(0o755)


def test_a_file_that_changes_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Size and hash are those of the bytes that were decoded."""
    first = png(quarters(width=20, height=10))
    for label in ("NORMAL", "PNEUMONIA"):
        (tmp_path / "train" / label).mkdir(parents=True)
        (tmp_path / "train" / label / "x.png").write_bytes(first)

    def changes(path: Path) -> bytes:
        content = read_file(path)
        path.write_bytes(SMALL)
        return content

    monkeypatch.setattr(manifest, "read_file", changes)
    for row in verify(tmp_path, "error").images.itertuples():
        assert (row.width, row.height, row.bytes) == (20, 10, len(first))
        assert row.sha256 == sha256(first).hexdigest()


# --- each of them alone --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_correct_pixels_or_rejected(kind: str, folder: Path) -> None:
    path = folder / PLACE / name_of(kind)
    if KINDS[kind].pixels is None:
        with pytest.raises(ImageError) as caught, unprivileged():
            read_prepared(path, PARAMS)
        assert str(caught.value).startswith(f"{path}: ")
        assert len(str(caught.value)) > len(f"{path}: ") + 5
        return
    found = read_prepared(path, PARAMS)
    assert (found.shape, found.dtype) == ((32, 32), np.uint8)
    np.testing.assert_allclose(found[8::16, 8::16].astype(int), KINDS[kind].pixels, atol=3)


@pytest.mark.xfail(reason="Pillow fills in missing content without an error", strict=True)
@pytest.mark.parametrize(
    "content",
    [
        with_frame_header(5, b"\x0f\xff"),
        jpeg(noise())[:2000] + b"\xff\xd9",
        raw_png(64, 64, 8, 0, rows_of(np.asarray(quarters())[:40])),
    ],
    ids=["jpeg with a wrong height", "jpeg that ends early", "png with too few rows"],
)
def test_files_that_declare_a_shorter_content(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(ImageError):
        read_prepared(tmp_path / "x.png", PARAMS)


# --- by each source ------------------------------------------------------------------------------

# A source stops at unreadable files; `verify` reports files that cannot be decoded.
UNCOPIED = {
    kind: of
    for kind, of in REFUSED.items()
    if not isinstance(of.put, bytes) or of.pixels is not None
}
COPIED = {kind: of for kind, of in REFUSED.items() if kind not in UNCOPIED}


def in_place(raw: Path, good: list[str]) -> None:
    """The images that can be copied are there, as they were in the folder."""
    found = verify(raw, "skip")
    assert list(found.images["path"]) == good
    assert sorted(found.rejects["path"]) == sorted(map(listed, COPIED))
    with pytest.raises(CxrError, match=f"^{len(COPIED)} file"):
        verify(raw, "error")


@pytest.fixture
def brought(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Bring a folder into place by one of the sources that copy files."""

    def bring(raw: Path, folder: Path) -> None:
        monkeypatch.setattr(kagglehub, "dataset_download", lambda _: str(folder))
        given = {"source": request.param, "directory": str(folder)}
        ensure_raw(raw, DATA.model_copy(update=given))

    return bring


@pytest.mark.parametrize("brought", ["directory", "kaggle"], indirect=True)
def test_a_source_names_every_unreadable_image(
    brought: Callable[..., None], folder: Path, home: Path, request: pytest.FixtureRequest
) -> None:
    raw = home / request.node.name / "raw"
    raw.parent.mkdir()
    raw.parent.chmod(0o777)
    with pytest.raises(CxrError, match=f"^{len(UNCOPIED)} image") as caught, unprivileged():
        brought(raw, folder)
    _, *lines, _ = str(caught.value).splitlines()
    assert len(lines) == len(UNCOPIED)
    for kind, expected in UNCOPIED.items():
        (line,) = [line for line in lines if line.startswith(f"  {listed(kind)}: ")]
        assert expected.reason in line
    assert not list(raw.parent.iterdir())


@pytest.mark.parametrize("brought", ["directory", "kaggle"], indirect=True)
def test_a_source_copies_all_others(
    brought: Callable[..., None], folder: Path, tmp_path: Path
) -> None:
    names = {name_of(kind) for kind in UNCOPIED}
    shutil.copytree(folder, tmp_path / "rest", ignore=lambda _, found: names & {*found})
    brought(tmp_path / "raw", tmp_path / "rest")
    in_place(tmp_path / "raw", GOOD)


def test_an_archive_provides_all_nonempty_files(serve: Serve, folder: Path, tmp_path: Path) -> None:
    names = [f"{PLACE}/{name_of(kind)}" for kind in DECODED | COPIED]
    tree = {f"chest_xray/{name}": (folder / name).read_bytes() for name in names}
    serve(zipped({**tree, "chest_xray/test/PNEUMONIA/good.png": SMALL}))
    ensure_raw(tmp_path / "mendeley", DATA.model_copy(update={"source": "mendeley"}))
    in_place(tmp_path / "mendeley", GOOD)
