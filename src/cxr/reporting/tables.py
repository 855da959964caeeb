"""Metrics with their intervals as tables of text, for the report and for `cxr evaluate`.

Everywhere `columns` holds the intervals of every variant on one set of images.
"""

from collections.abc import Mapping

import pandas as pd

from cxr.common.names import VARIANTS
from cxr.evaluation.bootstrap import COMPARED
from cxr.evaluation.metrics import CELLS, POINTS
from cxr.evaluation.results import Difference, Interval, VariantIntervals
from cxr.reporting.formatting import signed_span, span

Columns = Mapping[str, VariantIntervals]

TITLES = {
    **{"f1": "F1", "roc_auc": "ROC AUC", "average_precision": "average precision"},
    "brier": "Brier score",
}
RATES = ("recall", "precision", "accuracy", "specificity")
SUMMARY = ("recall", "specificity", "precision", "accuracy", "f1")
COUNTS = ("true negatives", "false positives", "false negatives", "true positives")


def metrics(columns: Columns, point: str) -> pd.DataFrame:
    """A row for each variant: the rates at a threshold (a key of `POINTS`); at 0.5 also what needs
    no threshold.
    """
    rows = []
    for variant in VARIANTS:
        found = columns[variant]
        rates = getattr(found, point).select((*RATES, "f1"))
        row = {"variant": variant} | {name: span(rate) for name, rate in rates.items()}
        if point == "at_half":
            row |= {name: span(getattr(found, name)) for name in ("roc_auc", "average_precision")}
        rows.append(row)
    return pd.DataFrame(rows).rename(columns=TITLES)


def summary(columns: Columns) -> pd.DataFrame:
    """A row for each metric at the operating point, and for what needs no threshold.

    Args:
        columns: {title of a set of images: intervals of one variant there}.
    """
    rows = [
        {"metric": TITLES.get(name, name)}
        | {title: span(getattr(of.operating_point, name)) for title, of in columns.items()}
        for name in SUMMARY
    ]
    rows += [
        {"metric": TITLES[name]} | {title: span(getattr(of, name)) for title, of in columns.items()}
        for name in ("roc_auc", "brier")
    ]
    return pd.DataFrame(rows)


def differences(found: Mapping[str, Difference]) -> pd.DataFrame:
    """A row for each pair of variants and threshold."""
    rows = []
    for pair, of_pair in found.items():
        for point, title in POINTS.items():
            row = {"difference": pair, "threshold": title}
            compared = of_pair.at(point)
            rows.append(row | {name: signed_span(compared[name]) for name in COMPARED})
    return pd.DataFrame(rows).rename(columns=TITLES)


def confusion(cells: pd.DataFrame) -> pd.DataFrame:
    """A row for each variant and threshold, from the result of `metrics.confusions`."""
    titles = dict(zip(CELLS.values(), COUNTS, strict=True))
    classes = zip(cells["actual"], cells["predicted"], strict=True)
    wide = cells.assign(cell=[titles[pair] for pair in classes]).pivot(
        index=["variant", "threshold"], columns="cell", values="images"
    )
    order = pd.MultiIndex.from_product([VARIANTS, POINTS.values()], names=wide.index.names)
    return wide.reindex(order)[list(COUNTS)].reset_index()


def calibration(columns: Columns, errors: Mapping[str, float]) -> pd.DataFrame:
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
                TITLES["brier"]: span(found.brier),
                "expected calibration error": f"{errors[variant]:.3f}",
                "positive predictive value": span(getattr(found, point).ppv),
                "negative predictive value": span(getattr(found, point).npv),
            }
            for point, title in POINTS.items()
        ]
    return pd.DataFrame(rows)


def interval_plot_data(columns: Columns, point: str) -> dict[str, dict[str, Interval]]:
    """What `charts.metric_intervals` draws: the rates at a threshold, and ROC AUC."""
    rates = {v: getattr(columns[v], point) for v in VARIANTS}
    shown = {name: {v: getattr(rates[v], name) for v in VARIANTS} for name in RATES}
    return {**shown, "ROC AUC": {v: columns[v].roc_auc for v in VARIANTS}}
