"""Measure, print and save: `make bench`, or one alone: `python -m benchmarks steps`."""

import argparse
import dataclasses
import importlib
import json
import subprocess
import sys
from typing import Any

from benchmarks.timing import LIBRARIES, Comparison, machine
from cxr import paths
from cxr.document import Table
from cxr.errors import CxrError, run_stage
from cxr.files import replacing
from cxr.readme import speed

TABLE = paths.BENCHMARKS.with_suffix(".md")
BENCHMARKS = ("decoding", "steps", "transfer", "pipeline", "growth", "inference")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    names = parser.parse_args().names or BENCHMARKS
    if unknown := set(names) - set(BENCHMARKS):
        raise CxrError(f"no benchmark {', '.join(sorted(unknown))}; there are: {BENCHMARKS}")
    if len(names) == 1:
        save(names[0], importlib.import_module(f"benchmarks.{names[0]}").measure())
        print(TABLE.read_text(encoding="utf-8"))
        return
    for name in names:  # each in a process of its own, that none meets what another left in memory
        subprocess.run([sys.executable, "-m", "benchmarks", name], check=True)


def save(name: str, rows: list[Comparison]) -> None:
    """Put the rows of one benchmark into the results, in place of those of its last run."""
    results = (
        json.loads(paths.BENCHMARKS.read_text(encoding="utf-8"))
        if paths.BENCHMARKS.exists()
        else {}
    )
    results[name] = {
        "machine": machine(),
        "rows": [dataclasses.asdict(row) | {"reached": row.reached} for row in rows],
    }
    ordered = {key: results[key] for key in BENCHMARKS if key in results}
    with replacing(paths.BENCHMARKS) as part:
        part.write_text(json.dumps(ordered, indent=2) + "\n", encoding="utf-8")
    with replacing(TABLE) as part:
        part.write_text(as_markdown(ordered), encoding="utf-8")


def as_markdown(results: dict[str, Any]) -> str:
    """The table of results.md, with the machine that measured each benchmark."""
    notes = [f"- {name}: {_sentence(of['machine'])}" for name, of in results.items()]
    return "\n".join([Table(speed(results)).to_markdown(), "", *notes, ""])


def _sentence(facts: dict[str, Any]) -> str:
    libraries = ", ".join(f"{name} {facts[name]}" for name in LIBRARIES)
    return (
        f"{facts['processor']}, {facts['cores']} cores, {facts['memory_gib']} GiB, "
        f"{facts['system']}, Python {facts['python']}, {libraries}."
    )


if __name__ == "__main__":
    run_stage(main)
