"""Command line and results of benchmarks whose parts can be measured separately."""

import argparse
import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.timing import machine
from cxr.common.files import write_json
from cxr.errors import CxrError


def measure(
    package: str,
    about: str | None,
    parts: tuple[str, ...],
    save: Callable[[str, Any], object],
    default: tuple[str, ...] = (),
) -> None:
    """Measure the parts that the command line names, and save their results.

    A single part runs in this process, several in a process each, so that none affects the memory
    of another.

    Args:
        package: package with a module for each part, which has a function `measure`.
        about: description for `--help`.
        parts: names, in order.
        save: takes the name of a part and the result of its `measure`.
        default: parts to measure if the command line names none; empty for all.

    Raises:
        CxrError: a name is not in `parts`, or one of several parts failed.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {package}", description=about)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(parts))
    names = parser.parse_args().names or default or parts
    if unknown := sorted(set(names) - set(parts)):
        raise CxrError(f"{package} has no {', '.join(unknown)}; there are: {', '.join(parts)}")
    if len(names) == 1:
        save(names[0], importlib.import_module(f"{package}.{names[0]}").measure())
        return
    for name in names:
        if subprocess.run([sys.executable, "-m", package, name]).returncode:
            raise CxrError(f"`python -m {package} {name}` failed: see its error above")


def replace(
    results: Path, parts: tuple[str, ...], name: str, entry: dict[str, Any]
) -> dict[str, Any]:
    """Replace the results of one part, with the machine, in a JSON file.

    Returns:
        Content of the file, by part, in the order of `parts`.
    """
    content = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    content[name] = {"machine": machine(), **entry}
    ordered = {part: content[part] for part in parts if part in content}
    write_json(results, ordered)
    return ordered
