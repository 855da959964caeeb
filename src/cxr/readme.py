"""The tables of results in docs/results.md and docs/use.md, written from the metrics, the record of
experiments and the benchmarks.

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

RESULTS = Path("docs/results.md")
USE = Path("docs/use.md")
# Counts on its test batches (tn, fp, fn, tp), from the confusion matrices of the notebook.
NOTEBOOK = {
    "baseline": (116, 130, 6, 404),
    "augmented": (162, 84, 12, 398),
    "transfer": (140, 106, 16, 394),
}
COUNTS = ("tn", "fp", "fn", "tp")
RATES = ("recall", "precision", "accuracy", "specificity")
BESIDE_NOTEBOOK = ("decoding", "steps", "transfer", "pipeline")  # benchmarks
# Column of the table over seeds -> column of the record.
OVER_SEEDS = {
    "val and stress ROC AUC": "selection_roc_auc",
    "test ROC AUC": "test_roc_auc",
    "accuracy at 0.5": "test_accuracy",
    "recall at 0.5": "test_recall",
    **{f"{name} at the operating point": f"test_{name}_at_threshold" for name in RATES},
}


def with_results(
    text: str,
    evaluation: dict[str, Any],
    groups: pd.DataFrame,
    record: pd.DataFrame,
    benchmarks: dict[str, Any],
) -> str:
    """The text of docs/results.md with its tables made of the content of metrics/evaluation.json,
    plots/groups.csv, docs/experiments.csv and benchmarks/results.json.
    """
    text = with_table(text, "results at 0.5", at_half(evaluation))
    text = with_table(text, "operating points", at_operating_point(evaluation))
    text = with_table(text, "groups", by_group(groups))
    text = with_table(text, "seeds", over_seeds(record))
    return with_table(text, "speed", speed({name: benchmarks[name] for name in BESIDE_NOTEBOOK}))


def with_speed(text: str, benchmarks: dict[str, Any]) -> str:
    """The text of docs/use.md with its table made of the content of benchmarks/results.json."""
    table = speed({"inference": benchmarks["inference"]})
    titles = {"pipeline": "exported", "notebook's way": "Keras"}
    return with_table(text, "speed of prediction", table.rename(columns=titles))


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


def speed(results: dict[str, Any]) -> pd.DataFrame:
    """A row for each comparison of the benchmarks, in order.

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


def _row(name: str, rates: dict[str, Any]) -> dict[str, str]:
    return {"variant": name, **{rate: _number(rates[rate]) for rate in RATES}}


def _number(value: float) -> str:
    return f"{value:.3f}"


def _counts(counts: dict[str, Any]) -> str:
    return " / ".join(str(counts[name]) for name in COUNTS)


def _read(path: Path, command: str) -> Any:
    """Content of a JSON file that a command makes."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CxrError(f"{path} cannot be read ({error}); make it anew with `{command}`") from error


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def main() -> None:
    evaluation = _read(paths.EVALUATION, "dvc repro")
    benchmarks = _read(paths.BENCHMARKS, "make bench")
    groups, record = pd.read_csv(paths.GROUPS), read_record(paths.EXPERIMENTS)
    try:
        pages = {
            RESULTS: with_results(_text(RESULTS), evaluation, groups, record, benchmarks),
            USE: with_speed(_text(USE), benchmarks),
        }
    except (KeyError, TypeError) as error:
        raise CxrError(
            f"{paths.EVALUATION} or {paths.BENCHMARKS} is of other code ({error}); make it anew "
            "with `dvc repro` or `make bench`"
        ) from error
    for page, text in pages.items():
        with replacing(page) as part:
            part.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run_stage(main)
