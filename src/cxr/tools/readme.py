"""Write the result tables of README.md, docs/results.md and docs/use.md, each between the marker
comments of its name, from the metrics, the recorded experiments and the benchmarks.

make readme
"""

import json
from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd

from cxr import paths
from cxr.common.files import replacing
from cxr.common.names import VARIANTS
from cxr.errors import CxrError, run_stage
from cxr.evaluation.groups import reported_groups
from cxr.evaluation.metrics import rates
from cxr.evaluation.results import Evaluation, Intervals
from cxr.params import leaves
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
# Of each table with a row for each variant: title -> column of `metrics_of_variants`.
COMPARISON = {
    "validation ROC AUC": "val.roc_auc",
    "stress-test ROC AUC": "stress.mean_roc_auc",
    "test ROC AUC [95 % CI]": "test.roc_auc_with_ci",
    "test accuracy": "test.accuracy",
    "recall": "operating_point.test.recall",
    "specificity": "operating_point.test.specificity",
}
AT_HALF = {
    **{name: f"test.{name}" for name in RATES},
    "ROC AUC": "test.roc_auc",
    "TN / FP / FN / TP": "test.counts",
    **{f"validation {name}": f"val.{name}" for name in ("recall", "precision", "accuracy")},
    "validation ROC AUC": "val.roc_auc",
}
AT_OPERATING_POINT = {
    "threshold": "threshold",
    **{f"tuning-set {name}": f"operating_point.tuning.{name}" for name in RATES[:2]},
    **{f"test {name}": f"operating_point.test.{name}" for name in RATES},
}
# Title -> column of the record.
OVER_SEEDS = {
    "tuning-set ROC AUC": "selection_roc_auc",
    "test ROC AUC": "test_roc_auc",
    "accuracy at 0.5": "test_accuracy",
    "recall at 0.5": "test_recall",
    **{f"{name} at the operating point": f"test_{name}_at_threshold" for name in RATES},
}
# Titles of the table of speeds in docs/use.md, where it compares other programs.
OF_PREDICTION = {"pipeline": "exported", "notebook's way": "Keras"}


def tables(
    evaluation: Evaluation,
    intervals: Intervals,
    groups: pd.DataFrame,
    record: pd.DataFrame,
    benchmarks: dict[str, Any],
) -> dict[Path, dict[str, pd.DataFrame]]:
    """{page: {name of the table: table}} from the metrics and the contents of plots/groups.csv,
    docs/experiments.csv and benchmarks/results.json.
    """
    metrics = metrics_of_variants(evaluation, intervals)
    with_others = pd.concat([metrics, metrics_of_others(evaluation)])
    inference = speed({"inference": benchmarks["inference"]})
    return {
        README: {"results": _titled(metrics, COMPARISON)},
        RESULTS: {
            "results at 0.5": _titled(with_others, AT_HALF),
            "operating points": _titled(metrics, AT_OPERATING_POINT),
            "groups": by_group(groups),
            "seeds": over_seeds(record),
            "speed": speed({name: benchmarks[name] for name in NOTEBOOK_BENCHMARKS}),
        },
        USE: {"speed of prediction": inference.rename(columns=OF_PREDICTION)},
    }


def metrics_of_variants(evaluation: Evaluation, intervals: Intervals) -> pd.DataFrame:
    """A row for each variant; columns: the keys of metrics/evaluation.json, and texts of some."""
    rows = {variant: leaves(evaluation.variants[variant].model_dump()) for variant in VARIANTS}
    for variant, row in rows.items():
        auc = intervals.test.columns[variant].roc_auc
        stress = [of.roc_auc for of in evaluation.variants[variant].stress.values()]
        row["stress.mean_roc_auc"] = mean(stress)
        row["test.roc_auc_with_ci"] = f"{auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}]"
        row["test.counts"] = " / ".join(str(row[f"test.{name}"]) for name in COUNTS)
        row["threshold"] = f"{row['operating_point.threshold']:.4f}"
    return pd.DataFrame.from_dict(rows, orient="index")


def metrics_of_others(evaluation: Evaluation) -> pd.DataFrame:
    """As above, on test, of the notebook's models and of always predicting PNEUMONIA."""
    test = evaluation.variants[VARIANTS[0]].test
    counts = {f"notebook: {variant}": cells for variant, cells in NOTEBOOK.items()}
    counts["always PNEUMONIA"] = (0, test.tn + test.fp, 0, test.fn + test.tp)
    rows = {
        name: {rate: float(value) for rate, value in rates(*cells).items()}
        | {"counts": " / ".join(map(str, cells))}
        for name, cells in counts.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").add_prefix("test.")


def _titled(metrics: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
    """Text of some columns under their titles; empty where there is no number."""
    table = metrics[list(columns.values())].set_axis(list(columns), axis=1)
    return rounded(table.rename_axis("variant")).replace("nan", "").fillna("")


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
    return last[["variant", "seeds", *names]].set_axis(["variant", "seeds", *OVER_SEEDS], axis=1)


def speed(results: dict[str, Any]) -> pd.DataFrame:
    """A row for each comparison in (a part of) benchmarks/results.json."""
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


def main() -> None:
    evaluation, intervals = Evaluation.read(), Intervals.read()
    groups, record = pd.read_csv(paths.GROUPS), read_record(paths.EXPERIMENTS)
    try:
        benchmarks = json.loads(paths.BENCHMARKS.read_text(encoding="utf-8"))
        made = tables(evaluation, intervals, groups, record, benchmarks)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CxrError(
            f"{paths.BENCHMARKS} cannot be read or was produced by a different version "
            f"({error!r}); regenerate it with `make bench`"
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
