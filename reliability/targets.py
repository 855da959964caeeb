"""Targets of fuzzing: each takes arbitrary bytes and raises AssertionError if it finds a bug.

Any other exception of a reader than CxrError is a bug as well, and is not caught.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np

from cxr.common.names import LABELS, SPLITS
from cxr.data import manifest
from cxr.data.dataset_folder import select_images
from cxr.data.images import ImageError, decode, to_gray
from cxr.data.transforms import prepare
from cxr.errors import CxrError
from cxr.params import ImageParams, Params, read_params

SIZE = 16
RESIZED = [ImageParams(input_size=SIZE, resize=mode) for mode in ("crop", "stretch", "letterbox")]


def image(content: bytes) -> None:
    """A file is rejected, or becomes a gray square with every `image.resize`."""
    for enough in (0, SIZE):
        try:
            gray = to_gray(decode(content, Path("x.jpeg"), enough))
        except ImageError:
            continue
        for params in RESIZED:
            square = prepare(gray, params)
            assert square.dtype == np.uint8
            assert square.shape == (SIZE, SIZE)


def table(content: bytes) -> None:
    """A manifest is rejected, or is a table of strings and integers without missing values."""
    try:
        rows = manifest.read(_written(content, "manifest.csv"))
    except CxrError:
        return
    assert sorted(rows.columns) == sorted(manifest.COLUMNS)
    assert rows["split"].isin(SPLITS).all()
    assert rows["label"].isin(LABELS).all()
    for column in rows.columns:
        if column in ("width", "height", "bytes"):
            assert rows[column].dtype == np.int64
        else:
            assert all(isinstance(value, str) for value in rows[column])


def names(content: bytes) -> None:
    """Each path (one per line) is an image with a patient, or is counted as left out."""
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    paths = {PurePosixPath(line) for line in lines} - {PurePosixPath("origin.json")}
    try:
        selection = select_images(paths)
    except CxrError:
        return
    assert len(selection.images) + sum(selection.left_out.values()) == len(paths)
    for path, (split, label) in selection.images.items():
        assert split in SPLITS
        assert label in LABELS
        patient, pathogen = manifest.identify(path, label)
        assert patient
        assert pathogen in ("bacteria", "virus", "none")


def params(content: bytes) -> None:
    """A params.yaml is rejected or gives `Params`."""
    try:
        record = read_params(_written(content, "params.yaml"))
    except CxrError:
        return
    assert isinstance(record, Params)


FOLDER = tempfile.TemporaryDirectory()


def _written(content: bytes, name: str) -> Path:
    path = Path(FOLDER.name, name)
    path.write_bytes(content)
    return path


TARGETS: dict[str, Callable[[bytes], None]] = {
    "image": image,
    "table": table,
    "names": names,
    "params": params,
}
