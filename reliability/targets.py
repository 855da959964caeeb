"""What is fuzzed: each target takes any bytes and raises AssertionError where it finds a mistake.

Whatever else than the one error for users comes out of a reader is a mistake as well, and goes
through.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np

from cxr.common.names import LABELS, SPLITS
from cxr.data import manifest
from cxr.data.dataset_folder import SourceError, select_images
from cxr.data.images import ImageError, decode, to_gray
from cxr.data.transforms import prepare
from cxr.errors import CxrError
from cxr.params import ImageParams, Params, read_params

SIDE = 16
WAYS = [ImageParams(input_size=SIDE, resize=way) for way in ("crop", "stretch", "letterbox")]


def image(content: bytes) -> None:
    """A file is refused, or becomes a grey square in every way that params.yaml offers."""
    for enough in (0, SIDE):
        try:
            grey = to_gray(decode(content, Path("x.jpeg"), enough))
        except ImageError:
            continue
        for params in WAYS:
            square = prepare(grey, params)
            assert square.dtype == np.uint8
            assert square.shape == (SIDE, SIDE)


def table(content: bytes) -> None:
    """A manifest is refused, or a table of texts and whole numbers without a gap."""
    try:
        found = manifest.read(_written(content, "manifest.csv"))
    except CxrError:
        return
    assert sorted(found.columns) == sorted(manifest.COLUMNS)
    assert found["split"].isin(SPLITS).all()
    assert found["label"].isin(LABELS).all()
    for column in found.columns:
        if column in ("width", "height", "bytes"):
            assert found[column].dtype == np.int64
        else:
            assert all(isinstance(value, str) for value in found[column])


def names(content: bytes) -> None:
    """Each path, one a line, is an image with a patient or counted as left out."""
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    paths = {PurePosixPath(line) for line in lines} - {PurePosixPath("origin.json")}
    try:
        selection = select_images(paths)
    except SourceError:
        return
    left_out = selection.stray + selection.nested + selection.other + len(selection.unplaced)
    assert len(selection.images) + left_out == len(paths)
    for path, (split, label) in selection.images.items():
        assert split in SPLITS
        assert label in LABELS
        patient, pathogen = manifest.identify(path, label)
        assert patient
        assert pathogen in ("bacteria", "virus", "none")


def params(content: bytes) -> None:
    """A params.yaml is refused, or a record."""
    try:
        found = read_params(_written(content, "params.yaml"))
    except CxrError:
        return
    assert isinstance(found, Params)


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
