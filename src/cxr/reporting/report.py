"""Inputs of the report: the results of the previous stages as tables and charts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from cxr import paths
from cxr.common.arrays import Split, open_split
from cxr.common.names import EVALUATED, LABELS, SPLITS, TRAINED, VARIANTS
from cxr.data import shortcuts
from cxr.evaluation import metrics
from cxr.evaluation.groups import reported_groups
from cxr.evaluation.metrics import POINTS
from cxr.evaluation.results import Evaluation, Guards, Intervals, Shift
from cxr.params import EvaluateParams
from cxr.reporting import charts, tables
from cxr.reporting.document import Document, Figure, code
from cxr.reporting.formatting import signed
from cxr.reporting.recommendation import recommend
from cxr.reporting.tables import TITLES

MIN_GROUP_SIZE = 10  # images; the accuracy of a smaller group is too uncertain
N_ERRORS = 6  # shown for each variant and kind of error
REPORTED_SETTINGS = (  # at the top of the report
    *("data.source", "split.test", "split.group_by", "image.input_size", "image.resize"),
    *("transfer.backbone", "transfer.weights", "transfer.preprocessing", "seed"),
)
SECTIONS = {  # of params.yaml
    "model": "the small CNN of baseline and augmented",
    "augment": "augmentation of augmented",
    "transfer": "the frozen backbone and its head",
    "finetune": "the same backbone, its last layers trained",
    "perturb": "augmentation of finetuned",
}


# Charts that pages in docs/ show, if there are any; none contains an image.
FIGURES = ("stress", "groups", "single_feature_auc")


@dataclass(frozen=True)
class ReportInputs:
    """Results of the previous stages."""

    settings: dict[str, Any]  # the parameters by their full names, such as `transfer.backbone`
    evaluate: EvaluateParams
    splits: dict[str, Split]  # train, val and test
    predictions: pd.DataFrame  # content of data/predictions.csv
    unlikeness: pd.DataFrame  # content of data/domain_scores.csv
    groups: pd.DataFrame  # content of plots/groups.csv
    evaluation: Evaluation
    guards: Guards
    intervals: Intervals
    shift: Shift
    confusions: pd.DataFrame  # content of plots/confusion.csv
    histories: dict[str, pd.DataFrame]  # content of plots/history, by variant
    experiments: pd.DataFrame  # content of docs/experiments.csv

    @property
    def test(self) -> pd.DataFrame:
        """Predictions of the test images with the size of their files, in pixels."""
        index = self.splits["test"].index
        sizes = shortcuts.sizes(index)[["size"]].assign(path=index["path"])
        return self.predictions[self.predictions["split"] == "test"].merge(sizes, on="path")

    @property
    def files(self) -> pd.DataFrame:
        """All images: split, label, patient, and the columns of `shortcuts.sizes`."""
        return pd.concat(
            [
                shortcuts.sizes(split.index)
                .join(split.index[["label", "patient"]])
                .assign(split=name)
                for name, split in self.splits.items()
            ]
        )


def read_inputs(settings: dict[str, Any], evaluate: EvaluateParams) -> ReportInputs:
    """Read the outputs of the previous stages."""
    return ReportInputs(
        settings=settings,
        evaluate=evaluate,
        splits={name: open_split(paths.ARRAYS / name) for name in SPLITS},
        predictions=pd.read_csv(paths.PREDICTIONS, keep_default_na=False),
        unlikeness=pd.read_csv(paths.DOMAIN_SCORES),
        groups=pd.read_csv(paths.GROUPS, dtype={"group": str}),
        evaluation=Evaluation.read(),
        guards=Guards.read(),
        intervals=Intervals.read(),
        shift=Shift.read(),
        confusions=pd.read_csv(paths.PLOTS / "confusion.csv"),
        histories={variant: pd.read_csv(paths.history(variant)) for variant in TRAINED},
        experiments=pd.read_csv(paths.EXPERIMENTS, keep_default_na=False, dtype={"commit": str}),
    )


def report(inputs: ReportInputs, svgs: Mapping[str, str]) -> Document:
    """The report; equal inputs give equal documents.

    Args:
        inputs: results of the previous stages.
        svgs: its charts, from `render_charts`.
    """
    groups, test = reported_groups(inputs.groups), inputs.test
    recommendation = recommend(inputs.evaluation, inputs.intervals, inputs.evaluate.min_recall)
    values = {
        **vars(inputs),
        "recommendation": recommendation,
        "reported_settings": REPORTED_SETTINGS,
        "sections": SECTIONS,
        "parameters": {section: _parameters(inputs.settings, section) for section in SECTIONS},
        "operating": inputs.evaluation.thresholds,
        "prevalence": (test["label"] == "PNEUMONIA").mean(),
        "one_image_each": not inputs.files["patient"].duplicated().any(),
        "equal_shorter_side": _equal_shorter_side(inputs.files),
        "errors": {variant: _errors(inputs, test, variant) for variant in VARIANTS},
        "atypical": _atypical_radiographs(inputs),
        "experiments_path": paths.EXPERIMENTS,
        "tables": _tables(inputs, test, groups),
        "charts": svgs,
    }
    return Document("report.md.j2", values)


def render_charts(inputs: ReportInputs) -> dict[str, str]:
    """Charts as SVG text by name; `groups` only where there are any."""
    predictions, images = inputs.predictions, inputs.files
    columns = inputs.intervals.test.columns
    groups = reported_groups(inputs.groups)
    return {
        "metrics": charts.metric_intervals(tables.interval_plot_data(columns, "at_half")),
        "roc": charts.roc(predictions),
        "precision_recall": charts.precision_recall(predictions),
        "stress": charts.stress(inputs.evaluation),
        **({} if groups.empty else {"groups": charts.groups(groups)}),
        "confusions": charts.confusions(inputs.confusions),
        "thresholds": charts.thresholds(predictions, inputs.evaluation.thresholds),
        "calibration": charts.calibration(predictions),
        "loss": charts.training(inputs.histories, "loss", "cross-entropy"),
        "accuracy": charts.training(inputs.histories, "accuracy", "accuracy"),
        "single_feature_auc": charts.single_feature_auc(_single_feature_auc(inputs)),
        "counts": charts.counts(images),
        "aspect_ratio": charts.distributions(images, "aspect_ratio", "width / height"),
        "size": charts.distributions(images, "size", "square root of width x height (pixels)"),
    }


def _tables(inputs: ReportInputs, test: pd.DataFrame, groups: pd.DataFrame) -> dict[str, Any]:
    test_columns = inputs.intervals.test.columns
    ece = {variant: found.test.ece for variant, found in inputs.evaluation.variants.items()}
    pathogens = test["pathogen"][test["label"] == "PNEUMONIA"].sort_values()
    sizes = _terciles(test["size"].sort_values())
    return {
        "test_at_half": tables.metrics(test_columns, "at_half"),
        "val_at_half": tables.metrics(inputs.intervals.val.columns, "at_half"),
        "test_at_operating_point": tables.metrics(test_columns, "operating_point"),
        "differences": tables.differences(inputs.intervals.test.differences),
        "stress": {name: _stress(inputs, name) for name in ("roc_auc", "recall", "specificity")},
        "worst_groups": _worst_groups(inputs.groups),
        "groups": groups[[*VARIANTS, "images"]].rename_axis("subgroup"),
        "confusion": tables.confusion(inputs.confusions),
        "calibration": tables.calibration(test_columns, ece),
        "training": _training(inputs.histories),
        "pathogens": None
        if set(pathogens) == {"none"}
        else _accuracy_by(pathogens, "pathogen", inputs, test, "PNEUMONIA"),
        "recall_by_size": _accuracy_by(sizes, "size", inputs, test, "PNEUMONIA"),
        "specificity_by_size": _accuracy_by(sizes, "size", inputs, test, "NORMAL"),
        "losses": _losses(inputs.evaluation),
        "domain_auc": _domain_auc(inputs.shift.domain_auc),
        "atypical": _atypical(inputs.groups),
        "single_feature_auc": _single_feature_auc(inputs),
        "redrawn": _redrawn(inputs),
        "data": _counts(inputs.files),
    }


def _stress(inputs: ReportInputs, metric: str) -> pd.DataFrame:
    found = {
        variant: {
            name.replace("_", " "): getattr(condition, metric)
            for name, condition in inputs.evaluation.variants[variant].stress.items()
        }
        for variant in VARIANTS
    }
    return pd.DataFrame(found).rename_axis("condition")


def _worst_groups(groups: pd.DataFrame) -> pd.DataFrame:
    """The lowest accuracy of each variant by split, kind and class, without small groups."""
    large = groups[(groups["images"] >= MIN_GROUP_SIZE) & (groups["kind"] != "typicality")]
    names = ["split", "kind", "label"]
    worst = large.pivot_table("accuracy", names, "variant", aggfunc="min")
    return worst.reindex(columns=list(VARIANTS))


def _training(histories: dict[str, pd.DataFrame]) -> pd.DataFrame:
    rows = []
    for variant, history in histories.items():
        best = history[history["kept"] == 1].iloc[0]
        row = {"variant": variant, "epochs": len(history), "selected epoch": int(best["epoch"])}
        titles = {"loss": "loss", "val_loss": "validation loss"}
        titles |= {"val_accuracy": "validation accuracy"}
        rows.append(row | {title: f"{best[name]:.4f}" for name, title in titles.items()})
    return pd.DataFrame(rows)


def _parameters(settings: dict[str, Any], section: str) -> list[str]:
    """The parameters of a section, such as `epochs 6`."""
    found = {
        key.removeprefix(f"{section}."): list(value) if isinstance(value, tuple) else value
        for key, value in settings.items()
        if key.startswith(f"{section}.")
    }
    return [f"{key} {str(value).lower()}" for key, value in found.items()]


def _equal_shorter_side(files: pd.DataFrame) -> int | None:
    """Shorter side of all images in pixels if only the longer one differs, else None."""
    if files["shorter"].nunique() > 1 or files["size"].nunique() == 1:
        return None
    return round(files["shorter"].iloc[0])


def _terciles(sizes: pd.Series) -> pd.Series:
    """Tercile of each image by size, such as `256 to 298 pixels`.

    Images of equal size in whole pixels are in one tercile, so that names are unique.
    """
    pixels = sizes.round().astype(int)
    tercile = np.ceil(3 * pixels.rank() / len(pixels))
    groups = pixels.groupby(tercile)
    first, last = groups.transform("min"), groups.transform("max")
    names = first.astype(str).where(first == last, first.astype(str) + " to " + last.astype(str))
    return names + " pixels"


def _accuracy_by(
    groups: pd.Series, title: str, inputs: ReportInputs, test: pd.DataFrame, label: str
) -> pd.DataFrame:
    """Accuracy of each variant on a class's test images by threshold and group, in their order."""
    images = test[test["label"] == label]
    of_class = groups[groups.index.isin(images.index)]
    tables = []
    at_half = dict.fromkeys(VARIANTS, metrics.HALF)
    points = zip(POINTS.values(), (at_half, inputs.evaluation.thresholds), strict=True)
    for name, thresholds in points:
        correct = images[list(VARIANTS)].ge(pd.Series(thresholds)) == (label == "PNEUMONIA")
        by_group = correct.groupby(of_class)
        table = by_group.mean().reindex(of_class.unique()).rename_axis(title)
        table.insert(0, "images", by_group.size())
        table.insert(1, "threshold", name)
        tables.append(table)
    return pd.concat(tables)


