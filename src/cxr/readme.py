"""The tables of results in README.md, written from the metrics and the record of experiments.

make readme
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from cxr import paths, scores
from cxr.document import with_table
from cxr.errors import CxrError, run_stage
from cxr.experiments import AS_COMMITTED, read_record, summary
from cxr.files import replacing
from cxr.styles import named_groups
from cxr.variants import VARIANTS

README = Path("README.md")
# Counts on its test batches (tn, fp, fn, tp), from the confusion matrices of the notebook.
NOTEBOOK = {
    "baseline": (116, 130, 6, 404),
    "augmented": (162, 84, 12, 398),
    "transfer": (140, 106, 16, 394),
}
COUNTS = ("tn", "fp", "fn", "tp")
RATES = ("recall", "precision", "accuracy", "specificity")
# Column of the table over seeds -> column of the record.
OVER_SEEDS = {
    "val and stress ROC AUC": "selection_roc_auc",
    "test ROC AUC": "test_roc_auc",
    "accuracy at 0.5": "test_accuracy",
    "recall at 0.5": "test_recall",
    **{f"{name} at the operating point": f"test_{name}_at_threshold" for name in RATES},
}


def with_results(
    text: str, evaluation: dict[str, Any], groups: pd.DataFrame, record: pd.DataFrame
) -> str:
    """The text of README.md with its tables made of the content of metrics/evaluation.json,
    plots/groups.csv and docs/experiments.csv.
    """
    text = with_table(text, "results at 0.5", at_half(evaluation))
    text = with_table(text, "results at the operating point", at_operating_point(evaluation))
    text = with_table(text, "results by group", by_group(groups))
    return with_table(text, "results over seeds", over_seeds(record))


def at_half(evaluation: dict[str, Any]) -> pd.DataFrame:
    """A row for each variant, each of the notebook's, and for calling every image PNEUMONIA."""
    rows = []
    for variant in VARIANTS:
        test, val = evaluation[variant]["test"], evaluation[variant]["val"]
        rows.append(
            _row(variant, test)
            | {"ROC AUC": _number(test["roc_auc"]), "TN / FP / FN / TP": _counts(test)}
            | {f"val {name}": _number(val[name]) for name in ("recall", "precision", "accuracy")}
            | {"val ROC AUC": _number(val["roc_auc"])}
        )
    for variant, cells in NOTEBOOK.items():
        counts = dict(zip(COUNTS, cells, strict=True))
        rates = scores.rates(**counts)
        rows.append(_row(f"notebook: {variant}", rates) | {"TN / FP / FN / TP": _counts(counts)})
    share = evaluation["majority"]["test"]["accuracy"]
    always = {"recall": 1.0, "precision": share, "accuracy": share, "specificity": 0.0}
    return pd.DataFrame([*rows, _row("always PNEUMONIA", always)]).fillna("")


def at_operating_point(evaluation: dict[str, Any]) -> pd.DataFrame:
    """A row for each variant."""
    rows = []
    for variant in VARIANTS:
        point = evaluation[variant]["operating_point"]
        rows.append(
            {"variant": variant, "threshold": f"{point['threshold']:.4f}"}
            | {
                f"val and stress {name}": _number(point["selection"][name])
                for name in ("recall", "precision")
            }
            | {f"test {name}": _number(point["test"][name]) for name in RATES}
        )
    return pd.DataFrame(rows)


def by_group(groups: pd.DataFrame) -> pd.DataFrame:
    """Shares of right calls on test at the operating point: a row for each variant."""
    right = named_groups(groups)
    titles = [f"{name} ({images})" for name, images in right["images"].items()]
    table = right[list(VARIANTS)].map(_number).set_axis(titles).T
    return table.rename_axis("variant").reset_index()


def over_seeds(record: pd.DataFrame) -> pd.DataFrame:
    """Mean and spread on test of the recorded runs that changed nothing but the seed, of the last
    commit that has such: a row for each variant.
    """
    names = list(OVER_SEEDS.values())
    found = summary(record, names)
    found = found[found["changed"] == AS_COMMITTED]
    last = found[found["commit"].isin(found["commit"].tail(1))]
    titles = {column: title for title, column in OVER_SEEDS.items()}
    return last[["variant", "seeds", *names]].rename(columns=titles)


def _row(name: str, rates: dict[str, Any]) -> dict[str, str]:
    return {"variant": name, **{rate: _number(rates[rate]) for rate in RATES}}


def _number(value: float) -> str:
    return f"{value:.3f}"


def _counts(counts: dict[str, Any]) -> str:
    return " / ".join(str(counts[name]) for name in COUNTS)


def main() -> None:
    text = README.read_text(encoding="utf-8")
    again = "make it anew with `dvc repro`"
    try:
        evaluation = json.loads(paths.EVALUATION.read_text(encoding="utf-8"))
        record = read_record(paths.EXPERIMENTS)
        text = with_results(text, evaluation, pd.read_csv(paths.GROUPS), record)
    except (OSError, ValueError) as error:
        raise CxrError(f"{paths.EVALUATION} cannot be read ({error}); {again}") from error
    except (KeyError, TypeError) as error:
        raise CxrError(f"{paths.EVALUATION} is of other code ({error}); {again}") from error
    with replacing(README) as part:
        part.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run_stage(main)
