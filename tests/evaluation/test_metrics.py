"""Metrics against hand-computed cases, counting, and scikit-learn."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from cxr.evaluation.metrics import (
    at_threshold,
    best_index,
    calibration,
    calibration_curve,
    classification_metrics,
    columns,
    operating_threshold,
    precision_recall_curve,
    predictive_values,
    ranking,
    rates,
    roc_curve,
    threshold_curve,
)

many = settings(max_examples=30)
# Few different values make many ties.
values = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.floats(0, 1))
cases = st.tuples(st.lists(values, min_size=1, max_size=12), st.lists(values, min_size=1)).map(
    lambda pair: arrays([0] * len(pair[0]) + [1] * len(pair[1]), pair[0] + pair[1])
)


def arrays(labels: Any, probabilities: Any) -> tuple[Any, Any]:
    return np.array(labels, np.int64), np.array(probabilities, np.float64)


def from_counts(tn: int, fp: int, fn: int, tp: int) -> tuple[Any, Any]:
    return arrays(
        [0] * (tn + fp) + [1] * (fn + tp), [0.1] * tn + [0.9] * fp + [0.1] * fn + [0.9] * tp
    )


HAND = arrays([0, 0, 1, 1, 1], [0.1, 0.6, 0.4, 0.6, 0.9])


def test_hand_computed_case() -> None:
    assert at_threshold(*HAND, 0.5) == pytest.approx(
        {
            **{"n": 5, "tn": 1, "fp": 1, "fn": 1, "tp": 2},
            **{"accuracy": 3 / 5, "precision": 2 / 3, "recall": 2 / 3},
            **{"specificity": 1 / 2, "f1": 2 / 3},
        }
    )
    # 6 pairs: 4 in the right order, 1 tie, 1 in the wrong order.
    # Recall rises by 1/3 at precision 1/1, by 1/3 at 2/3, by 1/3 at 3/4.
    assert ranking(*HAND) == pytest.approx(
        {"roc_auc": 4.5 / 6, "average_precision": (1 + 2 / 3 + 3 / 4) / 3}
    )


@pytest.mark.parametrize(
    ("threshold", "n_positive"),
    [(0, 3), (0.25, 3), (np.nextafter(0.25, 1), 2), (0.5, 2), (0.75, 1), (np.nextafter(1, 2), 0)],
)
def test_probability_at_the_threshold_is_positive(threshold: float, n_positive: int) -> None:
    found = at_threshold(*arrays([1, 1, 1], [0.25, 0.5, 0.75]), threshold)
    assert found["tp"] == n_positive
    assert found["fn"] == 3 - n_positive


@pytest.mark.parametrize(
    ("counts", "zero"),
    [
        ({"tn": 3, "fp": 0, "fn": 2, "tp": 0}, ["precision", "recall", "f1"]),
        ({"tn": 0, "fp": 3, "fn": 0, "tp": 2}, ["specificity"]),
        ({"tn": 0, "fp": 0, "fn": 0, "tp": 2}, ["specificity"]),
        ({"tn": 2, "fp": 0, "fn": 0, "tp": 0}, ["precision", "recall", "f1"]),
        ({"tn": 0, "fp": 1, "fn": 1, "tp": 0}, ["accuracy", "precision", "recall", "f1"]),
    ],
)
def test_rates_without_a_case_are_zero(counts: dict[str, int], zero: list[str]) -> None:
    found = at_threshold(*from_counts(**counts), 0.5)
    assert {name: found[name] for name in zero} == dict.fromkeys(zero, 0)
    assert {name: found[name] for name in counts} == counts


@many
@given(cases)
def test_rankings_are_those_of_scikit_learn_and_the_curves(case: tuple[Any, Any]) -> None:
    found = ranking(*case)
    assert found["roc_auc"] == pytest.approx(metrics.roc_auc_score(*case))
    assert found["average_precision"] == pytest.approx(metrics.average_precision_score(*case))
    roc = roc_curve(*case)
    assert np.trapezoid(roc["tpr"], roc["fpr"]) == pytest.approx(found["roc_auc"])
    curve = precision_recall_curve(*case)
    steps = curve["recall"].diff().iloc[1:] * curve["precision"].iloc[1:]
    assert steps.sum() == pytest.approx(found["average_precision"])


@many
@given(cases, values)
def test_counts_and_rates_are_those_of_scikit_learn(
    case: tuple[Any, Any], threshold: float
) -> None:
    y_true, y_pred = case[0], case[1] >= threshold
    found = at_threshold(*case, threshold)
    pairs = list(zip(y_true.tolist(), y_pred.tolist(), strict=True))
    cells = {"tn": (0, False), "fp": (0, True), "fn": (1, False), "tp": (1, True)}
    zero: Any = {"zero_division": 0}
    assert found == pytest.approx(
        {
            **{name: pairs.count(cell) for name, cell in cells.items()},
            "n": len(pairs),
            "accuracy": metrics.accuracy_score(y_true, y_pred),
            "precision": metrics.precision_score(y_true, y_pred, **zero),
            "recall": metrics.recall_score(y_true, y_pred, **zero),
            "specificity": metrics.recall_score(y_true, y_pred, pos_label=0, **zero),
            "f1": metrics.f1_score(y_true, y_pred, **zero),
        }
    )
    assert all(type(value) in (int, float) for value in found.values())  # JSON takes no others


def by_hand(y_true: Any, y_prob: Any, min_recall: float) -> tuple[float, float]:
    """Best precision, and recall with it, of all thresholds that reach the recall."""
    found = []
    for threshold in y_prob:
        y_pred = y_prob >= threshold
        hits = int((y_pred & (y_true == 1)).sum())
        found.append((hits / int(y_pred.sum()), hits / int(y_true.sum())))
    return max(pair for pair in found if pair[1] >= min_recall)


@many
@given(cases, st.one_of(st.floats(0.01, 1), st.sampled_from([0.5, 0.75, 1.0])))
def test_operating_threshold_is_the_best_of_all(case: tuple[Any, Any], min_recall: float) -> None:
    threshold = operating_threshold(*case, min_recall)
    assert threshold in case[1]
    found = at_threshold(*case, threshold)
    assert found["recall"] >= min_recall
    assert (found["precision"], found["recall"]) == pytest.approx(by_hand(*case, min_recall))


@pytest.mark.parametrize(
    ("min_recall", "threshold"), [(1.0, 0.4), (0.99, 0.4), (2 / 3, 0.4), (0.6, 0.4), (1 / 3, 0.9)]
)
def test_operating_threshold_of_the_hand_computed_case(min_recall: float, threshold: float) -> None:
    """Precision 1 at 0.9, 2/3 at 0.6, 3/4 at 0.4, 3/5 at 0.1."""
    assert operating_threshold(*HAND, min_recall) == threshold


def test_recall_equal_to_the_minimum_is_enough() -> None:
    """49 of 50 are 0.98; only the last positive, below most of the others, costs precision."""
    case = arrays([1] * 49 + [0] * 50 + [1], [0.9] * 49 + [0.5] * 50 + [0.1])
    assert operating_threshold(*case, 0.98) == 0.9
    assert operating_threshold(*case, 0.981) == 0.1


def test_curves_of_the_hand_computed_case() -> None:
    roc = roc_curve(*HAND)
    points = [(0, 0), (0, 1 / 3), (1 / 2, 2 / 3), (1 / 2, 1), (1, 1)]
    np.testing.assert_allclose(roc.to_numpy(), points)
    curve = precision_recall_curve(*HAND)
    points = [(0, 1), (1 / 3, 1), (2 / 3, 2 / 3), (1, 3 / 4), (1, 3 / 5)]
    np.testing.assert_allclose(curve.to_numpy(), points)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1.0001, -0.0001])
def test_invalid_probabilities_have_no_metrics(wrong: float) -> None:
    with pytest.raises(ValueError, match=r"NaN|infinity|y_prob"):
        classification_metrics(*arrays([0, 1], [0.5, wrong]))


def test_calibration_by_hand() -> None:
    # Bins: 0.1; 0.4; 0.6 twice, one of them positive; 0.9.
    gaps = [abs(0.1 - 0), abs(0.4 - 1), abs(0.6 - 0.5) * 2, abs(0.9 - 1)]
    squares = [0.1**2, 0.6**2, 0.6**2, 0.4**2, 0.1**2]
    found = calibration(*HAND)
    assert found == pytest.approx({"brier": sum(squares) / 5, "ece": sum(gaps) / 5})


def test_calibration_curve_has_every_image_in_one_bin() -> None:
    curve = calibration_curve(*arrays([0, 1, 1, 1], [0.0, 0.0999, 0.1, 1.0]))
    assert curve["images"].tolist() == [2, 1, 1]
    assert curve["mean_probability"].tolist() == pytest.approx([0.0999 / 2, 0.1, 1.0])
    assert curve["fraction_positive"].tolist() == [0.5, 1, 1]


def test_predictive_values() -> None:
    assert predictive_values(0.9, 0.8, 0.5) == pytest.approx({"ppv": 9 / 11, "npv": 8 / 9})
    # At the prevalence of the data set, they are its precision and that of NORMAL.
    found = at_threshold(*from_counts(tn=60, fp=20, fn=5, tp=15), 0.5)
    values = predictive_values(found["recall"], found["specificity"], 0.2)
    assert values["ppv"] == pytest.approx(found["precision"])
    assert values["npv"] == pytest.approx(60 / 65)
    assert predictive_values(0.0, 1.0, 0.2)["ppv"] == 0  # no positive predictions


def test_value_of_rates_without_a_case() -> None:
    counts = np.array([[8, 0, 0], [2, 0, 0], [1, 0, 1], [9, 0, 0]])
    empty = np.array([0, 0, np.nan])
    found = rates(*counts, empty=empty)
    assert found["precision"].tolist() == pytest.approx([9 / 11, 0, np.nan], nan_ok=True)
    assert found["recall"].tolist() == pytest.approx([0.9, 0, 0])
    values = predictive_values(found["recall"], found["specificity"], 0.2, empty)
    assert np.isnan(values["ppv"]).tolist() == [False, False, True]


keys = st.sampled_from([0.5, 0.75, 1.0])  # many ties


@many
@given(st.lists(st.lists(st.tuples(keys, keys, keys), min_size=3, max_size=3), min_size=1))
def test_rule_between_variants_is_the_greatest_triple(
    of_variants: list[list[tuple[float, float, float]]],
) -> None:
    """For three resamples at once; Python's `max` also returns the first of equals."""
    picked = best_index(*np.array(of_variants).transpose(2, 0, 1))
    for resample, found in enumerate(picked):
        triples = [of_variant[resample] for of_variant in of_variants]
        assert found == triples.index(max(triples))


