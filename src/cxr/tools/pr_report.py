"""Comment on a pull request: differences from the base branch, and whether they are significant.

    make pr-report BASE=main

Reads metrics, parameters and, if DVC has them, predictions of base and head; changes nothing.
"""

import argparse
import re
import subprocess
from pathlib import Path
from typing import Any, TypeVar

import dvc.api
import pandas as pd
from dvc.exceptions import DvcException

from cxr import paths
from cxr.common.files import parse_yaml
from cxr.common.names import EVALUATED, VARIANTS
from cxr.errors import CxrError, run_stage
from cxr.evaluation.bootstrap import bootstrap_intervals
from cxr.evaluation.results import Evaluation, Intervals, OtherVersionError, ResultFile
from cxr.evaluation.selection import best_variant
from cxr.params import WITHOUT_RESULT, leaves, read_params
from cxr.reporting.formatting import signed, signed_span
from cxr.reporting.recommendation import recommend

TITLES = {"val": "Validation", "test": "Test"}
Results = TypeVar("Results", bound=ResultFile)

HEADLINE = ("recall", "precision", "accuracy", "specificity", "roc_auc")


def comment(base: str) -> str:
    """The comment in Markdown, the workspace compared with the commit `base`.

    Raises:
        CxrError: `base` is not a commit, or a file of results is damaged.
    """
    name = f"`{base}`"
    commit = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{base}^{{commit}}")
    if commit is None:
        raise CxrError(f"{base} is not a commit here; get it with `git fetch origin {base}`")
    commit = commit.strip()  # DVC resolves HEAD to another commit after an interrupted run
    now, before = _results(Evaluation, None), _results(Evaluation, base)
    parts = [
        f"## Results against {name}",
        _stale(None, "here"),
        _stale(base, f"on {name}"),
        _recommendation(now, before, name),
        *(_headline(now, before, split, name) for split in EVALUATED),
        _paired(now, before, base, commit),
        "### Parameters that differ",
        _dvc_table("params", commit, name) or f"None: the parameters are those of {name}.",
        "### Metrics that differ",
        _dvc_table("metrics", commit, name) or f"None: the metrics are those of {name}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _content(path: Path, revision: str | None) -> str | None:
    """Text of a file in the workspace or a commit; None if it is missing."""
    if revision is not None:
        return _git("show", f"{revision}:{path.as_posix()}")
    return path.read_text(encoding="utf-8") if path.exists() else None


def _name(path: Path, revision: str | None) -> str:
    return f"{path} of {revision}" if revision else str(path)


def _read(path: Path, revision: str | None) -> dict[str, Any]:
    """Content of a YAML file; empty if it is missing.

    Raises:
        CxrError: it is damaged.
    """
    text = _content(path, revision)
    try:
        found = {} if text is None else parse_yaml(text)
    except ValueError as error:
        found = error
    if not isinstance(found, dict):
        raise CxrError(
            f"{_name(path, revision)} cannot be read ({found}); regenerate it with `dvc repro`"
        )
    return found


def _results(kind: type[Results], revision: str | None) -> Results | None:
    """Content of a file of results; None if it is not there or was produced by another version.

    Raises:
        CxrError: it is damaged.
    """
    text = _content(kind.path, revision)
    if text is None:
        return None
    try:
        return kind.parse(text, _name(kind.path, revision))
    except OtherVersionError:
        return None


def _git(*arguments: str) -> str | None:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else None


def _recorded(revision: str | None) -> dict[str, dict[str, Any]]:
    """Parameters of each stage of the recorded run, by full name, from dvc.lock.

    Raises:
        CxrError: the file is damaged.
    """
    stages = _read(paths.LOCK, revision).get("stages", {})
    try:
        return {
            name: leaves(stage.get("params", {}).get(paths.PARAMS.name, {}))
            for name, stage in stages.items()
        }
    except AttributeError as error:
        raise CxrError(
            f"{paths.LOCK} is not a lock file of DVC ({error}); regenerate it with `dvc repro`"
        ) from error


def _min_recall(revision: str | None) -> float | None:
    """Minimum recall of the recorded run; None if nothing was run."""
    return _recorded(revision).get("evaluate", {}).get("evaluate.min_recall")


def _stale(revision: str | None, where: str) -> str:
    """A warning if the results were made with other parameters than those of params.yaml."""
    # Per stage: after a run of some stages, the others may have used other values.
    used = [item for params in _recorded(revision).values() for item in params.items()]
    if not used:
        return ""  # nothing was run yet
    current = leaves(_read(paths.PARAMS, revision))
    other = {key for key, value in used if key not in current or current[key] != value}
    other |= set(current) - {key for key, _ in used} - WITHOUT_RESULT
    if not other:
        return ""
    keys = ", ".join(f"`{key}`" for key in sorted(other))
    return (
        f"> **The results {where} were made with other parameters** ({keys}): `params.yaml` and "
        "`dvc.lock` differ. Run `dvc repro` and commit both."
    )


def _recommendation(now: Evaluation | None, before: Evaluation | None, name: str) -> str:
    intervals = _results(Intervals, None)
    min_recall = _min_recall(None)
    needed = {paths.EVALUATION: now, paths.INTERVALS: intervals, paths.LOCK: min_recall}
    missing = [f"`{path}`" for path, content in needed.items() if content is None]
    if now is None or intervals is None or min_recall is None:
        return (
            f"{' and '.join(missing)} is missing here or was produced by a different version; run "
            "`dvc repro` and commit the results."
        )
    found = recommend(now, intervals, min_recall)
    chosen, *reasons = found.sentences
    compared = _compared(found.variant, before, name)
    return "\n".join([f"{chosen} {compared}", "", *(f"- {reason}" for reason in reasons)])


def _compared(chosen: str, before: Evaluation | None, name: str) -> str:
    if before is None:
        return (
            f"Nothing to compare with: `{paths.EVALUATION}` is missing on {name} or was produced "
            "by a different version."
        )
    old = best_variant(before)
    same = "the same" if old == chosen else f"**{old}**"
    return f"On {name} the recommendation is {same}."


def _headline(now: Evaluation | None, before: Evaluation | None, split: str, base: str) -> str:
    if now is None or before is None:
        return ""
    rows = []
    for variant in VARIANTS:
        new, old = (getattr(of.variants[variant], split).select(HEADLINE) for of in (now, before))
        row = {name: f"{new[name]:.3f} ({signed(new[name] - old[name])})" for name in HEADLINE}
        rows.append({"variant": variant} | row)
    title = f"### {TITLES[split]} at 0.5 (change from {base})"
    return f"{title}\n\n{_markdown(pd.DataFrame(rows))}"


def _paired(now: Evaluation | None, before: Evaluation | None, base: str, commit: str) -> str:
    """Paired differences with 95 % CIs, if DVC has the predictions of base and head."""
    if now is None or before is None or now == before:
        return ""
    title = "### Significance of the differences\n\n"
    try:
        with dvc.api.open(paths.PREDICTIONS.as_posix(), rev=commit) as file:
            old = pd.read_csv(file)
        new = pd.read_csv(paths.PREDICTIONS)
    except (DvcException, OSError):
        return title + (
            f"CIs of the differences need the predictions of base and head: `dvc pull "
            f"{paths.PREDICTIONS}` here and on `{base}`, then `make pr-report BASE={base}`."
        )
    try:
        tables = [_paired_table(now, before, new, old, split, base) for split in EVALUATED]
    except KeyError as key:  # of a workspace without `dvc checkout`
        return (
            title + f"Base and head were produced by different versions ({key} is missing in one)."
        )
    return title + (
        "New minus old on the same images, with the 95 % CI of a bootstrap over patients; bold if "
        "it excludes 0; rows without differences are omitted. The CIs do not include training "
        "variance: another seed may change as much (`make summary`). Choose on validation.\n\n"
        + "\n\n".join(tables)
    )


def _paired_table(
    now: Evaluation,
    before: Evaluation,
    new: pd.DataFrame,
    old: pd.DataFrame,
    split: str,
    base: str,
) -> str:
    new, old = (table[table["split"] == split] for table in (new, old))
    images = (set(zip(table["path"], table["label"], strict=True)) for table in (new, old))
    if len(set(map(frozenset, images))) > 1:
        return (
            f"The {TITLES[split].lower()} images of base and head differ, so there are no paired "
            "differences."
        )
    rows = []
    params = read_params().evaluate
    recalls = {_min_recall(revision) for revision in (None, base)}
    # Thresholds were chosen on validation: if base and head use the same rule, choose them again in
    # each resample.
    min_recall = recalls.pop() if split == "val" and len(recalls) == 1 else None
    known = old.set_index("path").loc[new["path"]]
    for variant in VARIANTS:
        both = new[["patient", "label"]].assign(old=known[variant].to_numpy(), new=new[variant])
        thresholds = {"old": before.thresholds[variant], "new": now.thresholds[variant]}
        settings = (thresholds, params.prevalence, params.n_bootstrap, min_recall)
        of_pair = bootstrap_intervals(both, *settings).differences["new - old"]
        for point, title in (("at_half", "0.5"), ("operating_point", "operating point")):
            differences = of_pair.at(point)
            if any(any(dict(difference).values()) for difference in differences.values()):
                row = {TITLES[split].lower(): variant, "threshold": title}
                rows.append(row | {name: signed_span(d) for name, d in differences.items()})
    if not rows:
        return f"No differences on {TITLES[split].lower()}."
    return _markdown(pd.DataFrame(rows))


def _markdown(table: pd.DataFrame) -> str:
    return str(table.to_markdown(index=False, disable_numparse=True))


def _dvc_table(kind: str, commit: str, name: str) -> str:
    """Table of `dvc metrics diff` or `dvc params diff`; empty without differences."""
    done = subprocess.run(
        ["dvc", kind, "diff", "--md", commit, "--quiet"], capture_output=True, text=True
    )
    if done.returncode:
        raise CxrError(f"`dvc {kind} diff {commit}` failed: {done.stderr.strip()}")
    table = re.sub(" {2,}", " ", done.stdout.strip())  # GitHub accepts 65536 characters
    table = table.replace(f"| {commit} | workspace |", f"| {name} | here |", 1)
    return table if len(table.splitlines()) > 2 else ""  # a header and a rule have no rows


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m cxr.tools.pr_report", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--base", required=True, metavar="COMMIT", help="branch or commit")
    print(comment(parser.parse_args().base), end="")


if __name__ == "__main__":
    run_stage(main)
