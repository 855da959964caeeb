"""95 % intervals by bootstrap over patients, and paired differences between columns of predictions.

Patients are drawn with replacement, each with all its images (Field and Welsh 2007, the cluster
bootstrap), because images of one patient are alike. The same draws serve every variant, so that a
difference between two of them is free of the chance which patients were drawn. What the intervals
do not hold is the chance of training: another seed gives another model.

The expected calibration error has no interval: it is never below 0, and drawing with replacement
makes it larger, so that its draws lie around a higher value than the one seen.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr.common.names import VARIANTS
from cxr.evaluation import metrics

LEVEL = 0.95
BLOCK = 2**24  # weights of images held at a time, 128 MiB
BOOTSTRAP_SEED = 1  # the same draws in every run: two runs differ by their models alone
DECIMALS = 3  # of differences as they are printed and judged
COMPARED = ("recall", "precision", "accuracy", "roc_auc")
AT_OPERATING_POINT = "operating_point"

# Where a metric stands in the result -> its value seen and on each draw, (1 + B,).
Measures = dict[tuple[str, ...], NDArray[np.float64]]
Thresholds = dict[str, dict[str, float]]  # column -> name of the threshold -> threshold
Interval = dict[str, Any]  # value, low, high; no low and high (None) where no draw has a case


def thresholds(evaluation: dict[str, Any]) -> Thresholds:
    """Both thresholds of every variant, from the content of metrics/evaluation.json."""
    return {
        variant: {
            "at_half": metrics.HALF,
            AT_OPERATING_POINT: evaluation[variant]["operating_point"]["threshold"],
        }
        for variant in VARIANTS
    }


def bootstrap_intervals(
    predictions: pd.DataFrame,
    points: Thresholds,
    prevalence: float,
    resamples: int,
    min_recall: float | None = None,
) -> dict[str, Any]:
    """Every metric of every column with its interval, and the differences between columns.

    Args:
        predictions: the images of one split, with the columns patient, label, and for each key
            of `points` the probability of PNEUMONIA (0 to 1).
        points: `{column: {name: threshold}}`.
        prevalence: share of ill patients, for the predictive values.
        resamples: number of draws of patients.
        min_recall: given where the thresholds `operating_point` were chosen on these images. Each
            draw then chooses them anew by `scores.operating_threshold`'s rule, so that the
            intervals hold the chance in the choice.

    Returns:
        `columns`: {column: {metric: {value, low, high}}}, where the metrics at a threshold stand
        one level deeper under its name; low and high are None where no draw has a case to count.
        `differences`: the same for {"b - a": ...}, b after a in `points`, with recall, precision,
        accuracy and roc_auc. `ill_patients`: number of patients with PNEUMONIA. With `min_recall`
        also `picks`: {column: draws on which `scores.best` picks it}.
    """
    patient, names = pd.factorize(predictions["patient"])
    y_true = (predictions["label"] == "PNEUMONIA").to_numpy(np.int64)
    blocks: dict[str, list[Measures]] = {column: [] for column in points}
    for number, weights in enumerate(_draws(patient, len(names), resamples)):
        # A rate without any case is NaN on a draw, so that it has no part in the interval; of the
        # images as they are it is 0, as in `scores`.
        empty = np.full(len(weights), np.nan)
        empty[: number == 0] = 0
        for column, chosen in points.items():
            y_prob = predictions[column].to_numpy(np.float64)
            found = _measures(y_true, y_prob, weights, chosen, prevalence, min_recall, empty)
            blocks[column].append(found)
    measures = {column: _joined(of_column) for column, of_column in blocks.items()}
    result = {
        "columns": {column: _nested(of_column) for column, of_column in measures.items()},
        "differences": {
            f"{b} - {a}": _nested(_difference(measures[b], measures[a]))
            for a, b in itertools.combinations(points, 2)
        },
        "ill_patients": len(np.unique(patient[y_true == 1])),
    }
    return result if min_recall is None else {**result, "picks": _picks(measures)}


def is_significant(found: Interval) -> bool:
    """Whether the interval of a difference, as it is printed, leaves out 0."""
    low, high = found["low"], found["high"]
    if low is None or high is None:
        return False
    return round(low, DECIMALS) > 0 or round(high, DECIMALS) < 0


def _draws(
    patient: NDArray[np.int64], patients: int, resamples: int
) -> Iterator[NDArray[np.int64]]:
    """How often each image is drawn, in blocks of draws: int (b, N). Before the first draw stand
    the images as they are.

    Counts of draws with replacement are multinomial; `scipy.stats.bootstrap` has no clusters and
    takes one statistic at a time.
    """
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    drawn = rng.multinomial(patients, np.full(patients, 1 / patients), size=resamples)
    counts = np.vstack([np.ones(patients, np.int64), drawn])
    step = max(1, BLOCK // len(patient))
    for start in range(0, len(counts), step):
        yield counts[start : start + step, patient]


def _joined(blocks: list[Measures]) -> Measures:
    """Of all draws."""
    return {place: np.concatenate([block[place] for block in blocks]) for place in blocks[0]}


def _measures(
    y_true: metrics.Labels,
    y_prob: metrics.Probabilities,
    weights: NDArray[np.int64],
    points: dict[str, float],
    prevalence: float,
    min_recall: float | None,
    empty: NDArray[np.float64],
) -> Measures:
    """Metrics for each row of weights (b, N); `empty` (b,) is a rate's value without any case."""
    brier = weights @ (y_prob - y_true) ** 2 / weights.sum(axis=1)
    found = {**_ranking(y_true, y_prob, weights), ("brier",): brier}
    for point, threshold in points.items():
        if point == AT_OPERATING_POINT and min_recall is not None:
            cells = _cells_of_choice(y_true, y_prob, weights, min_recall)
        else:
            cells = _cells(y_true, y_prob, weights, threshold)
        rates = metrics.rates(**cells, empty=empty)
        values = metrics.predictive_values(rates["recall"], rates["specificity"], prevalence, empty)
        found |= {(point, name): value for name, value in {**rates, **values}.items()}
    return found


