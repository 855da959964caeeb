"""Write a file whole or not at all; read YAML."""

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
    """Yield a temporary name beside `path` (same suffix); rename it to `path` on success.

    Works for files and for folders. What is left at the temporary name by an error is removed, so
    that nothing half-written can be mistaken for a result.

    Raises:
        CxrError: the disk is full, the folder cannot be written to, or the like.
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
        # Of a full disk it names no file, and HDF5's is of many lines.
        reason = os.strerror(error.errno) if error.errno and not error.filename else error
        raise CxrError(f"{path} cannot be written: {reason}") from error


def temp_path(path: Path) -> Path:
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


class _Loader(yaml.SafeLoader):
    """YAML 1.2, as DVC writes it: `1e-05` is a number; `yes`, `off` and dates are text.

    A key that is given twice is an error, where PyYAML would take the last one.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # those of YAML 1.1 are left out

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        given = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in given:
                    problem = f"duplicate key {key.value}"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                given.add(key.value)
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
    """Content of a YAML or JSON text: dictionaries, lists, text, numbers, booleans and None.

    Raises:
        ValueError: it is damaged, or has a key twice; the message is one line.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ValueError(f"{error.problem}{where}") from error
    except Exception as error:  # wrong tags and deep nesting raise nearly anything
        raise ValueError(" ".join(str(error).split())) from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Keys and values of a YAML file that is in git.

    Raises:
        CxrError: it is missing, is damaged, has a key twice or has no keys.
    """
    remedy = f"`git checkout {path}` restores the committed file"
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CxrError(f"{path} cannot be read: {error}; {remedy}") from error
    if not isinstance(content, dict):
        raise CxrError(f"{path} has no keys; {remedy}")
    return content