def _errors(
    inputs: ReportInputs, test: pd.DataFrame, variant: str
) -> tuple[pd.DataFrame, list[Figure]]:
    """The most confident errors of a variant as a table and as radiographs."""
    positive = test["label"] == "PNEUMONIA"
    predicted = test[variant] >= metrics.HALF
    false_positives = test[~positive & predicted].sort_values([variant, "path"], ascending=False)
    false_negatives = test[positive & ~predicted].sort_values([variant, "path"])
    worst = pd.concat([false_positives.head(N_ERRORS), false_negatives.head(N_ERRORS)])
    listed = worst[["path", "label"]].assign(probability=worst[variant].map("{:.4f}".format))
    radiographs = [
        _radiograph(inputs, row.path, f"{row.label}, p = {row.probability}")
        for row in listed.itertuples()
    ]
    return listed.assign(path=listed["path"].map(code)), radiographs


def _radiograph(inputs: ReportInputs, path: str, remark: str) -> Figure:
    test = inputs.splits["test"]
    row = int(np.flatnonzero(test.index["path"] == path)[0])
    caption = f"{PurePosixPath(path).name}, {remark}"
    return caption, test.images[row], f"Radiograph: {caption}"


def _losses(evaluation: Evaluation) -> pd.DataFrame:
    columns: dict[str, pd.Series] = {}
    for name in ("recall", "specificity"):
        val, test = (
            pd.Series({v: getattr(getattr(evaluation.variants[v], split), name) for v in VARIANTS})
            for split in EVALUATED
        )
        columns |= {f"{name}: val": val, f"{name}: test": test}
        columns[f"{name}: change"] = (test - val).map(signed)
    return pd.DataFrame(columns).rename_axis("variant")