@many
@given(cases)
def test_threshold_curve_is_the_rates_at_each_threshold(case: tuple[Any, Any]) -> None:
    curve = threshold_curve(*case)
    assert list(curve.columns) == ["threshold", "recall", "precision"]
    assert curve["threshold"].tolist() == sorted(set(case[1]))
    for row in curve.itertuples():
        found = at_threshold(*case, row.threshold)
        assert (row.recall, row.precision) == pytest.approx((found["recall"], found["precision"]))


@pytest.mark.parametrize(
    ("split", "labels", "probabilities"),
    [("test", [0, 1], [0.2, 0.3]), (("val", "test"), [1, 0, 1], [0.1, 0.2, 0.3])],
)
def test_columns_of_splits(split: Any, labels: list[int], probabilities: list[float]) -> None:
    table = pd.DataFrame(
        {"split": ["val", "test", "train", "test"], "baseline": [0.1, 0.2, 0.4, 0.3]}
        | {"label": ["PNEUMONIA", "NORMAL", "NORMAL", "PNEUMONIA"]}
    )
    y_true, y_prob = columns(table, split, "baseline")
    assert (y_true.tolist(), y_prob.tolist()) == (labels, probabilities)
    assert (y_true.dtype, y_prob.dtype) == (np.int64, np.float64)


def test_nan_is_no_negative_prediction() -> None:
    with pytest.raises(ValueError, match="NaN"):
        at_threshold(np.array([0, 1]), np.array([0.2, np.nan]), 0.5)
