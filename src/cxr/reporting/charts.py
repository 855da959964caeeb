"""Charts as SVG text. Titles and alternative texts are in the templates that show them."""

import io
import itertools
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeAlias

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.calibration import CalibrationDisplay
from sklearn.metrics import ConfusionMatrixDisplay, PrecisionRecallDisplay, RocCurveDisplay

from cxr.common.names import EVALUATED, LABELS, REGISTRY, SPLITS, VARIANTS
from cxr.evaluation import metrics
from cxr.evaluation.results import Evaluation, Interval

P = ParamSpec("P")
Painter: TypeAlias = Callable[Concatenate[Figure, P], None]

# Okabe and Ito (2008): distinct for color-blind readers too.
COLORS = {name: variant.color for name, variant in REGISTRY.items()}
CLASS_COLORS = dict(zip(LABELS, ("#56B4E9", "#CC79A7"), strict=True))
STYLES = {"val": "--", "test": "-"}
OFFSET = 0.1  # between the dots of a row, whose distance is 1
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.fonttype": "path",  # independent of installed fonts
    "svg.hashsalt": "cxr",  # equal charts have equal bytes
}


def chart(height: float = 3.4, width: float = 4.4) -> Callable[[Painter[P]], Callable[P, str]]:
    """Decorate a function that draws on a figure (inches): the result returns it as SVG text.

    The default width is readable on a phone.
    """

    def decorate(paint: Painter[P]) -> Callable[P, str]:
        @wraps(paint)
        def render(*args: P.args, **kwargs: P.kwargs) -> str:
            with matplotlib.rc_context(STYLE):
                figure = Figure(figsize=(width, height), layout="constrained")
                paint(figure, *args, **kwargs)
                file = io.StringIO()
                figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
            text = file.getvalue()
            return text[text.index("<svg") :]

        return render

    return decorate


@chart()
def counts(figure: Figure, images: pd.DataFrame) -> None:
    """Bars: images by split and class. Columns split, label."""
    axes = figure.add_subplot()
    table = pd.crosstab(images["split"], images["label"]).reindex(SPLITS, fill_value=0)
    for offset, label in zip((-0.2, 0.2), LABELS, strict=True):
        bars = axes.bar(
            np.arange(len(SPLITS)) + offset,
            table[label],
            0.38,
            color=CLASS_COLORS[label],
            label=label,
        )
        axes.bar_label(bars, fontsize=8)
    axes.set_xticks(range(len(SPLITS)), SPLITS)
    axes.set_ylabel("images")
    axes.legend()


@chart(4.4)
def distributions(figure: Figure, images: pd.DataFrame, column: str, xlabel: str) -> None:
    """Histograms of both classes, one panel per split, as fractions of the class."""
    panels = figure.subplots(len(SPLITS), 1, sharex=True)
    edges = bin_edges(images[column], 40)
    for axes, split in zip(panels, SPLITS, strict=True):
        for label in LABELS:
            rows = images[(images["split"] == split) & (images["label"] == label)]
            color = CLASS_COLORS[label]
            fractions = binned(rows[column], edges)
            axes.stairs(fractions, edges, linewidth=1.5, color=color, label=label)
        axes.set_title(split, loc="left", fontsize=9)
        axes.set_yticks([])
    panels[0].legend()
    panels[-1].set_xlabel(xlabel)
    figure.supylabel("fraction of the class", fontsize=9)


@chart(2.8)
def compared(
    figure: Figure, reference: pd.Series, weights: NDArray[np.float64], current: pd.Series
) -> None:
    """Histograms of two sets of images as fractions: the weighted reference filled, the other as a
    line.
    """
    axes = figure.add_subplot()
    edges = bin_edges(pd.concat([reference, current]), 30)
    fractions = binned(reference, edges, weights)
    axes.stairs(fractions, edges, fill=True, color="#56B4E9", label="reference")
    axes.stairs(binned(current, edges), edges, linewidth=1.8, color="#D55E00", label="here")
    axes.set_ylabel("fraction of the images")
    figure.legend(loc="outside upper right", ncols=2)


def bin_edges(values: pd.Series, bins: int) -> NDArray[np.float64]:
    """Edges (bins + 1,) of bins of equal width that span 99.8 % of the values."""
    low, high = values.quantile([0.001, 0.999])
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, bins + 1)


