"""Record which files the Python processes that a test starts write."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

WATCH = Path(__file__).with_name("watch")  # holds a sitecustomize.py


@contextmanager
def watched(log: Path) -> Iterator[None]:
    """Processes that start within this context append the paths that they change to `log`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(WATCH))
        patch.setenv("WRITES_LOG", str(log))
        yield


def elsewhere(log: Path, *folders: Path) -> set[Path]:
    """Recorded paths outside the folders, without /dev and bytecode caches."""
    recorded = {Path(line) for line in log.read_text().splitlines()}
    return {
        path
        for path in recorded
        if not any(path.is_relative_to(folder) for folder in (*folders, "/dev"))
        and path.parent.name != "__pycache__"
    }
