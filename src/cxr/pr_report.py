"""The comment on a pull request: what changed against its target branch, and whether it is real.

    make pr-report BASE=main

Reads metrics, parameters and, where DVC has them, predictions of both sides; changes nothing.
"""

import argparse
import json
import subprocess
from typing import Any

import dvc.api
import pandas as pd
from dvc.exceptions import DvcException

from cxr import paths
from cxr.errors import CxrError, run_stage
from cxr.intervals import intervals, thresholds
from cxr.params import read_params
from cxr.recommendation import best_variant, recommend, signed, signed_span
from cxr.variants import EVALUATED, VARIANTS

MARKER = "<!-- cxr-pr-report -->"  # by this the workflow finds the comment that it updates
TITLES = {"val": "Validation", "test": "Test"}
HEADLINE = ("recall", "precision", "accuracy", "specificity", "roc_auc")


def comment(base: str) -> str:
    """The whole comment in Markdown, the workspace against the commit `base`.

    Raises:
        CxrError: `base` is no commit, or a metrics file is not JSON.
    """
    name = f"`{base}`"
    if _git("rev-parse", "--verify", "--quiet", f"{base}^{{commit}}") is None:
        raise CxrError(f"{base} is no commit here; bring it with `git fetch origin {base}`")
    now, before = _metrics(None), _metrics(base)
    parts = [
        MARKER,
        f"## Results against {name}",
        _recommendation(now, before, name),
        *(_headline(now, before, split, name) for split in EVALUATED),
        _paired(now, before, base),
        "### Parameters that differ",
        _dvc_table("params", base) or f"None: the parameters are those of {name}.",
        "### All metrics that differ",
        _folded(_dvc_table("metrics", base)) or f"None: the metrics are those of {name}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _metrics(revision: str | None) -> dict[str, Any]:
    """Content of metrics/evaluation.json, of the workspace or a commit; empty if there is none."""
    path = paths.EVALUATION.as_posix()
    if revision is None:
        text = paths.EVALUATION.read_text(encoding="utf-8") if paths.EVALUATION.exists() else None
    else:
        text = _git("show", f"{revision}:{path}")
    if text is None:
        return {}
    try:
        return dict(json.loads(text))
    except ValueError as error:
        where = f"{path} of {revision}" if revision else path
        raise CxrError(f"{where} is not JSON ({error}); run `dvc repro evaluate`") from error


def _git(*arguments: str) -> str | None:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else None


def _recommendation(now: dict[str, Any], before: dict[str, Any], name: str) -> str:
    again = "run `dvc repro` and commit `metrics/`."
    for path in (paths.EVALUATION, paths.INTERVALS):
        if not path.exists():
            return f"`{path}` is missing here; {again}"
    intervals_now = json.loads(paths.INTERVALS.read_text(encoding="utf-8"))
    try:
        found = recommend(now, intervals_now, read_params().evaluate.min_recall)
    except KeyError as key:
        return f"`metrics/` is not what this code makes ({key} is missing); {again}"
    text = " ".join(found.sentences)
    try:
        old = best_variant(before)
    except KeyError:
        return f"{text} {name} has no metrics of every variant to compare with."
    same = "the same" if old == found.variant else f"**{old}**"
    return f"{text} On {name} the recommendation is {same}."


def _headline(now: dict[str, Any], before: dict[str, Any], split: str, name: str) -> str:
    if not now:
        return ""
    rows = [
        {"variant": variant}
        | {
            m: _changed(_at(now, variant, split, m), _at(before, variant, split, m))
            for m in HEADLINE
        }
        for variant in VARIANTS
    ]
    title = f"### {TITLES[split]} at 0.5, in brackets the change from {name}"
    return f"{title}\n\n{_markdown(pd.DataFrame(rows))}"


def _at(metrics: dict[str, Any], *keys: str) -> float | None:
    found: Any = metrics
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _changed(now: float | None, before: float | None) -> str:
    if now is None:
        return "missing" if before is None else f"missing (was {before:.3f})"
    if before is None:
        return f"{now:.3f} (new)"
    return f"{now:.3f} ({signed(now - before)})"


def _paired(now: dict[str, Any], before: dict[str, Any], base: str) -> str:
    """Differences on the same images with intervals, where DVC has both predictions."""
    if now == before or not all(variant in side for variant in VARIANTS for side in (now, before)):
        return ""
    title = "### Is the difference real?\n\n"
    try:
        with dvc.api.open(paths.PREDICTIONS.as_posix(), rev=base) as file:
            old = pd.read_csv(file)
        new = pd.read_csv(paths.PREDICTIONS)
    except (DvcException, OSError):
        return title + (
            f"Intervals of the differences need the predictions of both sides: `dvc pull "
            f"{paths.PREDICTIONS}` here and on `{base}`, then `make pr-report BASE={base}`."
        )
    tables = [_paired_table(now, before, new, old, split) for split in EVALUATED]
    return title + (
        "New minus old on the same images, with the 95 % interval of a bootstrap over patients; "
        "bold where it leaves out 0; what is not listed is equal. It holds the choice of "
        "patients, not the chance of training: another seed may change as much (`make summary`). "
        "At the operating point the thresholds are taken as given, so validation looks surer there "
        "than it is. Choose by validation.\n\n" + "\n\n".join(tables)
    )


def _paired_table(
    now: dict[str, Any], before: dict[str, Any], new: pd.DataFrame, old: pd.DataFrame, split: str
) -> str:
    new, old = (side[side["split"] == split] for side in (new, old))
    images = (set(zip(side["path"], side["label"], strict=True)) for side in (new, old))
    if len(set(map(frozenset, images))) > 1:
        return (
            f"The {TITLES[split].lower()} images are not the same on both sides: nothing to pair."
        )
    rows = []
    params = read_params().evaluate
    sides = {"old": thresholds(before), "new": thresholds(now)}
    known = old.set_index("path").loc[new["path"]]
    for variant in VARIANTS:
        both = new[["patient", "label"]].assign(old=known[variant].to_numpy(), new=new[variant])
        points = {side: sides[side][variant] for side in sides}
        found = intervals(both, points, params.prevalence, params.resamples)["differences"]
        of_pair = found["new - old"]
        for point, title in (("at_half", "0.5"), ("operating_point", "operating point")):
            differences = of_pair[point] | {"roc_auc": of_pair["roc_auc"]}
            if any(any(difference.values()) for difference in differences.values()):
                row = {TITLES[split].lower(): variant, "threshold": title}
                rows.append(row | {name: signed_span(d) for name, d in differences.items()})
    if not rows:
        return f"On {TITLES[split].lower()} nothing differs."
    return _markdown(pd.DataFrame(rows))


def _markdown(table: pd.DataFrame) -> str:
    return str(table.to_markdown(index=False, disable_numparse=True))


def _dvc_table(kind: str, base: str) -> str:
    """Table of `dvc metrics diff` or `dvc params diff`; empty where nothing differs."""
    done = subprocess.run(
        ["dvc", kind, "diff", "--md", base, "--quiet"], capture_output=True, text=True
    )
    if done.returncode:
        raise CxrError(f"`dvc {kind} diff {base}` failed: {done.stderr.strip()}")
    table = done.stdout.strip()
    return table if len(table.splitlines()) > 2 else ""  # a head and a rule have no row


def _folded(table: str) -> str:
    if not table:
        return ""
    rows = len(table.splitlines()) - 2
    return f"<details><summary>{rows} metrics</summary>\n\n{table}\n\n</details>"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m cxr.pr_report", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--base", required=True, metavar="COMMIT", help="branch or commit")
    print(comment(parser.parse_args().base), end="")


if __name__ == "__main__":
    run_stage(main)
