"""Write the result tables of README.md, docs/results.md and docs/use.md, each between the marker
comments of its name, from the metrics, the recorded experiments and the benchmarks.

make readme
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr import paths
from cxr.common.files import replacing
from cxr.common.names import VARIANTS
from cxr.errors import CxrError, run_stage
from cxr.evaluation import metrics
from cxr.evaluation.groups import reported_groups
from cxr.evaluation.results import Evaluation, Intervals
from cxr.reporting.document import rounded, with_table
from cxr.tools.experiments import AS_COMMITTED, read_record, summary

README, RESULTS, USE = Path("README.md"), Path("docs/results.md"), Path("docs/use.md")
# Counts (tn, fp, fn, tp) on the test batches of the notebook, from its confusion matrices.
NOTEBOOK = {
    "baseline": (116, 130, 6, 404),
    "augmented": (162, 84, 12, 398),
    "transfer": (140, 106, 16, 394),
}
COUNTS = ("tn", "fp", "fn", "tp")
RATES = ("recall", "precision", "accuracy", "specificity")
NOTEBOOK_BENCHMARKS = ("decoding", "steps", "transfer", "pipeline")
# Column of the table over seeds -> column of the record.
OVER_SEEDS = {
    "val and stress ROC AUC": "selection_roc_auc",
    "test ROC AUC": "test_roc_auc",
    "accuracy at 0.5": "test_accuracy",
    "recall at 0.5": "test_recall",
    **{f"{name} at the operating point": f"test_{name}_at_threshold" for name in RATES},
}


def tables(
    evaluation: Evaluation,
    intervals: Intervals,
    groups: pd.DataFrame,
    record: pd.DataFrame,
    benchmarks: dict[str, Any],
) -> dict[Path, dict[str, pd.DataFrame]]:
    """{page: {name of the table: table}}.

    Args:
        evaluation: metrics of all variants.
        intervals: their intervals.
        groups: content of plots/groups.csv.
        record: content of docs/experiments.csv.
        benchmarks: content of benchmarks/results.json.
    """
    inference = speed({"inference": benchmarks["inference"]})
    return {
        README: {"results": results(evaluation, intervals)},
        RESULTS: {
            "results at 0.5": at_half(evaluation),
            "operating points": at_operating_point(evaluation),
            "groups": by_group(groups),
            "seeds": over_seeds(record),
            "speed": speed({name: benchmarks[name] for name in NOTEBOOK_BENCHMARKS}),
        },
        USE: {
            "speed of prediction": inference.rename(
                columns={"pipeline": "exported", "notebook's way": "Keras"}
            )
        },
    }


def results(evaluation: Evaluation, intervals: Intervals) -> pd.DataFrame:
    """A row for each variant; accuracy at 0.5, recall and specificity at the operating point."""
    rows = {}
    for variant in VARIANTS:
        found = evaluation.variants[variant]
        auc = intervals.test.columns[variant].roc_auc
        rows[variant] = {
            "validation ROC AUC": found.val.roc_auc,
            "stress-test ROC AUC": np.mean([of.roc_auc for of in found.stress.values()]),
            "test ROC AUC [95 % CI]": f"{auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}]",
            "test accuracy": found.test.accuracy,
            **found.operating_point.test.select(("recall", "specificity")),
        }
    return _by_variant(rows)


def at_half(evaluation: Evaluation) -> pd.DataFrame:
    """A row for each variant, each model of the notebook, and for always predicting PNEUMONIA."""
    rows = {}
    for variant in VARIANTS:
        test, val = evaluation.variants[variant].test, evaluation.variants[variant].val
        of_val = ("recall", "precision", "accuracy", "roc_auc")
        titles = {name: f"val {name.replace('roc_auc', 'ROC AUC')}" for name in of_val}
        rows[variant] = test.select(RATES) | {"ROC AUC": test.roc_auc}
        rows[variant] |= _counts(test.select(COUNTS))
        rows[variant] |= {title: getattr(val, name) for name, title in titles.items()}
    for variant, cells in NOTEBOOK.items():
        counts = dict(zip(COUNTS, cells, strict=True))
        rows[f"notebook: {variant}"] = _rates(metrics.rates(**counts)) | _counts(counts)
    prevalence = evaluation.majority.test.accuracy
    always = {"recall": 1.0, "precision": prevalence, "accuracy": prevalence, "specificity": 0.0}
    return _by_variant(rows | {"always PNEUMONIA": always}).replace("nan", "").fillna("")


def at_operating_point(evaluation: Evaluation) -> pd.DataFrame:
    """A row for each variant."""
    rows = {}
    for variant in VARIANTS:
        point = evaluation.variants[variant].operating_point
        tuning, test = point.tuning.select(RATES[:2]), point.test.select(RATES)
        rows[variant] = {"threshold": f"{point.threshold:.4f}"}
        rows[variant] |= {f"val and stress {name}": rate for name, rate in tuning.items()}
        rows[variant] |= {f"test {name}": rate for name, rate in test.items()}
    return _by_variant(rows)


def by_group(groups: pd.DataFrame) -> pd.DataFrame:
    """Accuracy by subgroup of test at the operating point: a row for each variant."""
    accuracy = reported_groups(groups)
    titles = [f"{name} ({images})" for name, images in accuracy["images"].items()]
    return rounded(accuracy[list(VARIANTS)].set_axis(titles).T.rename_axis("variant"))


def over_seeds(record: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation on test over the recorded seeds of the last commit with runs that
    changed only the seed: a row for each variant.
    """
    names = list(OVER_SEEDS.values())
    found = summary(record, names)
    found = found[found["changed"] == AS_COMMITTED]
    last = found[found["commit"].isin(found["commit"].tail(1))]
    titles = {column: title for title, column in OVER_SEEDS.items()}
    return last[["variant", "seeds", *names]].rename(columns=titles)


