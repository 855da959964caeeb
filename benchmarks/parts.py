"""What is measured in parts, of which each can be made anew alone: command line and results."""

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
    unnamed: tuple[str, ...] = (),
) -> None:
    """Measure the parts that the command line names, or all, and save what each finds.

    One is measured in this process. Of several, each has a process of its own, that none meets
    what another left in memory.

    Args:
        package: has a module with a function `measure` for each part, and is the command.
        about: says `--help`.
        parts: by name, in order.
        save: takes the name of a part and what its `measure` gave.
        unnamed: those to measure where the command line names none; empty: all.

    Raises:
        CxrError: a name is none of `parts`, or one of several has failed.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {package}", description=about)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(parts))
    names = parser.parse_args().names or unnamed or parts
    if unknown := sorted(set(names) - set(parts)):
        raise CxrError(f"{package} has no {', '.join(unknown)}; there are: {', '.join(parts)}")
    if len(names) == 1:
        save(names[0], importlib.import_module(f"{package}.{names[0]}").measure())
        return
    for name in names:
        if subprocess.run([sys.executable, "-m", package, name]).returncode:
            raise CxrError(f"`python -m {package} {name}` failed; its own error stands above")


def replace(
    results: Path, parts: tuple[str, ...], name: str, found: dict[str, Any]
) -> dict[str, Any]:
    """Put what one part found, and the machine, into a JSON file, in place of its last time.

    Returns:
        All of the file's content: by part, in the order of `parts`.
    """
    content = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    content[name] = {"machine": machine(), **found}
    ordered = {part: content[part] for part in parts if part in content}
    write_json(results, ordered)
    return ordered
