"""Report of an external validation. It contains no file names, which may identify patients, and no
radiographs.
"""

from pathlib import Path

import pandas as pd

from cxr.common.files import replacing
from cxr.common.names import LABELS
from cxr.evaluation import metrics
from cxr.inference.external_validation import Evaluation
from cxr.reporting import charts, tables
from cxr.reporting.document import Document, percent
from cxr.reporting.formatting import span
from cxr.reporting.recommendation import recall_statement

# Per class, for an external validation: a rule of thumb that is often too low (Snell 2021,
# 10.1016/j.jclinepi.2021.02.011).
MIN_PATIENTS = 100
SPLITS = ("test",)  # of the charts


def write(found: Evaluation, folder: Path) -> None:
    """Write index.html and report.md, and the charts also as files, into an existing folder."""
    svgs = render_charts(found)
    report(found, svgs).write(folder / "report.md", folder / "index.html")
    for name, svg in svgs.items():
        with replacing(folder / "plots" / f"{name}.svg") as part:
            part.write_text(svg, encoding="utf-8")


def short(found: Evaluation) -> str:
    """Table for the terminal: each variant at its operating point, the recommended one first."""
    columns = found.intervals.columns
    table = tables.metrics(columns, "operating_point")
    table["ROC AUC"] = [span(columns[variant].roc_auc) for variant in table["variant"]]
    names = ["variant", "recall", "precision", "specificity", "ROC AUC"]
    is_other = table["variant"] != found.settings.recommended
    table["variant"] = table["variant"].where(is_other, table["variant"] + " (recommended)")
    ordered = table.assign(other=is_other).sort_values("other", kind="stable")[names]
    text = str(ordered.to_string(index=False))
    return "\n".join([_population(found), "", text, "", _selection(found)])


def report(found: Evaluation, svgs: dict[str, str]) -> Document:
    """The whole report.

    Args:
        found: the results.
        svgs: charts from `render_charts`.
    """
    data, columns = found.metrics.data, found.intervals.columns
    point = columns[found.settings.recommended].operating_point
    minimum, positives = found.settings.evaluate.min_recall, found.intervals.positive_patients
    values = {
        **vars(found),
        **dict(found.settings),
        "data": data,
        "population": _population(found),
        "selection": _selection(found),
        "operating": found.metrics.thresholds,
        "recall": recall_statement(point.recall, positives, minimum, "there are"),
        "values": {"ppv": span(point.ppv), "npv": span(point.npv)},
        "few": [label for label in LABELS if data[label]["patients"] < MIN_PATIENTS],
        "few_patients": MIN_PATIENTS,
        "skipped": len(found.left_out) - found.unreadable,
        "prevalence": found.metrics.majority.accuracy,
        "tables": _tables(found, columns),
        "charts": svgs,
    }
    return Document("external.md.j2", values)


def render_charts(found: Evaluation) -> dict[str, str]:
    """All charts as SVG text by name."""
    images = found.images
    points = tables.interval_plot_data(found.intervals.columns, "operating_point")
    return {
        "intervals": charts.metric_intervals(points, "value with 95 % CI"),
        "roc": charts.roc(images, SPLITS),
        "precision_recall": charts.precision_recall(images, SPLITS),
        "confusion": charts.confusions(metrics.confusions(images, found.metrics.thresholds)),
        "thresholds": charts.thresholds(images, found.metrics.thresholds, SPLITS),
        "calibration": charts.calibration(images),
    }


def _tables(found: Evaluation, columns: tables.Columns) -> dict[str, pd.DataFrame]:
    ece = {variant: of.at_half.ece for variant, of in found.metrics.variants.items()}
    return {
        "summary": tables.summary({"value and 95 % CI": columns[found.settings.recommended]}),
        "counts": pd.DataFrame({"class": c, **found.metrics.data[c]} for c in LABELS),
        "warnings": _warnings(found.images),
        "at_operating_point": tables.metrics(columns, "operating_point"),
        "at_half": tables.metrics(columns, "at_half"),
        "differences": tables.differences(found.intervals.differences),
        "confusion": tables.confusion(metrics.confusions(found.images, found.metrics.thresholds)),
        "calibration": tables.calibration(columns, ece),
    }


def _population(found: Evaluation) -> str:
    data = found.metrics.data
    classes = ", ".join(f"{data[label]['images']} {label}" for label in LABELS)
    return f"{data['images']} images ({classes}) of {data['patients']} patients."


def _selection(found: Evaluation) -> str:
    return (
        "Variant and thresholds were chosen on the tuning set of the pipeline, not on these "
        "images. Intervals are those of a bootstrap over patients "
        f"({found.settings.evaluate.n_bootstrap} resamples)."
    )


def _warnings(images: pd.DataFrame) -> pd.DataFrame:
    """Number of images of each class with each warning; empty without warnings."""
    listed = images[["label", "warnings"]].explode("warnings").dropna()
    sizes = images["label"].value_counts()
    return pd.DataFrame(
        {"warning": warning}
        | {c: f"{(of == c).sum()} ({percent((of == c).sum() / sizes[c])})" for c in LABELS}
        for warning, of in listed.groupby("warnings", sort=True)["label"]
    )
