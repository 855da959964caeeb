"""Which files the Python code of all processes that a test starts writes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

WATCH = Path(__file__).with_name("watch")  # holds a sitecustomize.py


@contextmanager
def watched(log: Path) -> Iterator[None]:
    """Processes that are started meanwhile note the paths that they change in `log`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(WATCH))
        patch.setenv("WRITES_LOG", str(log))
        yield


def elsewhere(log: Path, *folders: Path) -> set[Path]:
    """What was noted that lies in none of the folders, nor in /dev.

    Also left out is what Python keeps of the modules that it compiles.
    """
    noted = {Path(line) for line in log.read_text().splitlines()}
    return {
        path
        for path in noted
        if not any(path.is_relative_to(folder) for folder in (*folders, "/dev"))
        and path.parent.name != "__pycache__"
    }
