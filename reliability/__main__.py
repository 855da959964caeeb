"""Run, print and save: `make reliability`, or only one part: `python -m reliability crashes`."""

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
    """Replace the figures of one part in the results and on the page."""
    rows = [dataclasses.asdict(figure) | {"reached": figure.reached} for figure in figures]
    results = parts.replace(RESULTS, PARTS, part, {"figures": rows})
    page = with_table(PAGE.read_text(encoding="utf-8"), "figures", as_table(results))
    with replacing(PAGE) as temp_path:
        temp_path.write_text(page, encoding="utf-8")
    print(as_table({part: results[part]}).to_string(index=False))


def as_table(results: dict[str, Any]) -> pd.DataFrame:
    """A row for each figure.

    Args:
        results: content of reliability/results.json.
    """
    return pd.DataFrame(
        {
            "experiment": row["what"],
            "trials": row["trials"],
            "passed": f"{row['passed']}" + ("" if row["reached"] else ", too few"),
            "criterion": row["criterion"],
            "details": row["note"],
        }
        for entry in results.values()
        for row in entry["figures"]
    )


if __name__ == "__main__":
    run_stage(main)
