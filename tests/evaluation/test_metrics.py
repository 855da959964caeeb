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
    columns,
    confusion,
    operating_threshold,
    precision_recall_curve,
    predictive_values,
    probability_bin,
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


def test_published_confusion_matrix_of_the_notebook() -> None:
    found = at_threshold(*from_counts(tn=116, fp=130, fn=6, tp=404), 0.5)
    assert {name: round(value, 3) for name, value in found.items()} == {
        **{"n": 656, "tn": 116, "fp": 130, "fn": 6, "tp": 404},
        **{"accuracy": 0.793, "precision": 0.757, "recall": 0.985},
        **{"specificity": 0.472, "f1": 0.856},
    }


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
@given(cases, values)
def test_counts_and_rates_by_counting(case: tuple[Any, Any], threshold: float) -> None:
    y_true, y_prob = case
    found = at_threshold(y_true, y_prob, threshold)
    pairs = [(int(label), bool(p >= threshold)) for label, p in zip(*case, strict=True)]
    tn, fp, fn, tp = (pairs.count(pair) for pair in [(0, False), (0, True), (1, False), (1, True)])
    assert [found[name] for name in ("tn", "fp", "fn", "tp", "n")] == [tn, fp, fn, tp, len(pairs)]
    assert found["accuracy"] == pytest.approx((tn + tp) / len(pairs))
    assert found["precision"] == pytest.approx(tp / max(tp + fp, 1))
    assert found["recall"] == pytest.approx(tp / (tp + fn))
    assert found["specificity"] == pytest.approx(tn / (tn + fp))
    assert found["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert all(type(value) in (int, float) for value in found.values())  # JSON takes no others


@many
@given(cases)
def test_roc_auc_is_the_fraction_of_pairs_in_order(case: tuple[Any, Any]) -> None:
    y_true, y_prob = case
    negative, positive = y_prob[y_true == 0], y_prob[y_true == 1]
    wins = [(p > n) + (p == n) / 2 for p in positive for n in negative]
    assert ranking(*case)["roc_auc"] == pytest.approx(np.mean(wins))


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
def test_rates_are_those_of_scikit_learn(case: tuple[Any, Any], threshold: float) -> None:
    y_true, y_pred = case[0], case[1] >= threshold
    found = at_threshold(*case, threshold)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(y_true, y_pred))
    zero: Any = {"zero_division": 0}
    assert found["precision"] == pytest.approx(metrics.precision_score(y_true, y_pred, **zero))
    assert found["recall"] == pytest.approx(metrics.recall_score(y_true, y_pred, **zero))
    assert found["f1"] == pytest.approx(metrics.f1_score(y_true, y_pred, **zero))
    of_normal = metrics.recall_score(y_true, y_pred, pos_label=0, **zero)
    assert found["specificity"] == pytest.approx(of_normal)


@many
@given(cases, st.randoms(use_true_random=False))
def test_order_of_images_does_not_matter(case: tuple[Any, Any], random: Any) -> None:
    order = list(range(len(case[0])))
    random.shuffle(order)
    shuffled = case[0][order], case[1][order]
    assert ranking(*shuffled) == pytest.approx(ranking(*case))
    assert calibration(*shuffled) == pytest.approx(calibration(*case))
    assert operating_threshold(*shuffled, 0.9) == operating_threshold(*case, 0.9)


@many
@given(cases)
def test_roc_auc_of_inverted_labels(case: tuple[Any, Any]) -> None:
    y_true, y_prob = arrays(case[0], case[1].round(3))  # that 1 - p merges no two values
    assert ranking(y_true, 1 - y_prob)["roc_auc"] == pytest.approx(
        1 - ranking(y_true, y_prob)["roc_auc"]
    )


@many
@given(cases, values, values)
def test_a_higher_threshold_predicts_fewer_positives(
    case: tuple[Any, Any], one: float, two: float
) -> None:
    low, high = (at_threshold(*case, threshold) for threshold in sorted((one, two)))
    assert low["recall"] >= high["recall"]
    assert low["specificity"] <= high["specificity"]


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


