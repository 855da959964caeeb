"""(y_true, y_prob) -> metrics, thresholds and curves; NumPy and scikit-learn only.

Everywhere: y_true int (N,), 1 is PNEUMONIA; y_prob float (N,) in [0, 1]; an image is called
PNEUMONIA where its probability is at least the threshold.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn import metrics

Labels = NDArray[np.int64]
Probabilities = NDArray[np.float64]


def at_threshold(y_true: Labels, y_prob: Probabilities, threshold: float) -> dict[str, float]:
    """Counts and rates at one threshold; a rate without any case is 0.

    Returns:
        n, accuracy, precision, recall, specificity, f1 (all 0 to 1), tn, fp, fn, tp.
    """
    _check(y_true, y_prob)
    y_pred = (y_prob >= threshold).astype(np.int64)
    tn, fp, fn, tp = (int(n) for n in metrics.confusion_matrix(y_true, y_pred, labels=[0, 1]).flat)
    return {
        "n": len(y_true),
        "accuracy": float(metrics.accuracy_score(y_true, y_pred)),
        "precision": float(metrics.precision_score(y_true, y_pred, zero_division=0)),
        "recall": float(metrics.recall_score(y_true, y_pred, zero_division=0)),
        "specificity": float(
            metrics.recall_score(y_true, y_pred, pos_label=0, zero_division=0)  # of NORMAL
        ),
        "f1": float(metrics.f1_score(y_true, y_pred, zero_division=0)),
        "tn": tn,
        "fp": fp,
        "fn": fn,
        "tp": tp,
    }


def ranking(y_true: Labels, y_prob: Probabilities) -> dict[str, float]:
    """Threshold-free metrics: roc_auc and average_precision (0 to 1)."""
    _check(y_true, y_prob)
    return {
        "roc_auc": float(metrics.roc_auc_score(y_true, y_prob)),
        "average_precision": float(metrics.average_precision_score(y_true, y_prob)),
    }


def operating_threshold(y_true: Labels, y_prob: Probabilities, min_recall: float) -> float:
    """Threshold of the highest precision among those whose recall is at least `min_recall`.

    Of several with that precision, the one with the highest recall. Every probability that occurs
    is a candidate; the lowest has recall 1, so there always is one.
    """
    _check(y_true, y_prob)
    precision, recall, thresholds = metrics.precision_recall_curve(y_true, y_prob)
    candidates = pd.DataFrame(
        {"precision": precision[:-1], "recall": recall[:-1], "threshold": thresholds}
    )
    enough = candidates[candidates["recall"] >= min_recall]
    best = enough.sort_values(["precision", "recall"], kind="stable").iloc[-1]
    return float(best["threshold"])


def roc_curve(y_true: Labels, y_prob: Probabilities) -> pd.DataFrame:
    """ROC curve: columns fpr, tpr, from (0, 0) to (1, 1)."""
    fpr, tpr, _ = metrics.roc_curve(y_true, y_prob)
    return pd.DataFrame({"fpr": fpr, "tpr": tpr})


def precision_recall_curve(y_true: Labels, y_prob: Probabilities) -> pd.DataFrame:
    """Precision-recall curve: columns recall, precision, by rising recall."""
    precision, recall, _ = metrics.precision_recall_curve(y_true, y_prob)
    return pd.DataFrame({"recall": recall[::-1], "precision": precision[::-1]})


def confusion(y_true: Labels, y_prob: Probabilities, threshold: float) -> list[dict[str, Any]]:
    """The four counts as rows: actual, predicted, images."""
    counts = at_threshold(y_true, y_prob, threshold)
    cells = [
        ("NORMAL", "NORMAL", "tn"),
        ("NORMAL", "PNEUMONIA", "fp"),
        ("PNEUMONIA", "NORMAL", "fn"),
        ("PNEUMONIA", "PNEUMONIA", "tp"),
    ]
    return [{"actual": a, "predicted": p, "images": counts[count]} for a, p, count in cells]


def _check(y_true: Labels, y_prob: Probabilities) -> None:
    if y_true.shape != y_prob.shape or y_true.ndim != 1 or not len(y_true):
        raise ValueError(f"labels {y_true.shape} and probabilities {y_prob.shape} do not fit")
    if not np.isin(y_true, (0, 1)).all():
        raise ValueError("labels must be 0 or 1")
    if not ((y_prob >= 0) & (y_prob <= 1)).all():  # also refuses NaN
        raise ValueError("probabilities must be between 0 and 1")