def _domain_auc(aucs: dict[str, dict[str, float]]) -> pd.DataFrame:
    return pd.DataFrame(
        {"split": split, **dict.fromkeys(LABELS, "too few patients"), **aucs[split]}
        for split in EVALUATED
    )


def _atypical(groups: pd.DataFrame) -> pd.DataFrame:
    """Empty where every class has too few patients."""
    rows = groups[(groups["split"] == "test") & (groups["kind"] == "typicality")]
    names = ["label", "group", "images"]
    table = rows.pivot_table("accuracy", names, "variant").reset_index()
    return table[[*names, *VARIANTS]].rename(columns={"label": "class"}) if len(rows) else rows


def _atypical_radiographs(inputs: ReportInputs) -> list[list[Figure]]:
    ordered = inputs.unlikeness.sort_values(["unlikeness", "path"], ascending=False)
    return [
        [
            _radiograph(inputs, row.path, f"{label}, domain score {row.unlikeness:.3f}")
            for row in ordered[ordered["label"] == label].head(N_ERRORS).itertuples()
        ]
        for label in LABELS
    ]


def _single_feature_auc(inputs: ReportInputs) -> pd.DataFrame:
    table = pd.DataFrame(inputs.shift.single_feature_auc).T[list(SPLITS)]
    return table.set_axis(table.index.str.replace("_", " ")).rename_axis("feature")


def _redrawn(inputs: ReportInputs) -> pd.DataFrame:
    """The recorded experiment whose test is sampled like validation; empty if there is none."""
    known = inputs.experiments
    is_same = (known["changed"] == "split.test=redrawn") & (
        known["seed"] == inputs.settings["seed"]
    )
    rows = known[is_same & (inputs.settings["data.source"] == "kaggle")]
    metrics = ["recall", "precision", "accuracy", "specificity", "roc_auc"]
    found = {name: rows[name].map(code) for name in ("commit", "changed")}
    found |= {"variant": rows["variant"]} | {name: rows[f"test_{name}"] for name in metrics}
    return pd.DataFrame(found).rename(columns=TITLES)


def _counts(images: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "split": name,
            **{label: int((rows["label"] == label).sum()) for label in LABELS},
            "images": len(rows),
            "prevalence": (rows["label"] == "PNEUMONIA").mean(),
            "patients": rows["patient"].nunique(),
        }
        for name, rows in images.groupby("split", sort=False)
    )
