"""Measure, print and save: `make bench`, or only one: `python -m benchmarks steps`."""

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
WITHOUT_RESULTS = ("decoding", "steps", "transfer", "pipeline", "growth")
BENCHMARKS = (*WITHOUT_RESULTS, "inference")  # inference needs the results of `dvc repro`


def main() -> None:
    default = BENCHMARKS if paths.EXPORTED.exists() else WITHOUT_RESULTS
    parts.measure("benchmarks", __doc__, BENCHMARKS, save, default)


def save(name: str, rows: list[Comparison]) -> None:
    """Replace the rows of one benchmark in the results."""
    entries = [dataclasses.asdict(row) | {"reached": row.reached} for row in rows]
    results = parts.replace(paths.BENCHMARKS, BENCHMARKS, name, {"rows": entries})
    table = as_markdown(results)
    with replacing(TABLE) as temp_path:
        temp_path.write_text(table, encoding="utf-8")
    print(table)


def as_markdown(results: dict[str, Any]) -> str:
    """Table of results.md, with the machine of each benchmark."""
    notes = [f"- {name}: {sentence(entry['machine'])}" for name, entry in results.items()]
    return "\n".join([markdown_table(speed(results)), "", *notes, ""])


if __name__ == "__main__":
    run_stage(main)
