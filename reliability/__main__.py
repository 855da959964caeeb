"""Try, print and save: `make reliability`, or one part alone: `python -m reliability crashes`."""

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks import parts
from cxr.common.files import replacing
from cxr.errors import run_stage
from cxr.reporting.document import with_table
from reliability.figures import Figure

PARTS = ("fuzzing", "crashes", "repeats", "mutation")
RESULTS = Path("reliability/results.json")
PAGE = Path("docs/reliability.md")


def main() -> None:
    parts.measure("reliability", __doc__, PARTS, save)


def save(part: str, figures: list[Figure]) -> None:
    """Put the figures of one part into the results and the page, in place of its last ones."""
    rows = [dataclasses.asdict(figure) | {"reached": figure.reached} for figure in figures]
    results = parts.replace(RESULTS, PARTS, part, {"figures": rows})
    page = with_table(PAGE.read_text(encoding="utf-8"), "figures", as_table(results))
    with replacing(PAGE) as written:
        written.write_text(page, encoding="utf-8")
    print(as_table({part: results[part]}).to_string(index=False))


def as_table(results: dict[str, Any]) -> pd.DataFrame:
    """A row for each figure.

    Args:
        results: content of reliability/results.json.
    """
    return pd.DataFrame(
        {
            "tried": row["what"],
            "times": row["tried"],
            "right": f"{row['held']}" + ("" if row["reached"] else ", too few"),
            "which means": row["right"],
            "how": row["note"],
        }
        for of in results.values()
        for row in of["figures"]
    )


if __name__ == "__main__":
    run_stage(main)
