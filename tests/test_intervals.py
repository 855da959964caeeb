"""Intervals against scikit-learn on one sample, SciPy's bootstrap, and known coverage."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics

from cxr import scores
from cxr.intervals import _ranking, intervals, thresholds

POINTS = {"a": {"at_half": 0.5, "operating_point": 0.3}, "b": {"at_half": 0.5}}


def predictions(patients: int = 120, images: int = 3, seed: int = 1) -> pd.DataFrame:
    """Images of a patient share label and much of their probability."""
    rng = np.random.default_rng(seed)
    ill = rng.random(patients) < 0.6
    shared = np.where(ill, 0.62, 0.42) + rng.normal(0, 0.18, patients)
    noise = rng.normal(0, 0.03, (patients, images))
    a = np.clip(shared[:, None] + noise, 0, 1).ravel()
    return pd.DataFrame(
        {
            "patient": np.repeat([f"p{number}" for number in range(patients)], images),
            "label": np.repeat(np.where(ill, "PNEUMONIA", "NORMAL"), images),
            "a": a,
            "b": np.clip(a + rng.normal(0, 0.1, a.shape), 0, 1),
        }
    )


def as_test(table: pd.DataFrame) -> tuple[Any, Any]:
    return scores.columns(table.assign(split="test"), "test", "a")


def test_values_are_the_metrics_of_the_images_as_they_are() -> None:
    table = predictions()
    found = intervals(table, POINTS, 0.2, 100)["columns"]["a"]
    pair = as_test(table)
    at_half = scores.at_threshold(*pair, 0.5)
    for name in ("accuracy", "precision", "recall", "specificity", "f1"):
        assert found["at_half"][name]["value"] == pytest.approx(at_half[name])
    lower = scores.at_threshold(*pair, 0.3)
    assert found["operating_point"]["recall"]["value"] == pytest.approx(lower["recall"])
    for name, value in {**scores.ranking(*pair), **scores.calibration(*pair)}.items():
        assert found[name]["value"] == pytest.approx(value)
    values = scores.predictive_values(at_half["recall"], at_half["specificity"], 0.2)
    for name, value in values.items():
        assert found["at_half"][name]["value"] == pytest.approx(float(value))


def test_intervals_are_those_of_scipy_over_patients() -> None:
    table = predictions()
    found = intervals(table, POINTS, 0.2, 4000)["columns"]["a"]["at_half"]["accuracy"]
    right = (table["a"] >= 0.5) == (table["label"] == "PNEUMONIA")
    of_patient = right.groupby(table["patient"]).mean().to_numpy()
    wanted = stats.bootstrap((of_patient,), np.mean, method="percentile", rng=2)
    assert found["low"] == pytest.approx(wanted.confidence_interval.low, abs=0.01)
    assert found["high"] == pytest.approx(wanted.confidence_interval.high, abs=0.01)
    # Images of a patient are alike, so counting them one by one would be too sure.
    by_image = stats.bootstrap((right.to_numpy(float),), np.mean, method="percentile", rng=2)
    width = by_image.confidence_interval.high - by_image.confidence_interval.low
    assert found["high"] - found["low"] > 1.3 * width


@pytest.mark.parametrize("decimals", [1, 8])  # with many ties and without
def test_ranking_of_every_draw_is_that_of_scikit_learn(decimals: int) -> None:
    table = predictions(patients=30)
    y_true, y_prob = as_test(table.assign(a=table["a"].round(decimals)))
    weights = np.random.default_rng(5).integers(0, 4, (50, len(y_true)))
    found = _ranking(y_true, y_prob, weights)
    for row, drawn in enumerate(weights):
        pairs = {
            "roc_auc": metrics.roc_auc_score,
            "average_precision": metrics.average_precision_score,
        }
        for name, score in pairs.items():
            assert found[name][row] == pytest.approx(score(y_true, y_prob, sample_weight=drawn))


def test_differences_are_paired() -> None:
    table = predictions()
    points = {"a": {"at_half": 0.5}, "b": {"at_half": 0.5}}
    found = intervals(table, points, 0.2, 1000)
    difference = found["differences"]["b - a"]
    assert set(difference) == {"at_half", "roc_auc"}
    assert set(difference["at_half"]) == {"recall", "precision", "accuracy"}
    a, b = (found["columns"][name]["roc_auc"] for name in "ab")
    assert difference["roc_auc"]["value"] == pytest.approx(b["value"] - a["value"])
    # Drawn separately, the difference would be as uncertain as both together.
    separately = np.hypot(a["high"] - a["low"], b["high"] - b["low"])
    assert difference["roc_auc"]["high"] - difference["roc_auc"]["low"] < 0.6 * separately


def test_equal_columns_differ_by_nothing() -> None:
    table = predictions().assign(b=lambda rows: rows["a"])
    points = {"a": {"at_half": 0.5}, "b": {"at_half": 0.5}}
    difference = intervals(table, points, 0.2, 200)["differences"]["b - a"]
    zero = {"value": 0.0, "low": 0.0, "high": 0.0}
    assert difference["roc_auc"] == difference["at_half"]["recall"] == zero


def test_same_numbers_every_time() -> None:
    table = predictions(patients=30)
    assert intervals(table, POINTS, 0.2, 100) == intervals(table, POINTS, 0.2, 100)


def test_draws_of_one_class_alone_have_no_ranking_and_break_nothing() -> None:
    table = pd.DataFrame(
        {
            "patient": ["1", "2", "3"],
            "label": ["NORMAL", "PNEUMONIA", "PNEUMONIA"],
            "a": [0.2, 0.9, 0.1],
            "b": [0.3, 0.7, 0.8],
        }
    )
    found = intervals(table, POINTS, 0.2, 300)["columns"]
    assert found["b"]["roc_auc"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert (found["a"]["roc_auc"]["low"], found["a"]["roc_auc"]["high"]) == (0, 1)


def test_coverage() -> None:
    """About 95 % of the intervals hold the truth; with 100 patients somewhat fewer are expected."""
    truth = predictions(patients=50_000, images=1, seed=99)
    true = scores.at_threshold(*as_test(truth), 0.5)["accuracy"]
    held = []
    for seed in range(300):
        table = predictions(patients=100, seed=seed)
        points = {"a": {"at_half": 0.5}}
        found = intervals(table, points, 0.2, 200)["columns"]["a"]["at_half"]["accuracy"]
        held.append(found["low"] <= true <= found["high"])
    assert 0.90 <= np.mean(held) <= 0.98


def test_thresholds_of_an_evaluation() -> None:
    evaluation = {
        variant: {"operating_point": {"threshold": number}}
        for number, variant in enumerate(("baseline", "augmented", "transfer"))
    }
    assert thresholds(evaluation)["transfer"] == {"at_half": 0.5, "operating_point": 2}
