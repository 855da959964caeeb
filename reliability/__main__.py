"""Try, print and save: `make reliability`, or one part alone: `python -m reliability crashes`."""

import argparse
import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.timing import machine
from cxr.document import with_table
from cxr.errors import CxrError, run_stage
from cxr.files import replacing, write_json
from reliability.figures import Figure

PARTS = ("fuzzing", "crashes", "repeats", "mutation")
RESULTS = Path("reliability/results.json")
PAGE = Path("docs/reliability.md")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m reliability", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PARTS))
    names = parser.parse_args().names or PARTS
    if unknown := set(names) - set(PARTS):
        raise CxrError(f"no part {', '.join(sorted(unknown))}; there are: {', '.join(PARTS)}")
    if len(names) == 1:
        save(names[0], importlib.import_module(f"reliability.{names[0]}").measure())
        return
    for name in names:  # each in a process of its own, that none meets what another left
        subprocess.run([sys.executable, "-m", "reliability", name], check=True)


def save(part: str, figures: list[Figure]) -> None:
    """Put the figures of one part into the results and the page, in place of its last ones."""
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    rows = [dataclasses.asdict(figure) | {"reached": figure.reached} for figure in figures]
    results[part] = {"machine": machine(), "figures": rows}
    ordered = {key: results[key] for key in PARTS if key in results}
    write_json(RESULTS, ordered)
    page = with_table(PAGE.read_text(encoding="utf-8"), "figures", as_table(ordered))
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
