"""Write a file whole or not at all."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` (same suffix); rename it to `path` on success.

    Works for files and for folders. Whatever stood at the temporary name before, or is left there
    by an error, is removed, so that nothing half-written can be mistaken for a result.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".part-{path.name}")
    remove(temporary)
    try:
        yield temporary
        if temporary.is_dir():
            remove(path)
        os.replace(temporary, path)
    finally:
        remove(temporary)


def remove(path: Path) -> None:
    """Remove a file or a folder with all it holds; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write `value` as indented JSON; NaN and infinity are refused (ValueError)."""
    with replacing(path) as part:
        part.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write `table` without its index, with the same line ends on every system."""
    with replacing(path) as part:
        table.to_csv(part, index=False, lineterminator="\n")
