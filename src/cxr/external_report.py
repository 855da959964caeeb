"""What the page of an evaluation on other images says. It names no file, as names may tell
patients, and shows no image.
"""

from pathlib import Path

import pandas as pd

from cxr import charts, comparison, tables
from cxr.document import Block, Chart, Document, Section, Table
from cxr.external import Evaluation
from cxr.files import replacing
from cxr.labels import LABELS
from cxr.recommendation import kept, span
from cxr.variants import VARIANTS

# Of each class, for an external validation: a rule of thumb that is rather too low (Snell 2021,
# 10.1016/j.jclinepi.2021.02.011).
FEW_PATIENTS = 100
SPLITS = ("test",)  # what the charts are drawn of
VALUES = {
    **{"recall": "recall (sensitivity)", "specificity": "specificity", "precision": "precision"},
    **{"accuracy": "accuracy", "f1": "F1"},
}


def write(found: Evaluation, folder: Path) -> None:
    """Write index.html and report.md, and the charts also as files, into an existing folder."""
    pictures = draw(found)
    report(found, pictures).write(folder / "report.md", folder / "index.html")
    for name, chart in pictures.items():
        with replacing(folder / "plots" / f"{name}.svg") as part:
            part.write_text(chart.svg, encoding="utf-8")


def short(found: Evaluation) -> str:
    """A table for the terminal: each variant at its operating point, the recommended one first."""
    columns = found.intervals["columns"]
    table = tables.metrics(columns, "operating_point")
    table["ROC AUC"] = [span(columns[variant]["roc_auc"]) for variant in table["variant"]]
    names = ["variant", "recall", "precision", "specificity", "ROC AUC"]
    is_other = table["variant"] != found.recommended
    table["variant"] = table["variant"].where(is_other, table["variant"] + " (recommended)")
    ordered = table.assign(other=is_other).sort_values("other", kind="stable")[names]
    return "\n".join([_whose(found), "", str(ordered.to_string(index=False)), "", _choice(found)])


def report(found: Evaluation, pictures: dict[str, Chart]) -> Document:
    """The whole page.

    Args:
        found: what was measured.
        pictures: what `draw` gives.
    """
    return Document(
        "The trained networks on other images",
        [
            _summary(found),
            _images(found),
            _comparison(found, pictures),
            _thresholds(found, pictures),
            _calibration(found, pictures),
        ],
    )


def draw(found: Evaluation) -> dict[str, Chart]:
    """All charts by name."""
    images, columns = found.images, found.intervals["columns"]
    operating = {v: found.metrics[v]["operating_point"]["threshold"] for v in VARIANTS}
    pictured = tables.pictured(columns, "operating_point")
    cells = comparison.confusions(images, found.metrics)
    return {
        "intervals": Chart(
            "Metrics at the operating point",
            charts.metric_intervals(pictured, "value with 95 % interval"),
            "Points with intervals of the variants, the values of the first table",
        ),
        "roc": Chart("ROC curves", charts.roc(images, SPLITS), "ROC curves of the variants"),
        "precision_recall": Chart(
            "Precision-recall curves",
            charts.precision_recall(images, SPLITS),
            "Precision-recall curves of the variants",
        ),
        "confusion": Chart(
            "Confusion (images)",
            charts.confusions(cells),
            "Confusion matrices, the counts of the table",
        ),
        "thresholds": Chart(
            "Recall and precision by threshold",
            charts.thresholds(images, operating, SPLITS),
            "Recall and precision of each variant at every threshold",
        ),
        "calibration": Chart(
            "Calibration",
            charts.calibration(images),
            "Share of pneumonia against mean probability in ten bins for each variant",
        ),
    }


def _summary(found: Evaluation) -> Section:
    columns = found.intervals["columns"][found.recommended]
    point = columns["operating_point"]
    rows = [(title, span(point[name])) for name, title in VALUES.items()]
    rows += [("ROC AUC", span(columns["roc_auc"])), ("Brier score", span(columns["brier"]))]
    threshold = found.metrics[found.recommended]["operating_point"]["threshold"]
    minimum = found.evaluate.min_recall
    recall = kept(point["recall"], found.intervals["ill_patients"], minimum, "there are")
    return Section(
        "Summary",
        [
            f"{_whose(found)} **Not for clinical use.**",
            f"**{found.recommended}**, the recommended variant, with the threshold "
            f"{threshold:.3f}. {_choice(found)}",
            Table(pd.DataFrame(rows, columns=["metric", "value and 95 % interval"])),
            f"The threshold was chosen for recall of at least {minimum:g} on validation. "
            f"Here {recall}",
            f"Where {_percent(found.evaluate.prevalence)} of the patients are ill, "
            f"{span(point['ppv'])} of those called PNEUMONIA are (positive predictive value), and "
            f"{span(point['npv'])} of those called NORMAL are well.",
            *_cautions(found),
        ],
    )


def _whose(found: Evaluation) -> str:
    """How many images and patients."""
    data = found.metrics["data"]
    classes = ", ".join(f"{data[label]['images']} {label}" for label in LABELS)
    return f"{data['images']} images ({classes}) of {data['patients']} patients."