@many
@given(cases, st.floats(0.01, 1), st.floats(0.01, 1))
def test_higher_minimum_recall_costs_precision(
    case: tuple[Any, Any], one: float, two: float
) -> None:
    less, more = (
        at_threshold(*case, operating_threshold(*case, recall)) for recall in sorted((one, two))
    )
    assert less["precision"] >= more["precision"]
    assert less["recall"] <= more["recall"]


@pytest.mark.parametrize(
    ("min_recall", "threshold"), [(1.0, 0.4), (0.99, 0.4), (2 / 3, 0.4), (0.6, 0.4), (1 / 3, 0.9)]
)
def test_operating_threshold_of_the_hand_computed_case(min_recall: float, threshold: float) -> None:
    """Precision 1 at 0.9, 2/3 at 0.6, 3/4 at 0.4, 3/5 at 0.1."""
    assert operating_threshold(*HAND, min_recall) == threshold


def test_ties_in_precision_are_broken_by_recall() -> None:
    case = arrays([1, 1, 1, 0], [0.9, 0.8, 0.7, 0.1])
    assert operating_threshold(*case, 0.3) == 0.7
    case = arrays([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.6])  # 1, 1/2, 2/3, 1/2
    assert operating_threshold(*case, 0.9) == 0.7
    assert operating_threshold(*arrays([0, 1, 0, 1], [0.9, 0.8, 0.7, 0.6]), 0.1) == 0.6


def test_recall_equal_to_the_minimum_is_enough() -> None:
    """49 of 50 are 0.98; only the last positive, below most of the others, costs precision."""
    case = arrays([1] * 49 + [0] * 50 + [1], [0.9] * 49 + [0.5] * 50 + [0.1])
    assert operating_threshold(*case, 0.98) == 0.9
    assert operating_threshold(*case, 0.981) == 0.1


def test_constant_probabilities_have_one_threshold() -> None:
    assert operating_threshold(*arrays([0, 1, 0], [0.3] * 3), 1.0) == 0.3


@many
@given(cases)
def test_curves_run_from_corner_to_corner(case: tuple[Any, Any]) -> None:
    roc = roc_curve(*case)
    assert list(roc.columns) == ["fpr", "tpr"]
    assert roc.iloc[0].tolist() == [0, 0]
    assert roc.iloc[-1].tolist() == [1, 1]
    curve = precision_recall_curve(*case)
    assert list(curve.columns) == ["recall", "precision"]
    assert curve.iloc[0].tolist() == [0, 1]
    assert curve["recall"].iloc[-1] == 1
    assert curve["precision"].iloc[-1] == pytest.approx(case[0].mean())
    for table, names in ((roc, ["fpr", "tpr"]), (curve, ["recall"])):
        assert all(table[name].is_monotonic_increasing for name in names)


def test_curves_of_the_hand_computed_case() -> None:
    roc = roc_curve(*HAND)
    points = [(0, 0), (0, 1 / 3), (1 / 2, 2 / 3), (1 / 2, 1), (1, 1)]
    np.testing.assert_allclose(roc.to_numpy(), points)
    curve = precision_recall_curve(*HAND)
    points = [(0, 1), (1 / 3, 1), (2 / 3, 2 / 3), (1, 3 / 4), (1, 3 / 5)]
    np.testing.assert_allclose(curve.to_numpy(), points)


def test_confusion_as_rows() -> None:
    found = pd.DataFrame(confusion(*from_counts(tn=1, fp=2, fn=3, tp=4), 0.5))
    assert list(found.columns) == ["actual", "predicted", "images"]
    assert found.set_index(["actual", "predicted"])["images"].to_dict() == {
        ("NORMAL", "NORMAL"): 1,
        ("NORMAL", "PNEUMONIA"): 2,
        ("PNEUMONIA", "NORMAL"): 3,
        ("PNEUMONIA", "PNEUMONIA"): 4,
    }


