"""Atomic writes of files and folders; YAML 1.2."""

import glob
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import psutil  # type: ignore[import-untyped]
import yaml  # type: ignore[import-untyped]

from cxr.errors import CxrError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Atomic write: yield a temporary path next to `path`, rename it to `path` on success.

    For files and folders. On an error the temporary path is removed and `path` is unchanged.

    Raises:
        CxrError: `path` cannot be written, as on a full disk.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temp_path(path)
        try:
            yield temporary
            if temporary.is_dir():
                remove(path)
            os.replace(temporary, path)
        finally:
            remove(temporary)
    except OSError as error:
        # On a full disk the error names no file, and that of HDF5 has many lines.
        reason = os.strerror(error.errno) if error.errno and not error.filename else error
        raise CxrError(f"{path} cannot be written: {reason}") from error


def temp_path(path: Path) -> Path:
    """Unused temporary path next to `path`, with its suffix, unique to this process.

    Removes the temporary files of processes that have ended. Those of a running process stay: a
    stage outlives a killed `dvc repro` and may be writing the same result.
    """
    for leftover in path.parent.glob(f".part-*-{glob.escape(path.name)}"):
        pid = leftover.name.split("-")[1]
        if pid == str(os.getpid()) or not (pid.isdigit() and psutil.pid_exists(int(pid))):
            remove(leftover)
    return path.with_name(f".part-{os.getpid()}-{path.name}")


def remove(path: Path) -> None:
    """Remove a file, link or folder tree if it exists."""
    with suppress(FileNotFoundError):  # another process may remove it at the same time
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write `value` as indented JSON; NaN and infinity raise ValueError."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write `table` without its index, with Unix line endings on every system."""
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


class _Loader(yaml.SafeLoader):
    """YAML 1.2, as written by DVC: `1e-05` is a number; `yes`, `off` and dates are strings.

    Duplicate keys are an error; PyYAML would take the last one.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # without those of YAML 1.1

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"duplicate key {key.value}"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen.add(key.value)
        return node


for _tag, _pattern, _first in (
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", "true|True|TRUE|false|False|FALSE", ["t", "T", "f", "F"]),
    ("int", "[-+]?(0|[1-9][0-9]*)", [*"-+0123456789"]),
    ("float", r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", [*"-+.0123456789"]),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", [*"-+."]),
    ("merge", "<<", ["<"]),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})\\Z"), _first
    )


def parse_yaml(text: str) -> Any:
    """Parse YAML or JSON into dictionaries, lists, strings, numbers, booleans and None.

    Raises:
        ValueError: invalid YAML or a duplicate key; the message is one line.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ValueError(f"{error.problem}{where}") from error
    except Exception as error:  # wrong tags and deep nesting raise various types
        raise ValueError(" ".join(str(error).split())) from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file with a mapping at the top, which is in git.

    Raises:
        CxrError: the file is missing or invalid, has a duplicate key or no keys.
    """
    remedy = f"`git checkout {path}` restores the committed file"
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CxrError(f"{path} cannot be read: {error}; {remedy}") from error
    if not isinstance(content, dict):
        raise CxrError(f"{path} has no keys; {remedy}")
    return content