def binned(
    values: pd.Series, edges: NDArray[np.float64], weights: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Fraction (bins,) of the values in each bin; the first and last bin include values beyond the
    edges.
    """
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges, weights=weights)
    return counts / max(counts.sum(), 1e-9)


@chart()
def metric_intervals(
    figure: Figure,
    metrics: dict[str, dict[str, Interval]],
    xlabel: str = "value on test with 95 % interval",
) -> None:
    """Points with 95 % intervals: {metric: {variant: {value, low, high}}}; without error bar where
    the interval is undefined.
    """
    axes = figure.add_subplot()
    for place, variant in enumerate(VARIANTS):
        found = pd.DataFrame({name: dict(metrics[name][variant]) for name in metrics}).T
        axes.errorbar(
            found["value"],
            np.arange(len(metrics)) + 0.15 * (place - 2),
            # A value may lie outside its bootstrap quantiles.
            xerr=[
                (found["value"] - found["low"]).clip(lower=0),
                (found["high"] - found["value"]).clip(lower=0),
            ],
            fmt="o",
            markersize=4,
            capsize=2,
            color=COLORS[variant],
            label=variant,
        )
    axes.set_yticks(range(len(metrics)), list(metrics))
    axes.invert_yaxis()
    axes.set_xlabel(xlabel)
    figure.legend(loc="outside upper center", ncols=3)


@chart(4.4)
def roc(figure: Figure, predictions: pd.DataFrame, splits: Sequence[str] = EVALUATED) -> None:
    """ROC curves of all variants on some splits."""
    axes = _curves(figure, predictions, splits, RocCurveDisplay)
    axes.set(xlabel="false positive rate (1 - specificity)", ylabel="recall")


@chart(4.4)
def precision_recall(
    figure: Figure, predictions: pd.DataFrame, splits: Sequence[str] = EVALUATED
) -> None:
    """Precision-recall curves of all variants on some splits."""
    axes = _curves(figure, predictions, splits, PrecisionRecallDisplay)
    axes.set(xlabel="recall", ylabel="precision")


def _curves(figure: Figure, predictions: pd.DataFrame, splits: Sequence[str], display: Any) -> Axes:
    axes = figure.add_subplot()
    for split, variant in itertools.product(splits, VARIANTS):
        display.from_predictions(
            *metrics.columns(predictions, split, variant),
            name=_legend_entry(variant, split, splits),
            ax=axes,
            curve_kwargs={"linestyle": STYLES[split], "color": COLORS[variant], "linewidth": 1.4},
        )
    return axes


def _legend_entry(name: str, split: str, splits: Sequence[str]) -> str:
    """Legend entry, without the split if there is only one."""
    return name if len(splits) == 1 else f"{name}, {split}"


@chart(4.8)
def training(figure: Figure, histories: dict[str, pd.DataFrame], column: str, ylabel: str) -> None:
    """A column of the training histories, one panel per variant, train and validation."""
    panels = figure.subplots(len(histories), 1)
    for axes, (variant, table) in zip(panels, histories.items(), strict=True):
        for name, style in ((f"val_{column}", "--"), (column, "-")):
            label = "validation" if name.startswith("val_") else "train"
            axes.plot(
                table["epoch"],
                table[name],
                style,
                marker=".",
                color=COLORS[variant],
                label=label,
            )
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_title(variant, loc="left", fontsize=9)
    panels[0].legend(ncols=2)
    panels[-1].set_xlabel("epoch")
    figure.supylabel(ylabel, fontsize=9)


@chart(7.4)
def confusions(figure: Figure, table: pd.DataFrame) -> None:
    """Confusion matrices. Columns variant, threshold (name), actual, predicted, images."""
    names = list(table["threshold"].unique())
    panels = figure.subplots(len(VARIANTS), len(names), sharex=True, sharey=True)
    for (variant, name), cells in table.groupby(["variant", "threshold"], sort=False):
        axes = panels[VARIANTS.index(str(variant))][names.index(name)]
        grid = cells.pivot(index="actual", columns="predicted", values="images")
        display = ConfusionMatrixDisplay(grid.to_numpy(), display_labels=grid.index.str.lower())
        display.plot(ax=axes, cmap="Blues", colorbar=False, xticks_rotation=25)
        axes.set(title=f"{variant}\n{name}", xlabel="", ylabel="")
        axes.title.set_fontsize(9)
        axes.tick_params(labelsize=8)
        axes.label_outer()
        axes.grid(visible=False)
    figure.supxlabel("predicted", fontsize=9)
    figure.supylabel("actual", fontsize=9)


@chart(4.3)
def calibration(figure: Figure, predictions: pd.DataFrame) -> None:
    """Fraction of positives against mean probability, per bin of width 0.1, on test."""
    axes = figure.add_subplot()
    for variant in VARIANTS:
        y_true, y_prob = metrics.columns(predictions, "test", variant)
        curve = metrics.calibration_curve(y_true, y_prob)
        display = CalibrationDisplay(curve["fraction_positive"], curve["mean_probability"], y_prob)
        style = {"marker": "o", "markersize": 4, "color": COLORS[variant]}
        display.plot(ax=axes, name=variant, **style)
    axes.set(xlabel="mean predicted probability of the bin", ylabel="fraction of positives")
    axes.legend().remove()  # scikit-learn's, which would be over the curves
    figure.legend(loc="outside upper center", ncols=3)


@chart(6.2)
def thresholds(
    figure: Figure,
    predictions: pd.DataFrame,
    operating: dict[str, float],
    splits: Sequence[str] = EVALUATED,
) -> None:
    """Recall and precision against the threshold, one panel per variant; the operating point."""
    panels = figure.subplots(len(VARIANTS), 1, sharex=True)
    for axes, variant in zip(panels, VARIANTS, strict=True):
        for split in splits:
            table = metrics.threshold_curve(*metrics.columns(predictions, split, variant))
            for metric, color in (("recall", "#0072B2"), ("precision", "#D55E00")):
                axes.plot(
                    table["threshold"],
                    table[metric],
                    STYLES[split],
                    color=color,
                    linewidth=1.3,
                    label=_legend_entry(metric, split, splits),
                )
        axes.axvline(operating[variant], color="0.3", linewidth=1, linestyle=":")
        axes.set_title(f"{variant} (dotted: operating point)", loc="left", fontsize=9)
        axes.set_ylim(-0.02, 1.02)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    panels[-1].set_xlabel("threshold")


@chart(4.4)
def stress(figure: Figure, evaluation: Evaluation) -> None:
    """ROC AUC of each variant on validation, each condition of the stress-test set, and test."""
    columns = {}
    for variant in VARIANTS:
        found = evaluation.variants[variant]
        of_stress = {name.replace("_", " "): of.roc_auc for name, of in found.stress.items()}
        columns[variant] = {
            "validation": found.val.roc_auc,
            **of_stress,
            "test": found.test.roc_auc,
        }
    _dots(figure, pd.DataFrame(columns), COLORS, "ROC AUC")


@chart()
def groups(figure: Figure, accuracy: pd.DataFrame) -> None:
    """Accuracy of each variant on test by subgroup, as `groups.reported_groups` gives it."""
    rows = [f"{name}\n({n} images)" for name, n in accuracy["images"].items()]
    table = accuracy[list(VARIANTS)].set_axis(rows)
    _dots(figure, table, COLORS, "accuracy at the operating point")


@chart()
def single_feature_auc(figure: Figure, table: pd.DataFrame) -> None:
    """ROC AUC of single metadata features (rows) for the label by split (columns)."""
    colors = dict(zip(SPLITS, ("0.2", "#56B4E9", "#D55E00"), strict=True))
    axes = _dots(figure, table, colors, "ROC AUC of the single feature for the label")
    axes.axvline(0.5, color="0.4", linewidth=1, linestyle=":")


def _dots(figure: Figure, table: pd.DataFrame, colors: dict[str, str], xlabel: str) -> Axes:
    """A row of dots for each row of a table, a color for each column; columns are offset a little,
    so that equal values do not hide each other.
    """
    axes = figure.add_subplot()
    y = np.arange(len(table))
    axes.hlines(y, table.min(axis=1), table.max(axis=1), color="0.85", zorder=1)
    offsets = OFFSET * (np.arange(len(table.columns)) - (len(table.columns) - 1) / 2)
    for column, offset in zip(table, offsets, strict=True):
        color = colors[str(column)]
        axes.scatter(table[column], y + offset, 24, color=color, label=column, zorder=2)
    axes.set_yticks(y, list(table.index))
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.set_xlabel(xlabel)
    figure.legend(loc="outside upper center", ncols=min(3, len(table.columns)))
    return axes
