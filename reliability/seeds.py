"""Seeds for fuzzing: synthetic images and tables in every supported format.

None is from a data set, and none is stored, because they are generated again.
"""

import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from cxr.data.manifest import COLUMNS
from cxr.tools.project_copy import PROJECT

SIZE = (48, 40)
NAMES = (
    "train/NORMAL/IM-0001-0001.jpeg",
    "train/PNEUMONIA/person1_bacteria_2.jpeg",
    "val/NORMAL/NORMAL2-IM-0001-0001.png",
    "test/PNEUMONIA/person1_virus_6.JPG",
)


def write_seeds(target: str, folder: Path) -> None:
    """Write the seeds of one target to an existing folder."""
    for name, content in ALL[target]():
        (folder / name).write_bytes(content)


def images() -> Iterator[tuple[str, bytes]]:
    exif = Image.Exif()
    exif[0x0112] = 6
    for mode in ("L", "RGB", "CMYK"):
        for progressive in (False, True):
            name = f"{mode}{'-progressive' if progressive else ''}.jpeg"
            yield name, encoded(chest(mode), "JPEG", progressive=progressive, quality=40)
    yield "rotated.jpeg", encoded(chest("L"), "JPEG", exif=exif, quality=40)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        yield f"{mode}.png", encoded(chest(mode), "PNG")
    deep = (np.asarray(chest("L")).astype(np.uint16) << 8) | 0x5A
    yield "16-bit.png", encoded(Image.fromarray(deep), "PNG")
    yield "rotated.png", encoded(chest("L"), "PNG", exif=exif)
    yield "transparent.png", encoded(chest("P"), "PNG", transparency=b"\x00\x80")
    frames = [chest("L").rotate(angle) for angle in (5, 10)]
    yield "animated.png", encoded(chest("L"), "PNG", save_all=True, append_images=frames)
    yield "pixel.png", encoded(Image.new("L", (1, 1)), "PNG")
    yield "long.png", encoded(Image.new("L", (3000, 4), 200), "PNG")


def chest(mode: str) -> Image.Image:
    """Bright body with two dark lungs."""
    image = Image.new("L", SIZE, 170)
    pen = ImageDraw.Draw(image)
    for left in (6, 27):
        pen.ellipse((left, 6, left + 14, 34), 60)
    return image.convert(mode)


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def tables() -> Iterator[tuple[str, bytes]]:
    values = {"width": "48", "height": "40", "mode": "L", "bytes": "900"}
    values |= {"sha256": "ab" * 32, "phash": "0f" * 32}
    for quote in ("", '"'):
        lines = [COLUMNS]
        for name in NAMES:
            split, label, _ = name.split("/")
            row = {"path": name, "split": split, "label": label, "patient": "p1", **values}
            lines.append([row.get(column, "none") for column in COLUMNS])
        text = "".join(",".join(quote + cell + quote for cell in line) + "\n" for line in lines)
        yield f"{'quoted' if quote else 'plain'}.csv", text.encode()


def lists() -> Iterator[tuple[str, bytes]]:
    yield "plain.txt", "\n".join(NAMES).encode()
    twice = (f"{root}{name}" for root, name in itertools.product(("a/", "a/b/"), NAMES))
    yield "nested.txt", "\n".join((*twice, "__MACOSX/x.png", "a/.hidden", "notes.txt")).encode()
    yield "roots.txt", "\n".join(f"{root}/{NAMES[0]}" for root in "ab").encode()


def settings() -> Iterator[tuple[str, bytes]]:
    lines = (PROJECT / "params.yaml").read_text(encoding="utf-8").splitlines()
    plain = [line.split(" #")[0].rstrip() for line in lines if not line.startswith("#")]
    yield "params.yaml", "\n".join(filter(None, plain)).encode()
    yield "anchors.yaml", b"a: &a {x: 1}\nb: {<<: *a}\nc: [*a, *a]\n"
    yield "kinds.yaml", b"seed: .inf\ndata: !!str 2026-01-01\nsplit: [0x1F, 1e-05, ~, |-\n  text]\n"
    yield "twice.yaml", b"%YAML 1.1\n---\nseed: 1\nseed: 2\n---\n? [a]\n: 'b'\n"


ALL = {"image": images, "table": tables, "names": lists, "params": settings}