def _cells(
    y_true: metrics.Labels,
    y_prob: metrics.Probabilities,
    weights: NDArray[np.int64],
    threshold: float,
) -> dict[str, NDArray[np.int64]]:
    """The counts tn, fp, fn, tp at one threshold, each (B,)."""
    y_pred = y_prob >= threshold
    actual_and_called = {"tn": (0, 0), "fp": (0, 1), "fn": (1, 0), "tp": (1, 1)}
    return {
        name: weights @ ((y_true == actual) & (y_pred == called)).astype(np.int64)
        for name, (actual, called) in actual_and_called.items()
    }


def _cells_of_choice(
    y_true: metrics.Labels,
    y_prob: metrics.Probabilities,
    weights: NDArray[np.int64],
    min_recall: float,
) -> dict[str, NDArray[np.int64]]:
    """As `_cells`, at the threshold that `scores.operating_threshold` gives for each draw."""
    tp, fp = _called_ill(y_true, y_prob, weights)
    ill, well = tp[:, -1], fp[:, -1]
    rates = metrics.rates(tn=well[:, None] - fp, fp=fp, fn=ill[:, None] - tp, tp=tp)
    precision = np.where(rates["recall"] >= min_recall, rates["precision"], -1)
    # Recall rises along the thresholds: of the highest precision the last has the highest recall.
    last_best = precision.shape[1] - 1 - np.argmax(precision[:, ::-1], axis=1)
    tp, fp = (counts[np.arange(len(counts)), last_best] for counts in (tp, fp))
    return {"tn": well - fp, "fp": fp, "fn": ill - tp, "tp": tp}


def _called_ill(
    y_true: metrics.Labels, y_prob: metrics.Probabilities, weights: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """True and false positives of each draw at each probability that occurs, the highest first:
    two times (B, number of probabilities).
    """
    order = np.argsort(-y_prob, kind="stable")
    last_of_tie = np.append(np.diff(y_prob[order]) != 0, True)
    tp = np.cumsum(weights[:, order] * y_true[order], axis=1)[:, last_of_tie]
    fp = np.cumsum(weights[:, order] * (1 - y_true[order]), axis=1)[:, last_of_tie]
    return tp, fp


def _ranking(
    y_true: metrics.Labels, y_prob: metrics.Probabilities, weights: NDArray[np.int64]
) -> Measures:
    """ROC AUC and average precision of all draws at once, 100 times as fast as scikit-learn's one
    by one; NaN for a draw of one class alone.
    """
    tp, fp = _called_ill(y_true, y_prob, weights)
    more_tp, more_fp = (np.diff(counts, axis=1, prepend=0) for counts in (tp, fp))
    precision = metrics.rates(tn=0, fp=fp, fn=0, tp=tp)["precision"]
    with np.errstate(invalid="ignore"):  # 0 / 0 where a class is missing
        return {
            ("roc_auc",): (more_fp * (tp - more_tp / 2)).sum(axis=1) / (tp[:, -1] * fp[:, -1]),
            ("average_precision",): np.where(
                fp[:, -1] > 0, (more_tp * precision).sum(axis=1) / tp[:, -1], np.nan
            ),
        }


def _difference(b: Measures, a: Measures) -> Measures:
    return {
        place: b[place] - a[place]
        for name in COMPARED
        for place in b
        if place in a and place[-1] == name
    }


def _picks(measures: dict[str, Measures]) -> dict[str, int]:
    """On how many draws the rule picks each column; draws without PNEUMONIA have no recall."""
    places = [(AT_OPERATING_POINT, "precision"), (AT_OPERATING_POINT, "recall"), ("roc_auc",)]
    keys = [np.array([of[place][1:] for of in measures.values()]) for place in places]
    picked = metrics.best_index(*keys)[~np.isnan(keys[1][0])]
    return {column: int((picked == number).sum()) for number, column in enumerate(measures)}


def _nested(measures: Measures) -> dict[str, Any]:
    """Metrics at a threshold one level deeper than the others."""
    result: dict[str, Any] = {}
    for (*above, name), values in measures.items():
        place = result
        for key in above:
            place = place.setdefault(key, {})
        place[name] = _interval(values)
    return result


def _interval(values: NDArray[np.float64]) -> Interval:
    drawn = values[1:][~np.isnan(values[1:])]
    if not len(drawn):
        return {"value": float(values[0]), "low": None, "high": None}
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"value": float(values[0]), "low": float(low), "high": float(high)}