@pytest.mark.parametrize(
    ("labels", "probabilities", "said"),
    [
        ([0, 1], [0.5, np.nan], "between 0 and 1"),
        ([0, 1], [0.5, np.inf], "between 0 and 1"),
        ([0, 1], [0.5, 1.0001], "between 0 and 1"),
        ([0, 1], [-0.0001, 0.5], "between 0 and 1"),
        ([0, 2], [0.5, 0.5], "0 or 1"),
        ([-1, 1], [0.5, 0.5], "0 or 1"),
        ([0, 1], [0.5], "do not fit"),
        ([0], [0.5, 0.5], "do not fit"),
        ([[0], [1]], [[0.5], [0.5]], "do not fit"),
        ([0, 1], [[0.5], [0.5]], "do not fit"),
        ([], [], "do not fit"),
        (1, 0.5, "do not fit"),
    ],
)
@pytest.mark.parametrize(
    "function",
    [
        lambda *case: at_threshold(*case, 0.5),
        ranking,
        lambda *case: operating_threshold(*case, 0.9),
        lambda *case: confusion(*case, 0.5),
    ],
    ids=["at_threshold", "ranking", "operating_threshold", "confusion"],
)
def test_invalid_input_of_metrics(
    function: Any, labels: Any, probabilities: Any, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        function(*arrays(labels, probabilities))


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


@many
@given(cases)
def test_calibration_by_counting(case: tuple[Any, Any]) -> None:
    y_true, y_prob = case
    bins = [min(int(p * 10), 9) for p in y_prob]
    of_bin = {
        number: [
            (p, label) for p, label, b in zip(y_prob, y_true, bins, strict=True) if b == number
        ]
        for number in sorted(set(bins))
    }
    curve = calibration_curve(*case)
    assert list(curve.columns) == ["mean_probability", "fraction_positive", "images"]
    assert curve.index.tolist() == list(range(len(of_bin)))
    assert curve["images"].tolist() == [len(pairs) for pairs in of_bin.values()]
    means = [np.mean(pairs, axis=0) for pairs in of_bin.values()]
    np.testing.assert_allclose(curve[["mean_probability", "fraction_positive"]], means, atol=1e-12)
    gaps = [abs(p - positive) for p, positive in means]
    found = calibration(*case)
    assert found["ece"] == pytest.approx(np.average(gaps, weights=curve["images"]), abs=1e-12)
    assert found["brier"] == pytest.approx(metrics.brier_score_loss(*case))


@many
@given(st.lists(values, min_size=1))
def test_a_probability_lies_in_its_bin(probabilities: list[float]) -> None:
    found = probability_bin(np.array(probabilities))
    assert found.dtype == np.int64
    for p, number in zip(probabilities, found, strict=True):
        assert number in range(10)
        assert number / 10 - 1e-12 <= p <= (number + 1) / 10 + 1e-12


@pytest.mark.parametrize(
    ("labels", "probabilities"), [([0, 2], [0.5, 0.5]), ([0, 1], [0.5, 1.1]), ([], [])]
)
def test_invalid_input_of_calibration(labels: Any, probabilities: Any) -> None:
    with pytest.raises(ValueError, match=r"0 or 1|between 0 and 1|do not fit"):
        calibration(*arrays(labels, probabilities))


@many
@given(cases)
def test_a_perfect_probability_is_calibrated(case: tuple[Any, Any]) -> None:
    y_true, _ = case
    assert calibration(y_true, y_true.astype(float)) == {"brier": 0, "ece": 0}


def test_predictive_values() -> None:
    assert predictive_values(0.9, 0.8, 0.5) == pytest.approx({"ppv": 9 / 11, "npv": 8 / 9})
    # At the prevalence of the data set, they are its precision and that of NORMAL.
    found = at_threshold(*from_counts(tn=60, fp=20, fn=5, tp=15), 0.5)
    values = predictive_values(found["recall"], found["specificity"], 0.2)
    assert values["ppv"] == pytest.approx(found["precision"])
    assert values["npv"] == pytest.approx(60 / 65)
    assert predictive_values(0.0, 1.0, 0.2)["ppv"] == 0  # no positive predictions


counts = st.integers(0, 20)


@many
@given(counts, counts, counts, counts, st.floats(0.01, 0.99))
def test_predictive_values_by_counting_a_population(
    tn: int, fp: int, fn: int, tp: int, prevalence: float
) -> None:
    """Positives and negatives of the table, weighted to their fraction of the population."""
    found = rates(tn, fp, fn, tp)
    recall, specificity = float(found["recall"]), float(found["specificity"])
    values = predictive_values(recall, specificity, prevalence, empty=-1)
    tp_weight, fn_weight = prevalence * recall, prevalence * (1 - recall)
    fp_weight, tn_weight = (1 - prevalence) * (1 - specificity), (1 - prevalence) * specificity
    positive, negative = tp_weight + fp_weight, fn_weight + tn_weight
    assert values["ppv"] == pytest.approx(tp_weight / positive if positive else -1)
    assert values["npv"] == pytest.approx(tn_weight / negative if negative else -1)


def test_rates_of_many_counts_at_once() -> None:
    tn, fp, fn, tp = np.array([[8, 0], [2, 0], [1, 0], [9, 0]])
    found = rates(tn, fp, fn, tp)
    assert found["precision"].tolist() == pytest.approx([9 / 11, 0])
    assert found["specificity"].tolist() == pytest.approx([0.8, 0])
    assert found["accuracy"].tolist() == pytest.approx([17 / 20, 0])


def test_value_of_rates_without_a_case() -> None:
    counts = np.array([[8, 0, 0], [2, 0, 0], [1, 0, 1], [9, 0, 0]])
    empty = np.array([0, 0, np.nan])
    found = rates(*counts, empty=empty)
    assert found["precision"].tolist() == pytest.approx([9 / 11, 0, np.nan], nan_ok=True)
    assert found["recall"].tolist() == pytest.approx([0.9, 0, 0])
    values = predictive_values(found["recall"], found["specificity"], 0.2, empty)
    assert np.isnan(values["ppv"]).tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("precision", "recall", "roc_auc", "wanted"),
    [
        ([0.8, 0.9, 0.7], [1, 0.98, 1], [0.9, 0.8, 0.9], 1),
        ([0.9, 0.9, 0.7], [0.98, 0.99, 1], [0.9, 0.8, 0.9], 1),
        ([0.7, 0.9, 0.9], [1, 0.99, 0.99], [0.9, 0.8, 0.81], 2),
        ([0.7, 0.9, 0.9], [1, 0.99, 0.99], [0.9, 0.8, 0.8], 1),  # the first of equals
    ],
)
def test_rule_between_variants(
    precision: list[float], recall: list[float], roc_auc: list[float], wanted: int
) -> None:
    assert best_index(precision, recall, roc_auc) == wanted
    resamples = [np.array([key, key[::-1]]).T for key in (precision, recall, roc_auc)]
    picked, turned = best_index(*resamples)
    assert picked == wanted
    keys = list(zip(precision, recall, roc_auc, strict=True))
    assert keys[::-1][turned] == keys[wanted]


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


def test_columns_of_one_split() -> None:
    table = pd.DataFrame(
        {"split": ["val", "test", "test"], "label": ["PNEUMONIA", "NORMAL", "PNEUMONIA"]}
    ).assign(baseline=[0.1, 0.2, 0.3])
    y_true, y_prob = columns(table, "test", "baseline")
    assert (y_true.tolist(), y_prob.tolist()) == ([0, 1], [0.2, 0.3])
    assert (y_true.dtype, y_prob.dtype) == (np.int64, np.float64)


def test_columns_of_several_splits() -> None:
    table = pd.DataFrame(
        {"split": ["val", "test", "train"], "label": ["PNEUMONIA", "NORMAL", "NORMAL"]}
    )
    y_true, y_prob = columns(table.assign(a=[1, 0, 1]), ("val", "test"), "a")
    assert (y_true.tolist(), y_prob.tolist()) == ([1, 0], [1, 0])
    assert y_prob.dtype == np.float64
