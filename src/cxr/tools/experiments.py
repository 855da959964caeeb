"""Tables of DVC experiments: mean and standard deviation over seeds, and docs/experiments.csv.

make summary                    # experiments of the last commit, a row per setting
make record EXP="name other"    # add experiments to docs/experiments.csv
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import dvc.api
import pandas as pd

from cxr import paths
from cxr.common.files import replacing, write_csv
from cxr.common.names import EVALUATED, VARIANTS
from cxr.errors import SHALLOW, CxrError, is_shallow, run_stage
from cxr.params import leaves, read_params
from cxr.reporting.document import with_table

METRICS = ("recall", "precision", "accuracy", "specificity", "roc_auc")
SUMMARIZED = (
    *(f"{split}_{name}" for split in EVALUATED for name in METRICS if name != "specificity"),
    "selection_roc_auc",
)
OPERATING = ("recall", "precision", "accuracy", "specificity")
AS_COMMITTED = "as committed"
# Column -> key below the variant in metrics/evaluation.json. Older runs lack some of them.
METRIC_PATHS = {
    **{f"{split}_{metric}": f"{split}.{metric}" for split in EVALUATED for metric in METRICS},
    "threshold": "operating_point.threshold",
    **{
        f"{split}_{metric}_at_threshold": f"operating_point.{split}.{metric}"
        for split in EVALUATED
        for metric in OPERATING
    },
    "selection_roc_auc": "tuning.roc_auc",
    **{f"selection_{m}_at_threshold": f"operating_point.tuning.{m}" for m in OPERATING},
}
COLUMNS = ["experiment", "commit", "changed", "seed", "variant", *METRIC_PATHS]
UNFINISHED = ("Failed", "Queued", "Running")
# The digits are the hash of the commit that the experiment started from. Other references below
# refs/exps are internal to DVC.
REFERENCE = re.compile(r"refs/exps/(?P<first>[0-9a-f]{2})/(?P<rest>[0-9a-f]{38})/(?P<name>.+)")


def read_experiments(commits: list[str]) -> list[dict[str, Any]]:
    """Runs that DVC knows, with the changed parameters.

    Args:
        commits: full hashes of the commits that the runs started from.

    Returns:
        one record for each run: name, commit (that it started from), state (of `dvc exp show`),
        changed (parameters other than the seed that differ from that commit), seed, typ (`baseline`
        for a commit itself), and the content of its metrics/evaluation.json, by full name.

    Raises:
        CxrError: a run's metrics/evaluation.json is damaged.
    """
    keys = leaves(read_params().model_dump())
    found, start = [], None
    for row in dvc.api.exp_show(revs=commits):
        if row["rev"] == "workspace":
            continue
        if row["typ"] == "baseline":
            start = row | {"commit": _git("rev-parse", "--short=7", row["rev"])}
        changed = {key: row[key] for key in keys if start and _differ(row, start, key)}
        found.append(
            {
                "name": row["Experiment"] or row["rev"],
                "commit": start["commit"] if start else "",
                "state": row["State"],
                "changed": " ".join(f"{key}={_text(value)}" for key, value in changed.items()),
                "seed": row["seed"],
                "typ": row["typ"],
                **_evaluation(row["rev"]),
            }
        )
    return found


def _evaluation(revision: str) -> dict[str, Any]:
    """The committed metrics/evaluation.json by full name; the metrics of DVC are only a summary."""
    place = f"{revision}:{paths.EVALUATION.as_posix()}"
    done = subprocess.run(["git", "show", place], capture_output=True, text=True)
    if done.returncode:  # this commit has none
        return {}
    try:
        return leaves(json.loads(done.stdout))
    except ValueError as error:
        raise CxrError(
            f"{place} cannot be read ({error}); remove the experiment with `dvc exp remove`, or "
            "run it again"
        ) from error


def last_commit() -> list[str]:
    """Hash of the last commit; after an interrupted run DVC resolves HEAD to another commit."""
    return [_git("rev-parse", "HEAD")]


def experiment_refs() -> dict[str, list[str]]:
    """References of DVC experiments of all branches, by name of the experiment."""
    found: dict[str, list[str]] = {}
    for reference in _git("for-each-ref", "--format=%(refname)", "refs/exps").splitlines():
        if match := REFERENCE.fullmatch(reference):
            found.setdefault(match["name"], []).append(reference)
    return found


def _start(reference: str) -> str:
    """Full hash of the commit that an experiment started from."""
    match = REFERENCE.fullmatch(reference)
    assert match
    return match["first"] + match["rest"]


def _git(*arguments: str) -> str:
    """Output of a git command.

    Raises:
        CxrError: there is no git, no repository or no commit.
    """
    with suppress(OSError):
        done = subprocess.run(["git", *arguments], capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout.strip()
    raise CxrError(
        f"`git {' '.join(arguments)}` failed; experiments need git, a clone of the repository (or "
        "`git init`) and a commit"
    )


def _differ(row: dict[str, Any], start: dict[str, Any], key: str) -> bool:
    return key != "seed" and key in row and _text(row[key]) != _text(start.get(key))


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():  # DVC returns integers as floats
        return str(int(value))
    return str(value).replace(" ", "")


def table(found: list[dict[str, Any]]) -> pd.DataFrame:
    """One row per finished experiment and variant, with `COLUMNS`."""
    # DVC shows an unfinished run with the metrics of the commit that it started from.
    finished = [run for run in found if run["state"] not in UNFINISHED]
    rows = [
        {"experiment": run["name"], "variant": variant}
        | {name: run[name] for name in ("commit", "changed", "seed")}
        | {column: run.get(f"{variant}.{place}") for column, place in METRIC_PATHS.items()}
        for run in finished
        for variant in VARIANTS
        if isinstance(run.get(f"{variant}.test.recall"), float)
    ]
    types = {"seed": int, **dict.fromkeys(METRIC_PATHS, float)}
    return pd.DataFrame(rows, columns=COLUMNS).astype(types).round(5)


def read_record(path: Path) -> pd.DataFrame:
    """Content of docs/experiments.csv, with `COLUMNS`."""
    return pd.read_csv(path, dtype={"commit": str}).fillna({"changed": ""})


def summary(rows: pd.DataFrame, columns: Sequence[str] = SUMMARIZED) -> pd.DataFrame:
    """Mean and standard deviation over seeds: one row for each commit, change and variant.

    Args:
        rows: result of `table`.
        columns: columns to summarize, of `METRIC_PATHS`.

    Returns:
        commit, changed, variant, seeds (number), and each column as `mean ± standard deviation` (of
        the sample; the mean alone for a single seed).
    """
    # An experiment that repeats its commit ran with the code of that commit; the committed metrics
    # may be older.
    groups = rows.drop_duplicates(["commit", "changed", "variant", "seed"], keep="last").groupby(
        ["commit", "changed", "variant"], sort=False
    )
    result = groups["seed"].nunique().rename("seeds").to_frame()
    for name in columns:
        spread = groups[name].agg(["mean", "std"])
        result[name] = [
            _number(mean) if pd.isna(std) else f"{mean:.3f} ± {std:.3f}"
            for mean, std in spread.itertuples(index=False)
        ]
    result = result.reset_index()
    return result.assign(changed=result["changed"].replace("", AS_COMMITTED))


def failures(found: list[dict[str, Any]]) -> list[str]:
    """One line for each failed experiment: its name, changed parameters, and error message."""
    return [
        f"{run['name']} ({run['changed'] or 'no change'}, seed {_text(run['seed'])}): "
        f"{_failure_reason(run['name'])}"
        for run in found
        if run["state"] == "Failed"
    ]


def _failure_reason(name: str) -> str:
    done = subprocess.run(["dvc", "queue", "logs", name], capture_output=True, text=True)
    found = re.search(r"^(error: .*(?:\n  .*)*)", done.stdout, re.MULTILINE)
    return " ".join(found[1].split()) if found else f"see `dvc queue logs {name}`"


def record(names: list[str], path: Path = paths.EXPERIMENTS) -> None:
    """Add experiments to the record, replacing rows of the same names, and write the table of the
    Markdown page next to it.

    Raises:
        CxrError: an experiment is unknown, unfinished, or not the only one with its name.
    """
    known = experiment_refs()
    for name in names:
        if len(known.get(name, [])) > 1:
            raise CxrError(
                f"{name} is the name of several experiments; rename one of them with "
                "`dvc exp rename REFERENCE NEW_NAME`, where REFERENCE is\n  "
                + "\n  ".join(known[name])
            )
    commits = {_start(reference) for name in names for reference in known.get(name, [])}
    runs = read_experiments(sorted(commits)) if commits else []
    # Without the commits themselves: a branch may have the name of an experiment.
    rows = table([run for run in runs if run["typ"] != "baseline"])
    if unknown := sorted(set(names) - set(rows["experiment"])):
        raise CxrError(f"no finished experiment {', '.join(unknown)}; `dvc exp list -A` lists them")
    old = read_record(path)
    new = rows[rows["experiment"].isin(names)]
    kept = old[~old["experiment"].isin(names)]
    rows = pd.concat([kept, new]) if len(kept) else new
    page = path.with_suffix(".md")
    text = with_table(page.read_text(encoding="utf-8"), "table", experiment_table(rows))
    write_csv(path, rows)
    with replacing(page) as part:
        part.write_text(text, encoding="utf-8")


def experiment_table(rows: pd.DataFrame) -> pd.DataFrame:
    """The table of docs/experiments.md."""
    names = [f"{split}_{metric}" for split in EVALUATED for metric in METRICS]
    names.append("selection_roc_auc")
    table = rows[["experiment", "changed", "seed", "variant"]].assign(
        **{name.replace("_", " "): rows[name].map(_number) for name in names}
    )
    return table.assign(changed=[f"`{change}`" if change else "" for change in table["changed"]])


def _number(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m cxr.tools.experiments", description=__doc__.splitlines()[0]
    )
    commands = parser.add_subparsers(required=True, dest="command")
    commands.add_parser("summary", help="mean and standard deviation over seeds of each setting")
    recorder = commands.add_parser("record", help="add experiments to docs/experiments.csv")
    recorder.add_argument("names", nargs="+", metavar="NAME", help="name of an experiment")
    arguments = parser.parse_args()
    if arguments.command == "record":
        record(arguments.names)
        return
    if is_shallow(Path()):
        print(f"warning: {SHALLOW}", file=sys.stderr)
    found = read_experiments(last_commit())
    print(summary(table(found)).to_markdown(index=False, disable_numparse=True, tablefmt="simple"))
    if failed := failures(found):
        print("\nFailed:\n  " + "\n  ".join(failed), file=sys.stderr)


if __name__ == "__main__":
    run_stage(main)
