"""Metrics with their intervals as tables of text, for the report and for `cxr evaluate`.

Everywhere `columns` is what `intervals` gives under that name, for every variant.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from cxr.common.names import VARIANTS
from cxr.evaluation.bootstrap import COMPARED, Interval
from cxr.evaluation.metrics import POINTS
from cxr.reporting.formatting import signed_span, span

TITLES = {
    **{"f1": "F1", "roc_auc": "ROC AUC", "average_precision": "average precision"},
    "brier": "Brier score",
}
RATES = ("recall", "precision", "accuracy", "specificity")
SUMMARY = ("recall", "specificity", "precision", "accuracy", "f1")
CELLS = {
    ("NORMAL", "NORMAL"): "true negatives",
    ("NORMAL", "PNEUMONIA"): "false positives",
    ("PNEUMONIA", "NORMAL"): "false negatives",
    ("PNEUMONIA", "PNEUMONIA"): "true positives",
}


def metrics(columns: dict[str, Any], point: str) -> pd.DataFrame:
    """A row for each variant: the rates at a threshold (a key of `POINTS`); at 0.5 also what needs
    no threshold.
    """
    rows = []
    for variant in VARIANTS:
        found = columns[variant]
        row = {"variant": variant} | {name: span(found[point][name]) for name in (*RATES, "f1")}
        if point == "at_half":
            row |= {name: span(found[name]) for name in ("roc_auc", "average_precision")}
        rows.append(row)
    return pd.DataFrame(rows).rename(columns=TITLES)


def summary(columns: dict[str, Any]) -> pd.DataFrame:
    """A row for each metric at the operating point, and for what needs no threshold.

    Args:
        columns: {title of a set of images: what `intervals` gives there for one variant}.
    """
    rows = [
        {"metric": TITLES.get(name, name)}
        | {title: span(of["operating_point"][name]) for title, of in columns.items()}
        for name in SUMMARY
    ]
    rows += [
        {"metric": TITLES[name]} | {title: span(of[name]) for title, of in columns.items()}
        for name in ("roc_auc", "brier")
    ]
    return pd.DataFrame(rows)


def differences(found: dict[str, Any]) -> pd.DataFrame:
    """A row for each pair of variants and threshold, from what `intervals` gives as differences."""
    rows = []
    for pair, of_pair in found.items():
        for point, title in POINTS.items():
            row = {"difference": pair, "threshold": title}
            compared = of_pair[point] | {"roc_auc": of_pair["roc_auc"]}
            rows.append(row | {name: signed_span(compared[name]) for name in COMPARED})
    return pd.DataFrame(rows).rename(columns=TITLES)


def confusion(cells: pd.DataFrame) -> pd.DataFrame:
    """A row for each variant and threshold, from the result of `metrics.confusions`."""
    pairs = zip(cells["actual"], cells["predicted"], strict=True)
    wide = cells.assign(cell=[CELLS[pair] for pair in pairs]).pivot(
        index=["variant", "threshold"], columns="cell", values="images"
    )
    order = pd.MultiIndex.from_product([VARIANTS, POINTS.values()], names=wide.index.names)
    return wide.reindex(order)[list(CELLS.values())].reset_index()


def calibration(columns: dict[str, Any], errors: Mapping[str, float]) -> pd.DataFrame:
    """A row for each variant and threshold: calibration and predictive values.

    Args:
        columns: as above.
        errors: the expected calibration error of each variant, which has no interval.
    """
    rows = []
    for variant in VARIANTS:
        found = columns[variant]
        rows += [
            {
                "variant": variant,
                "threshold": title,
                TITLES["brier"]: span(found["brier"]),
                "expected calibration error": f"{errors[variant]:.3f}",
                "positive predictive value": span(found[point]["ppv"]),
                "negative predictive value": span(found[point]["npv"]),
            }
            for point, title in POINTS.items()
        ]
    return pd.DataFrame(rows)


def interval_plot_data(columns: dict[str, Any], point: str) -> dict[str, dict[str, Interval]]:
    """What `charts.metric_intervals` draws: the rates at a threshold, and ROC AUC."""
    shown = {name: {v: columns[v][point][name] for v in VARIANTS} for name in RATES}
    return {**shown, "ROC AUC": {v: columns[v]["roc_auc"] for v in VARIANTS}}
