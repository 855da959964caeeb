"""Measure, print and save: `make bench`, or one alone: `python -m benchmarks steps`."""

import dataclasses
from typing import Any

from benchmarks import parts
from benchmarks.timing import Comparison, sentence
from cxr import paths
from cxr.common.files import replacing
from cxr.errors import run_stage
from cxr.reporting.document import markdown_table
from cxr.tools.readme import speed

TABLE = paths.BENCHMARKS.with_suffix(".md")
ANYWHERE = ("decoding", "steps", "transfer", "pipeline", "growth")
BENCHMARKS = (*ANYWHERE, "inference")  # the last one needs what `dvc repro` makes


def main() -> None:
    unnamed = BENCHMARKS if paths.EXPORTED.exists() else ANYWHERE
    parts.measure("benchmarks", __doc__, BENCHMARKS, save, unnamed)


def save(name: str, rows: list[Comparison]) -> None:
    """Put the rows of one benchmark into the results, in place of those of its last run."""
    found = [dataclasses.asdict(row) | {"reached": row.reached} for row in rows]
    results = parts.replace(paths.BENCHMARKS, BENCHMARKS, name, {"rows": found})
    table = as_markdown(results)
    with replacing(TABLE) as part:
        part.write_text(table, encoding="utf-8")
    print(table)


def as_markdown(results: dict[str, Any]) -> str:
    """The table of results.md, with the machine that measured each benchmark."""
    notes = [f"- {name}: {sentence(of['machine'])}" for name, of in results.items()]
    return "\n".join([markdown_table(speed(results)), "", *notes, ""])


if __name__ == "__main__":
    run_stage(main)
