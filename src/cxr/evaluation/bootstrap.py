"""95 % intervals by bootstrap over patients, and paired differences between columns of predictions.

Patients are resampled with replacement, each with all their images (cluster bootstrap, Field and
Welsh 2007), because images of one patient are correlated. All variants share the resamples, so a
difference between two of them does not depend on which patients were drawn. The intervals do not
include training variance: another seed gives another model.

The expected calibration error has no interval: it is never below 0, and resampling with replacement
increases it, so its bootstrap distribution is biased upwards.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr.evaluation import metrics
from cxr.evaluation.results import Difference, Interval, SplitIntervals, VariantIntervals

LEVEL = 0.95
BLOCK = 2**18  # weights of images held at a time: 2 MiB, which fit into the processor's cache
BOOTSTRAP_SEED = 1  # the same resamples in every run: two runs differ by their models alone
DECIMALS = 3  # of differences as they are printed and judged
COMPARED = ("recall", "precision", "accuracy", "roc_auc")
AT_OPERATING_POINT = "operating_point"

# Keys of a metric in the result -> its value, then those of the resamples, (1 + B,).
Measures = dict[tuple[str, ...], NDArray[np.float64]]


def bootstrap_intervals(
    predictions: pd.DataFrame,
    thresholds: Mapping[str, float],
    prevalence: float,
    resamples: int,
    min_recall: float | None = None,
) -> SplitIntervals:
    """Every metric of every column with its interval, and the differences between columns.

    Args:
        predictions: the images of one split, with the columns patient, label, and for each key
            of `thresholds` the probability of PNEUMONIA (0 to 1).
        thresholds: of each column, at its operating point.
        prevalence: for the predictive values, 0 to 1.
        resamples: number of bootstrap resamples.
        min_recall: given where the thresholds were chosen on these images. Each resample then
            chooses its own by the rule of `metrics.operating_threshold`, so that the intervals
            include the uncertainty of the choice, and `selected` counts the choices of
            `metrics.best_index`.
    """
    patient, names = pd.factorize(predictions["patient"])
    y_true = (predictions["label"] == "PNEUMONIA").to_numpy(np.int64)
    blocks: dict[str, list[Measures]] = {column: [] for column in thresholds}
    for number, weights in enumerate(_resamples(patient, len(names), resamples)):
        # A rate without any case is NaN in a resample, which excludes it from the interval; of the
        # images themselves it is 0, as in `metrics`.
        empty = np.full(len(weights), np.nan)
        empty[: number == 0] = 0
        for column, threshold in thresholds.items():
            y_prob = predictions[column].to_numpy(np.float64)
            block = _measures(y_true, y_prob, weights, threshold, prevalence, min_recall, empty)
            blocks[column].append(block)
    measures = {column: _joined(of_column) for column, of_column in blocks.items()}
    return SplitIntervals(
        columns={
            column: VariantIntervals.model_validate(_nested(of_column))
            for column, of_column in measures.items()
        },
        differences={
            f"{b} - {a}": Difference.model_validate(_nested(_difference(measures[b], measures[a])))
            for a, b in itertools.combinations(thresholds, 2)
        },
        positive_patients=len(np.unique(patient[y_true == 1])),
        selected={} if min_recall is None else _selected(measures),
    )


def is_significant(difference: Interval) -> bool:
    """Whether the interval of a difference, as it is printed, excludes 0."""
    if difference.low is None or difference.high is None:
        return False
    return round(difference.low, DECIMALS) > 0 or round(difference.high, DECIMALS) < 0


def _resamples(
    patient: NDArray[np.int64], n_patients: int, resamples: int
) -> Iterator[NDArray[np.int64]]:
    """Weight of each image in blocks of resamples, int (b, N); the first row of the first block has
    weight 1 everywhere.

    Weights of resampling with replacement are multinomial; `scipy.stats.bootstrap` has no clusters
    and takes one statistic at a time.
    """
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    drawn = rng.multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=resamples)
    counts = np.vstack([np.ones(n_patients, np.int64), drawn])
    step = max(1, BLOCK // len(patient))
    for start in range(0, len(counts), step):
        yield counts[start : start + step, patient]


def _joined(blocks: list[Measures]) -> Measures:
    """Blocks of resamples as one."""
    return {keys: np.concatenate([block[keys] for block in blocks]) for keys in blocks[0]}


def _measures(
    y_true: metrics.Labels,
    y_prob: metrics.Probabilities,
    weights: NDArray[np.int64],
    threshold: float,
    prevalence: float,
    min_recall: float | None,
    empty: NDArray[np.float64],
) -> Measures:
    """Metrics for each row of weights (b, N); `empty` (b,) is a rate's value without any case."""
    brier = weights @ (y_prob - y_true) ** 2 / weights.sum(axis=1)
    found = {**_ranking(y_true, y_prob, weights), ("brier",): brier}
    at_operating_point = (
        _cells(y_true, y_prob, weights, threshold)
        if min_recall is None
        else _cells_of_choice(y_true, y_prob, weights, min_recall)
    )
    counts = {
        "at_half": _cells(y_true, y_prob, weights, metrics.HALF),
        AT_OPERATING_POINT: at_operating_point,
    }
    for point, cells in counts.items():
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
    actual_and_predicted = {"tn": (0, 0), "fp": (0, 1), "fn": (1, 0), "tp": (1, 1)}
    return {
        name: weights @ ((y_true == actual) & (y_pred == predicted)).astype(np.int64)
        for name, (actual, predicted) in actual_and_predicted.items()
    }


