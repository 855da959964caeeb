"""Write a file whole or not at all."""

import glob
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import psutil  # type: ignore[import-untyped]

from cxr.errors import CxrError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` (same suffix); rename it to `path` on success.

    Works for files and for folders. What is left at the temporary name by an error is removed, so
    that nothing half-written can be mistaken for a result.

    Raises:
        CxrError: the disk is full, the folder cannot be written to, or the like.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = part_of(path)
        try:
            yield temporary
            if temporary.is_dir():
                remove(path)
            os.replace(temporary, path)
        finally:
            remove(temporary)
    except OSError as error:
        # Of a full disk it names no file, and HDF5's is of many lines.
        reason = os.strerror(error.errno) if error.errno and not error.filename else error
        raise CxrError(f"{path} cannot be written: {reason}") from error


def part_of(path: Path) -> Path:
    """A temporary name beside `path` (same suffix) for this process alone, at which nothing stands.

    What ended processes have left at theirs is removed. One that still runs, as a stage does
    whose `dvc repro` was killed, is let be: two that write the same result do not meet.
    """
    for part in path.parent.glob(f".part-*-{glob.escape(path.name)}"):
        pid = part.name.split("-")[1]
        if pid == str(os.getpid()) or not (pid.isdigit() and psutil.pid_exists(int(pid))):
            remove(part)
    return path.with_name(f".part-{os.getpid()}-{path.name}")


def remove(path: Path) -> None:
    """Remove a file or a folder with all it holds; nothing happens where there is none."""
    with suppress(FileNotFoundError):  # another process can be removing it, too
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write `value` as indented JSON; NaN and infinity are refused (ValueError)."""
    with replacing(path) as part:
        part.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write `table` without its index, with the same line ends on every system."""
    with replacing(path) as part:
        table.to_csv(part, index=False, lineterminator="\n")