def _choice(found: Evaluation) -> str:
    return (
        "Variant and thresholds were chosen on the validation images of the training, nothing on "
        "these. Intervals are those of a bootstrap over patients "
        f"({found.evaluate.resamples} draws)."
    )


def _cautions(found: Evaluation) -> list[Block]:
    """What makes the figures less sure than they look."""
    data, source = found.metrics["data"], found.source
    cautions = []
    few = [label for label in LABELS if data[label]["patients"] < FEW_PATIENTS]
    if few:
        counted = " and ".join(f"{data[label]['patients']} with {label}" for label in few)
        cautions.append(
            f"Few patients: {counted}. It takes {FEW_PATIENTS} of each class or more (Snell 2021, "
            "10.1016/j.jclinepi.2021.02.011); with fewer, the intervals are too narrow as well."
        )
    if source.untold:
        cautions.append(
            f"Nothing tells the patients of {source.untold} image(s), so each counts as a patient "
            "of its own: if some are of one patient, the intervals are too narrow. "
            "`--patients` tells them."
        )
    if found.unreadable:
        cautions.append(
            f"{found.unreadable} image(s) could not be read and are left out; `left_out.csv` "
            "names them with the reasons."
        )
    if skipped := len(found.left_out) - found.unreadable:
        cautions.append(
            f"{skipped} file(s) or folder(s) among them were skipped; `left_out.csv` names them "
            "with the reasons."
        )
    if source.copies:
        cautions.append(
            f"{source.copies} image(s) are the same file as another one; they count like any other."
        )
    return ["\n".join(f"- **Caution.** {caution}" for caution in cautions)] if cautions else []


def _images(found: Evaluation) -> Section:
    data, source = found.metrics["data"], found.source
    counts = pd.DataFrame({"class": label, **data[label]} for label in LABELS)
    by = "The table given by `--patients`" if source.told_by else "The file names"
    told = f"{by} tell{'s' if source.told_by else ''} the patients"
    if source.untold:
        told += f" of {len(source.images) - source.untold} image(s)"
    elsewhere = (
        f"{len(source.elsewhere)} file(s) or folder(s) in neither class's folder have no part in "
        "this."
    )
    return Section(
        "Images",
        [
            Table(counts),
            f"{told}. Images that the networks were trained on would make every figure too good."
            + (f" {elsewhere}" if len(source.elsewhere) else ""),
            *_warnings(found),
        ],
    )


def _warnings(found: Evaluation) -> list[Block]:
    """How many images `cxr predict` would warn of, and why."""
    images = found.images
    listed = images[["label", "warnings"]].explode("warnings").dropna()
    if listed.empty:
        return ["No image has a warning."]
    sizes = images["label"].value_counts()
    alarms = found.false_alarms
    rows = [
        {"warning": warning}
        | {label: _share(int((of == label).sum()), int(sizes[label])) for label in LABELS}
        for warning, of in listed.groupby("warnings", sort=True)["label"]
    ]
    return [
        "Images that `cxr predict` warns of, by class. That an image does not look like those of "
        f"the training is said of {_percent(alarms['val'])} of the pipeline's own validation and "
        f"{_percent(alarms['test'])} of its test.",
        Table(pd.DataFrame(rows)),
    ]


def _share(part: int, whole: int) -> str:
    return f"{part} ({_percent(part / whole)})"


def _percent(share: float) -> str:
    return f"{round(100 * share, 1):g} %"


def _comparison(found: Evaluation, pictures: dict[str, Chart]) -> Section:
    columns = found.intervals["columns"]
    operating = ", ".join(
        f"{v} {found.metrics[v]['operating_point']['threshold']:.3f}" for v in VARIANTS
    )
    return Section(
        "The variants side by side",
        [
            f"At the operating points ({operating}), value and 95 % interval:",
            Table(tables.metrics(columns, "operating_point")),
            "At threshold 0.5:",
            Table(tables.metrics(columns, "at_half")),
            "Differences between pairs of variants on the same draws of patients; one is more than "
            "chance in the choice of patients where its interval leaves out 0 (bold), and `=` "
            "where it rounds to 0:",
            Table(tables.differences(found.intervals["differences"])),
            [pictures[name] for name in ("intervals", "roc", "precision_recall")],
        ],
    )


def _thresholds(found: Evaluation, pictures: dict[str, Chart]) -> Section:
    cells = comparison.confusions(found.images, found.metrics)
    return Section(
        "Confusion and thresholds",
        [
            "Images by actual and predicted class:",
            Table(tables.confusion(cells)),
            [pictures["confusion"], pictures["thresholds"]],
        ],
    )


def _calibration(found: Evaluation, pictures: dict[str, Chart]) -> Section:
    errors = {variant: found.metrics[variant]["at_half"]["ece"] for variant in VARIANTS}
    ill = found.metrics["majority"]["accuracy"]
    return Section(
        "Calibration and prevalence",
        [
            f"{_percent(ill)} of the images show pneumonia; the predictive values say how often a "
            f"call is right where {_percent(found.evaluate.prevalence)} of the patients are ill "
            "(`--prevalence`). Brier score and calibration error do not depend on the threshold; "
            "0 is best. The calibration error has no interval: drawing images with replacement "
            "makes it larger.",
            Table(tables.calibration(found.intervals["columns"], errors)),
            [pictures["calibration"]],
        ],
    )
