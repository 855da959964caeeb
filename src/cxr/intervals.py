"""95 % intervals by bootstrap over patients, and paired differences between columns of predictions.

Patients are drawn with replacement, each with all its images (Field and Welsh 2007, the cluster
bootstrap), because images of one patient are alike. The same draws serve every variant, so that a
difference between two of them is free of the chance which patients were drawn. What the intervals
do not hold is the chance of training: another seed gives another model.
"""

import itertools
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr import scores
from cxr.variants import VARIANTS

LEVEL = 0.95
DRAW_SEED = 1  # the same draws in every run: two runs differ by their models alone
COMPARED = ("recall", "precision", "accuracy", "roc_auc")

Measures = dict[str, NDArray[np.float64]]  # metric -> its value seen and on each draw, (1 + B,)
Thresholds = dict[str, dict[str, float]]  # column -> name of the threshold -> threshold


def thresholds(evaluation: dict[str, Any]) -> Thresholds:
    """Both thresholds of every variant, from the content of metrics/evaluation.json."""
    return {
        variant: {
            "at_half": scores.HALF,
            "operating_point": evaluation[variant]["operating_point"]["threshold"],
        }
        for variant in VARIANTS
    }


def intervals(
    predictions: pd.DataFrame, points: Thresholds, prevalence: float, resamples: int
) -> dict[str, Any]:
    """Every metric of every column with its interval, and the differences between columns.

    Args:
        predictions: the images of one split, with the columns patient, label, and for each key
            of `points` the probability of PNEUMONIA (0 to 1).
        points: `{column: {name: threshold}}`.
        prevalence: share of ill patients, for the predictive values.
        resamples: number of draws of patients.

    Returns:
        `columns`: {column: {metric: {value, low, high}}}, where the metrics at a threshold stand
        one level deeper under its name; `differences`: the same for {"b - a": ...}, b after a in
        `points`, with recall, precision, accuracy and roc_auc.
    """
    patient, names = pd.factorize(predictions["patient"])
    y_true = (predictions["label"] == "PNEUMONIA").to_numpy(np.int64)
    drawn = _draws(patient, len(names), resamples)
    weights = np.vstack([np.ones_like(patient), drawn])  # first the images as they are
    measures = {
        column: _measures(
            y_true, predictions[column].to_numpy(np.float64), weights, chosen, prevalence
        )
        for column, chosen in points.items()
    }
    return {
        "columns": {column: _nested(found) for column, found in measures.items()},
        "differences": {
            f"{b} - {a}": _nested(_difference(measures[b], measures[a]))
            for a, b in itertools.combinations(points, 2)
        },
    }


def _draws(patient: NDArray[np.int64], patients: int, resamples: int) -> NDArray[np.int64]:
    """How often each image is drawn: int (B, N). Counts of draws with replacement are multinomial;
    `scipy.stats.bootstrap` has no clusters and takes one statistic at a time.
    """
    rng = np.random.default_rng(DRAW_SEED)
    return rng.multinomial(patients, np.full(patients, 1 / patients), size=resamples)[:, patient]


def _measures(
    y_true: scores.Labels,
    y_prob: scores.Probabilities,
    weights: NDArray[np.int64],
    points: dict[str, float],
    prevalence: float,
) -> dict[str, Measures]:
    """Metrics for each row of weights (B, N): those at a threshold under its name, others ""."""
    found = {"": _threshold_free(y_true, y_prob, weights)}
    for name, threshold in points.items():
        y_pred = y_prob >= threshold
        cells = [(y_true == label) & (y_pred == called) for label in (0, 1) for called in (0, 1)]
        rates = scores.rates(*(weights @ cell.astype(np.int64) for cell in cells))
        values = scores.predictive_values(rates["recall"], rates["specificity"], prevalence)
        found[name] = {**rates, **values}
    return found


def _threshold_free(
    y_true: scores.Labels, y_prob: scores.Probabilities, weights: NDArray[np.int64]
) -> Measures:
    images = weights.sum(axis=1)
    bins = scores.probability_bin(y_prob)
    gaps = [np.abs(weights @ ((y_prob - y_true) * (bins == b))) for b in range(scores.BINS)]
    return {
        **_ranking(y_true, y_prob, weights),
        "brier": weights @ (y_prob - y_true) ** 2 / images,
        "ece": np.sum(gaps, axis=0) / images,
    }


def _ranking(
    y_true: scores.Labels, y_prob: scores.Probabilities, weights: NDArray[np.int64]
) -> Measures:
    """ROC AUC and average precision of all draws at once, 100 times as fast as scikit-learn's one
    by one; NaN for a draw of one class alone.
    """
    order = np.argsort(-y_prob, kind="stable")
    last_of_tie = np.append(np.diff(y_prob[order]) != 0, True)
    tp = np.cumsum(weights[:, order] * y_true[order], axis=1)[:, last_of_tie]
    fp = np.cumsum(weights[:, order] * (1 - y_true[order]), axis=1)[:, last_of_tie]
    more_tp, more_fp = (np.diff(counts, axis=1, prepend=0) for counts in (tp, fp))
    precision = scores.rates(tn=0, fp=fp, fn=0, tp=tp)["precision"]
    with np.errstate(invalid="ignore"):  # 0 / 0 where a class is missing
        return {
            "roc_auc": (more_fp * (tp - more_tp / 2)).sum(axis=1) / (tp[:, -1] * fp[:, -1]),
            "average_precision": np.where(
                fp[:, -1] > 0, (more_tp * precision).sum(axis=1) / tp[:, -1], np.nan
            ),
        }


def _difference(b: dict[str, Measures], a: dict[str, Measures]) -> dict[str, Measures]:
    return {
        point: {name: b[point][name] - a[point][name] for name in COMPARED if name in b[point]}
        for point in b
    }


def _nested(measures: dict[str, Measures]) -> dict[str, Any]:
    """Metrics at a threshold one level deeper than the others."""
    result: dict[str, Any] = {}
    for point, metrics_there in measures.items():
        place = result.setdefault(point, {}) if point else result
        for name, values in metrics_there.items():
            place[name] = _interval(values)
    return result


def _interval(values: NDArray[np.float64]) -> dict[str, float]:
    low, high = np.nanquantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"value": float(values[0]), "low": float(low), "high": float(high)}