def speed(results: dict[str, Any]) -> pd.DataFrame:
    """A row for each comparison of the benchmarks.

    Args:
        results: content of benchmarks/results.json.
    """
    return pd.DataFrame([_compared(row) for of in results.values() for row in of["rows"]])


def _compared(row: dict[str, Any]) -> dict[str, str]:
    bound = "at least" if row["at_least"] else "at most"
    alone = row["notebook"] is None
    return {
        "what": row["what"],
        "pipeline": f"{_measured(row['ours'])} {row['unit']}",
        "notebook's way": "" if alone else f"{_measured(row['notebook'])} {row['unit']}",
        "ratio": "" if row["ratio"] == row["ours"] else _measured(row["ratio"]),
        "target": f"{bound} {row['target']:g}" + ("" if row["reached"] else ", missed"),
        "measured on": f"{row['sizes']}; {row['repeats']} repeats",
    }


def _measured(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _rates(rates: dict[str, Any]) -> dict[str, Any]:
    return {name: float(rates[name]) for name in RATES}


def _counts(counts: dict[str, Any]) -> dict[str, str]:
    return {"TN / FP / FN / TP": " / ".join(str(counts[name]) for name in COUNTS)}


def _by_variant(rows: dict[str, dict[str, Any]]) -> pd.DataFrame:
    return rounded(pd.DataFrame.from_dict(rows, orient="index").rename_axis("variant"))


def _benchmarks() -> dict[str, Any]:
    """Content of benchmarks/results.json."""
    try:
        content: dict[str, Any] = json.loads(paths.BENCHMARKS.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CxrError(
            f"{paths.BENCHMARKS} cannot be read ({error}); regenerate it with `make bench`"
        ) from error
    return content


def main() -> None:
    evaluation, intervals, benchmarks = Evaluation.read(), Intervals.read(), _benchmarks()
    groups, record = pd.read_csv(paths.GROUPS), read_record(paths.EXPERIMENTS)
    try:
        made = tables(evaluation, intervals, groups, record, benchmarks)
    except (KeyError, TypeError) as error:
        raise CxrError(
            f"{paths.BENCHMARKS} was produced by a different version ({error}); regenerate it with "
            "`make bench`"
        ) from error
    texts = {page: page.read_text(encoding="utf-8") for page in made}
    for page, of_page in made.items():
        for name, table in of_page.items():
            texts[page] = with_table(texts[page], name, table)
    for page, text in texts.items():
        with replacing(page) as part:
            part.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run_stage(main)