def _cells_of_choice(
    y_true: metrics.Labels,
    y_prob: metrics.Probabilities,
    weights: NDArray[np.int64],
    min_recall: float,
) -> dict[str, NDArray[np.int64]]:
    """As `_cells`, at the threshold that `metrics.operating_threshold` gives for each resample."""
    tp, fp = _cumulative_positives(y_true, y_prob, weights)
    positive, negative = tp[:, -1], fp[:, -1]
    rates = metrics.rates(tn=negative[:, None] - fp, fp=fp, fn=positive[:, None] - tp, tp=tp)
    precision = np.where(rates["recall"] >= min_recall, rates["precision"], -1)
    # Recall increases along the thresholds: of equal precision, the last has the highest recall.
    last_best = precision.shape[1] - 1 - np.argmax(precision[:, ::-1], axis=1)
    tp, fp = (counts[np.arange(len(counts)), last_best] for counts in (tp, fp))
    return {"tn": negative - fp, "fp": fp, "fn": positive - tp, "tp": tp}


def _cumulative_positives(
    y_true: metrics.Labels, y_prob: metrics.Probabilities, weights: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """True and false positives of each resample with each distinct probability as threshold, in
    descending order: two arrays (B, number of probabilities).
    """
    order = np.argsort(-y_prob, kind="stable")
    last_of_tie = np.append(np.diff(y_prob[order]) != 0, True)
    tp = np.cumsum(weights[:, order] * y_true[order], axis=1)[:, last_of_tie]
    fp = np.cumsum(weights[:, order] * (1 - y_true[order]), axis=1)[:, last_of_tie]
    return tp, fp


def _ranking(
    y_true: metrics.Labels, y_prob: metrics.Probabilities, weights: NDArray[np.int64]
) -> Measures:
    """ROC AUC and average precision of all resamples at once, 100 times as fast as a loop over
    scikit-learn's; NaN for a resample of a single class.
    """
    tp, fp = _cumulative_positives(y_true, y_prob, weights)
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
        keys: b[keys] - a[keys] for name in COMPARED for keys in b if keys in a and keys[-1] == name
    }


def _selected(measures: dict[str, Measures]) -> dict[str, int]:
    """In how many resamples the rule selects each column, among those with a positive image."""
    names = [(AT_OPERATING_POINT, "precision"), (AT_OPERATING_POINT, "recall"), ("roc_auc",)]
    keys = [np.array([of[name][1:] for of in measures.values()]) for name in names]
    selected = metrics.best_index(*keys)[~np.isnan(keys[1][0])]
    return {column: int((selected == number).sum()) for number, column in enumerate(measures)}


def _nested(measures: Measures) -> dict[str, Any]:
    """Intervals by name; those of rates one level deeper, below their threshold's name."""
    result: dict[str, Any] = {}
    for (*above, name), values in measures.items():
        place = result
        for key in above:
            place = place.setdefault(key, {})
        place[name] = _interval(values)
    return result


def _interval(values: NDArray[np.float64]) -> Interval:
    resampled = values[1:][~np.isnan(values[1:])]
    if not len(resampled):
        return Interval(value=float(values[0]), low=None, high=None)
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value=float(values[0]), low=float(low), high=float(high))
