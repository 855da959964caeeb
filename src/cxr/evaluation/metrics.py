"""Metrics, thresholds and curves of labels and probabilities.

Everywhere: y_true int (N,), 1 is PNEUMONIA; y_prob float (N,) in [0, 1]; the prediction is
PNEUMONIA if the probability is at least the threshold.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn import metrics

from cxr.common.names import VARIANTS
from cxr.evaluation.results import Evaluation, OperatingRates, SplitMetrics

Labels = NDArray[np.int64]
Probabilities = NDArray[np.float64]
Number = Any  # a number or an array of numbers
HALF = 0.5  # default threshold
BINS = 10  # of the calibration curve
POINTS = {"at_half": "at 0.5", "operating_point": "operating point"}  # titles
# Short, as DVC shows each as a column.
SHORT_NAMES = {"recall": "rec", "precision": "pre", "accuracy": "acc"}
# Actual and predicted class of each count.
CELLS = {
    "tn": ("NORMAL", "NORMAL"),
    "fp": ("NORMAL", "PNEUMONIA"),
    "fn": ("PNEUMONIA", "NORMAL"),
    "tp": ("PNEUMONIA", "PNEUMONIA"),
}


def columns(
    predictions: pd.DataFrame, split: str | tuple[str, ...], variant: str
) -> tuple[Labels, Probabilities]:
    """Labels and probabilities of one variant, on one split or the union of several."""
    rows = predictions[predictions["split"].isin([split] if isinstance(split, str) else split)]
    return labels_and_probabilities(rows, variant)


def labels_and_probabilities(images: pd.DataFrame, variant: str) -> tuple[Labels, Probabilities]:
    """Labels and probabilities of one variant, of all rows."""
    is_positive = images["label"] == "PNEUMONIA"
    return is_positive.to_numpy(np.int64), images[variant].to_numpy(np.float64)


def at_threshold(y_true: Labels, y_prob: Probabilities, threshold: float) -> dict[str, float]:
    """Counts and rates at one threshold.

    Returns:
        n, the rates (0 to 1) of `rates`, tn, fp, fn, tp.

    Raises:
        ValueError: a probability is NaN, which would count as a negative prediction.
    """
    if np.isnan(y_prob).any():
        raise ValueError("y_prob contains NaN")
    y_pred = (y_prob >= threshold).astype(np.int64)
    tn, fp, fn, tp = (int(n) for n in metrics.confusion_matrix(y_true, y_pred, labels=[0, 1]).flat)
    fractions = {name: float(value) for name, value in rates(tn, fp, fn, tp).items()}
    return {"n": len(y_true), **fractions, "tn": tn, "fp": fp, "fn": fn, "tp": tp}


def rates(tn: Number, fp: Number, fn: Number, tp: Number, empty: Number = 0.0) -> dict[str, Number]:
    """Rates (0 to 1) from counts, scalars or arrays of the same shape; `empty` for 0 / 0.

    Returns:
        accuracy, precision, recall, specificity, f1.
    """
    return {
        "accuracy": _ratio(tp + tn, tp + tn + fp + fn, empty),
        "precision": _ratio(tp, tp + fp, empty),
        "recall": _ratio(tp, tp + fn, empty),
        "specificity": _ratio(tn, tn + fp, empty),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn, empty),
    }


def predictive_values(
    recall: Number, specificity: Number, prevalence: float, empty: Number = 0.0
) -> dict[str, Number]:
    """Positive and negative predictive value (ppv, npv) at a prevalence.

    By Bayes' rule, as the prevalence in a data set is seldom that in a clinic. They are `empty` for
    0 / 0, or where recall or specificity is NaN.
    """
    positive, negative = prevalence, 1 - prevalence
    return {
        "ppv": _ratio(recall * positive, recall * positive + (1 - specificity) * negative, empty),
        "npv": _ratio(
            specificity * negative, specificity * negative + (1 - recall) * positive, empty
        ),
    }


def _ratio(part: Number, whole: Number, empty: Number) -> Number:
    without = np.full(np.shape(whole), empty, np.float64)
    return np.divide(part, whole, out=without, where=np.asarray(whole) > 0)


def ranking(y_true: Labels, y_prob: Probabilities) -> dict[str, float]:
    """Threshold-free metrics: roc_auc and average_precision (0 to 1)."""
    return {
        "roc_auc": float(metrics.roc_auc_score(y_true, y_prob)),
        "average_precision": float(metrics.average_precision_score(y_true, y_prob)),
    }


def calibration(y_true: Labels, y_prob: Probabilities) -> dict[str, float]:
    """Calibration metrics, 0 (best) to 1.

    brier is the mean squared error (Brier 1950). ece is the expected calibration error: the mean
    over images of |mean probability - fraction of positives| in the image's bin, with 10 bins of
    equal width (Naeini 2015).
    """
    curve = calibration_curve(y_true, y_prob)
    gaps = (curve["mean_probability"] - curve["fraction_positive"]).abs()
    return {
        "brier": float(metrics.brier_score_loss(y_true, y_prob)),
        "ece": float(np.average(gaps, weights=curve["images"])),
    }


def calibration_curve(y_true: Labels, y_prob: Probabilities) -> pd.DataFrame:
    """One row per non-empty bin: columns mean_probability, fraction_positive, images."""
    bins = np.minimum((y_prob * BINS).astype(np.int64), BINS - 1)  # of equal width
    return (
        pd.DataFrame({"probability": y_prob, "positive": y_true})
        .groupby(bins)
        .agg(
            mean_probability=("probability", "mean"),
            fraction_positive=("positive", "mean"),
            images=("positive", "size"),
        )
        .reset_index(drop=True)
    )


def operating_threshold(y_true: Labels, y_prob: Probabilities, min_recall: float) -> float:
    """Threshold with the highest precision among those with recall of at least `min_recall`.

    Ties are broken by recall. Candidates are the distinct probabilities; the lowest one has recall
    1, so at least one qualifies.
    """
    precision, recall, thresholds = metrics.precision_recall_curve(y_true, y_prob)
    candidates = pd.DataFrame(
        {"precision": precision[:-1], "recall": recall[:-1], "threshold": thresholds}
    )
    enough = candidates[candidates["recall"] >= min_recall]
    best = enough.sort_values(["precision", "recall"], kind="stable").iloc[-1]
    return float(best["threshold"])


def best_index(precision: Number, recall: Number, roc_auc: Number) -> NDArray[np.int64]:
    """Variant selected by the rule: highest precision; ties by recall, then ROC AUC.

    Args:
        precision, recall: of each variant at its operating point on the tuning set, (V,) or (V, B).
        roc_auc: of each variant on the tuning set, of the same shape.

    Returns:
        Index of the variant, the first of those equal in all three; shape () or (B,).
    """
    order = np.lexsort([np.flip(key, axis=0) for key in (roc_auc, recall, precision)], axis=0)
    return np.asarray(len(order) - 1 - order[-1])


def roc_curve(y_true: Labels, y_prob: Probabilities) -> pd.DataFrame:
    """ROC curve: columns fpr, tpr, from (0, 0) to (1, 1)."""
    fpr, tpr, _ = metrics.roc_curve(y_true, y_prob)
    return pd.DataFrame({"fpr": fpr, "tpr": tpr})


def precision_recall_curve(y_true: Labels, y_prob: Probabilities) -> pd.DataFrame:
    """Precision-recall curve: columns recall, precision, in ascending order of recall."""
    precision, recall, _ = metrics.precision_recall_curve(y_true, y_prob)
    return pd.DataFrame({"recall": recall[::-1], "precision": precision[::-1]})


def threshold_curve(y_true: Labels, y_prob: Probabilities) -> pd.DataFrame:
    """Columns threshold, recall, precision; one row for each distinct probability."""
    precision, recall, thresholds = metrics.precision_recall_curve(y_true, y_prob)
    return pd.DataFrame(
        {"threshold": thresholds, "recall": recall[:-1], "precision": precision[:-1]}
    )


def classification_metrics(y_true: Labels, y_prob: Probabilities) -> SplitMetrics:
    """Counts and rates at 0.5, and the threshold-free metrics: ranking and calibration.

    Args:
        y_true: int (N,), 1 is PNEUMONIA; both classes.
        y_prob: float (N,), 0 to 1.
    """
    return SplitMetrics.model_validate(
        {
            **at_threshold(y_true, y_prob, HALF),
            **ranking(y_true, y_prob),
            **calibration(y_true, y_prob),
        }
    )


def operating_rates(
    y_true: Labels, y_prob: Probabilities, threshold: float, prevalence: float
) -> OperatingRates:
    """Rates at a threshold, and predictive values at a prevalence, 0 to 1."""
    found = at_threshold(y_true, y_prob, threshold)
    rates = {name: found[name] for name in ("accuracy", "precision", "recall", "specificity")}
    values = predictive_values(found["recall"], found["specificity"], prevalence)
    return OperatingRates(**rates, **{name: float(value) for name, value in values.items()})


def summary(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """The numbers that DVC compares, for metrics/summary.json.

    DVC shows them as columns such as `b.rec`: the initial of the variant, then `rec`, `pre` and
    `acc` (recall, precision and accuracy on test at the operating point), `auc` (ROC AUC on test)
    and `tun` (ROC AUC on the tuning set, to choose by).

    Returns:
        Numbers from 0 to 1 with 3 decimals: enough to distinguish one image of 624, and a fourth
        would make DVC's tables too wide.
    """
    result = {}
    for variant, found in evaluation.variants.items():
        rates = found.operating_point.test.select(SHORT_NAMES)
        numbers = {short: rates[name] for name, short in SHORT_NAMES.items()}
        numbers |= {"auc": found.test.roc_auc, "tun": found.tuning.roc_auc}
        result[variant[0]] = {name: round(value, 3) for name, value in numbers.items()}
    return result


def curves(images: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Curves of every variant over some images: tables `roc` and `precision_recall`.

    Args:
        images: columns label, and for each variant the probability of PNEUMONIA.
    """
    makers = {"roc": roc_curve, "precision_recall": precision_recall_curve}
    return {
        name: pd.concat(
            [maker(*labels_and_probabilities(images, v)).assign(variant=v) for v in VARIANTS]
        ).round(5)
        for name, maker in makers.items()
    }


def confusions(images: pd.DataFrame, thresholds: Mapping[str, float]) -> pd.DataFrame:
    """Confusion matrices: columns variant, threshold (name), actual, predicted, images.

    Args:
        images: as `curves` takes them.
        thresholds: of each variant, at its operating point.
    """
    rows = []
    for variant in VARIANTS:
        pair = labels_and_probabilities(images, variant)
        for name, threshold in zip(POINTS.values(), (HALF, thresholds[variant]), strict=True):
            counts = at_threshold(*pair, threshold)
            rows += [(variant, name, *classes, counts[cell]) for cell, classes in CELLS.items()]
    return pd.DataFrame(rows, columns=["variant", "threshold", "actual", "predicted", "images"])
