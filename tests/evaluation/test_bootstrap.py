"""Intervals against scikit-learn on one sample, SciPy's bootstrap, and known coverage."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cxr.evaluation import bootstrap
from cxr.evaluation.bootstrap import (
    _cells_of_choice,
    _resamples,
    bootstrap_intervals,
    is_significant,
)
from cxr.evaluation.metrics import (
    at_threshold,
    calibration,
    columns,
    operating_threshold,
    predictive_values,
    ranking,
)
from cxr.evaluation.results import Interval, Record, SplitIntervals
from tests.support.results import interval

few = settings(max_examples=20)
# Patients with one to three images each: positive or not, and a probability with many ties.
PROBABILITIES = st.sampled_from([0.0, 0.2, 0.3, 0.5, 0.6, 0.9, 1.0])
images = st.tuples(st.booleans(), PROBABILITIES, PROBABILITIES)
tables = st.lists(st.lists(images, min_size=1, max_size=3), min_size=2, max_size=8).map(
    lambda patients: pd.DataFrame(
        [
            {
                "patient": f"p{number}",
                "label": "PNEUMONIA" if positive else "NORMAL",
                "a": a,
                "b": b,
            }
            for number, of_patient in enumerate(patients)
            for positive, a, b in of_patient
        ]
    )
)
both_classes = tables.filter(lambda table: table["label"].nunique() == 2)

RANKING = ("roc_auc", "average_precision")
THRESHOLDS = {"a": 0.3, "b": 0.5}


def predictions(patients: int = 120, images: int = 3, seed: int = 1) -> pd.DataFrame:
    """Images of a patient share the label and have similar probabilities."""
    rng = np.random.default_rng(seed)
    is_positive = rng.random(patients) < 0.6
    shared = np.where(is_positive, 0.62, 0.42) + rng.normal(0, 0.18, patients)
    noise = rng.normal(0, 0.03, (patients, images))
    a = np.clip(shared[:, None] + noise, 0, 1).ravel()
    return pd.DataFrame(
        {
            "patient": np.repeat([f"p{number}" for number in range(patients)], images),
            "label": np.repeat(np.where(is_positive, "PNEUMONIA", "NORMAL"), images),
            "a": a,
            "b": np.clip(a + rng.normal(0, 0.1, a.shape), 0, 1),
        }
    )


def as_test(table: pd.DataFrame) -> tuple[Any, Any]:
    return columns(table.assign(split="test"), "test", "a")


def test_values_are_the_metrics_of_the_images_as_they_are() -> None:
    table = predictions()
    found = bootstrap_intervals(table, THRESHOLDS, 0.2, 100).columns["a"]
    pair = as_test(table)
    at_half = at_threshold(*pair, 0.5)
    for name in ("accuracy", "precision", "recall", "specificity", "f1"):
        assert getattr(found.at_half, name).value == pytest.approx(at_half[name])
    lower = at_threshold(*pair, 0.3)
    assert found.operating_point.recall.value == pytest.approx(lower["recall"])
    brier = {"brier": calibration(*pair)["brier"]}
    for name, value in {**ranking(*pair), **brier}.items():
        assert getattr(found, name).value == pytest.approx(value)
    values = predictive_values(at_half["recall"], at_half["specificity"], 0.2)
    for name, value in values.items():
        assert getattr(found.at_half, name).value == pytest.approx(float(value))


def test_intervals_are_those_of_scipy_over_patients() -> None:
    table = predictions()
    found = bootstrap_intervals(table, THRESHOLDS, 0.2, 4000).columns["a"].at_half.accuracy
    right = (table["a"] >= 0.5) == (table["label"] == "PNEUMONIA")
    of_patient = right.groupby(table["patient"]).mean().to_numpy()
    wanted = stats.bootstrap((of_patient,), np.mean, method="percentile", rng=2)
    assert found.low == pytest.approx(wanted.confidence_interval.low, abs=0.01)
    assert found.high == pytest.approx(wanted.confidence_interval.high, abs=0.01)
    # Images of a patient are alike, so counting them one by one would be too sure.
    by_image = stats.bootstrap((right.to_numpy(float),), np.mean, method="percentile", rng=2)
    width = by_image.confidence_interval.high - by_image.confidence_interval.low
    assert width_of(found) > 1.3 * width


def test_differences_are_paired() -> None:
    table = predictions()
    found = bootstrap_intervals(table, THRESHOLDS, 0.2, 1000)
    difference = found.differences["b - a"].roc_auc
    a, b = (found.columns[name].roc_auc for name in "ab")
    assert difference.value == pytest.approx(b.value - a.value)
    # Drawn separately, the difference would be as uncertain as both together.
    assert width_of(difference) < 0.6 * np.hypot(width_of(a), width_of(b))


@pytest.mark.parametrize("decimals", [1, 8])  # with many ties and without
@pytest.mark.parametrize("min_recall", [0.5, 0.9, 1.0])
def test_every_resample_chooses_its_own_threshold(decimals: int, min_recall: float) -> None:
    """Like `metrics.operating_threshold` on a table that repeats the resampled images."""
    table = predictions(patients=30)
    y_true, y_prob = as_test(table.assign(a=table["a"].round(decimals)))
    weights = np.random.default_rng(5).integers(0, 4, (40, len(y_true)))
    cells = _cells_of_choice(y_true, y_prob, weights, min_recall)
    for row, resample in enumerate(weights):
        pair = np.repeat(y_true, resample), np.repeat(y_prob, resample)
        found = at_threshold(*pair, operating_threshold(*pair, min_recall))
        assert {name: cells[name][row] for name in cells} == {name: found[name] for name in cells}


def test_choosing_in_each_resample_widens_the_intervals() -> None:
    table = predictions()
    chosen = operating_threshold(*as_test(table), 0.95)
    given, chosen_again = (
        bootstrap_intervals(table, {"a": chosen}, 0.2, 500, minimum).columns["a"].operating_point
        for minimum in (None, 0.95)
    )
    for name in ("precision", "recall", "ppv"):
        assert getattr(chosen_again, name).value == pytest.approx(getattr(given, name).value)
    assert width_of(chosen_again.precision) > 1.1 * width_of(given.precision)
    assert chosen_again.recall.low is not None and given.recall.low is not None
    assert chosen_again.recall.low >= 0.95 > given.recall.low


def test_selections_are_those_of_the_rule() -> None:
    table = predictions(patients=25, images=2)
    selected = bootstrap_intervals(table, THRESHOLDS, 0.2, 60, 0.9).selected
    patient, names = pd.factorize(table["patient"])
    counted = dict.fromkeys("ab", 0)
    (resamples,) = _resamples(patient, len(names), 60)
    for resample in resamples[1:]:
        rows = table.loc[np.repeat(table.index, resample)].assign(split="test")
        ranks = {}
        for name in "ab":
            pair = columns(rows, "test", name)
            found = at_threshold(*pair, operating_threshold(*pair, 0.9))
            ranks[name] = found["precision"], found["recall"], ranking(*pair)["roc_auc"]
        counted[max("ab", key=lambda name: ranks[name])] += 1
    assert selected == counted
    assert min(selected.values()) > 0  # else the rules could differ unnoticed
    assert bootstrap_intervals(table, THRESHOLDS, 0.2, 60).selected == {}


def test_resamples_without_positive_image_select_nothing() -> None:
    table = pd.DataFrame({"patient": list("123"), "label": ["NORMAL", "NORMAL", "PNEUMONIA"]})
    found = bootstrap_intervals(
        table.assign(a=[0.1, 0.2, 0.9], b=[0.9, 0.2, 0.1]), THRESHOLDS, 0.2, 300, 0.9
    )
    assert found.positive_patients == 1
    assert found.selected["b"] == 0
    assert 150 < found.selected["a"] < 270  # (2 / 3) ** 3 of them lack the positive patient


def test_resamples_without_a_case_are_excluded_from_the_interval() -> None:
    """With one positive patient, a third of the resamples has no recall; it is not 0 there."""
    table = pd.DataFrame({"patient": list("123"), "label": ["NORMAL", "NORMAL", "PNEUMONIA"]})
    found = bootstrap_intervals(
        table.assign(a=[0.1, 0.2, 0.9], b=[0.1, 0.2, 0.3]), THRESHOLDS, 0.2, 300
    )
    a, b = (found.columns[name].at_half for name in "ab")
    assert a.recall == a.precision == a.ppv == interval(1, 1, 1)
    # b predicts no positives: the value is that of `metrics`, and there is no interval.
    assert b.precision == b.ppv == interval(0, None, None)
    assert b.recall == interval(0, 0, 0)
    assert found.differences["b - a"].at_half.precision == interval(-1, None, None)


@pytest.mark.parametrize(
    ("low", "high", "significant"),
    [
        (0.01, 0.02, True),
        (-0.02, -0.01, True),
        (-0.01, 0.01, False),
        (0.0004, 0.02, False),  # printed as 0
        (-0.02, -0.0004, False),
        (0.0, 0.0, False),
        (None, None, False),
    ],
)
def test_an_interval_that_excludes_0_is_significant(
    low: float | None, high: float | None, significant: bool
) -> None:
    assert is_significant(interval(0.5, low, high)) is significant


@few
@given(tables, st.integers(0, 30))
def test_a_resample_has_as_many_patients_each_with_all_images(
    table: pd.DataFrame, n_resamples: int
) -> None:
    patient, names = pd.factorize(table["patient"])
    weights = np.vstack(list(_resamples(patient, len(names), n_resamples)))
    assert weights.shape == (n_resamples + 1, len(table))
    assert (weights[0] == 1).all()
    of_patient = pd.DataFrame(weights.T).groupby(patient)
    assert (of_patient.nunique() == 1).all(axis=None)
    assert (of_patient.first().sum() == len(names)).all()


def computed_one_by_one(table: pd.DataFrame, n_resamples: int) -> pd.DataFrame:
    """Metrics of column a on tables that repeat the resampled images; NaN for 0 / 0."""
    patient, names = pd.factorize(table["patient"])
    rows = []
    for resample in np.vstack(list(_resamples(patient, len(names), n_resamples))):
        y_true, y_prob = as_test(table.loc[np.repeat(table.index, resample)])
        y_pred = y_prob >= 0.5
        hits, passed = (y_pred & (y_true == 1)).sum(), (~y_pred & (y_true == 0)).sum()
        fractions = {
            "accuracy": (hits + passed, len(y_true)),
            "precision": (hits, y_pred.sum()),
            "recall": (hits, y_true.sum()),
            "specificity": (passed, (1 - y_true).sum()),
        }
        row = {name: part / whole if whole else np.nan for name, (part, whole) in fractions.items()}
        row["brier"] = np.mean((y_true - y_prob) ** 2)
        both = len(set(y_true)) == 2
        row |= ranking(y_true, y_prob) if both else dict.fromkeys(RANKING, np.nan)
        rows.append(row)
    return pd.DataFrame(rows)


@few
@given(both_classes)
def test_intervals_are_the_quantiles_of_metrics_computed_one_by_one(table: pd.DataFrame) -> None:
    column = bootstrap_intervals(table, {"a": 0.5}, 0.2, 40).columns["a"]
    found = {**dict(column), **dict(column.at_half)}
    for name, values in computed_one_by_one(table, 40).items():
        seen, resample = values.iloc[0], values.iloc[1:].dropna()
        low, high = resample.quantile([0.025, 0.975]) if len(resample) else (None, None)
        wanted = {"value": 0 if np.isnan(seen) else seen, "low": low, "high": high}
        assert dict(found[name]) == pytest.approx(wanted), name


@few
@given(both_classes)
def test_a_difference_in_reverse_order_has_the_opposite_sign(table: pd.DataFrame) -> None:
    reversed_order = dict(reversed(THRESHOLDS.items()))
    one = bootstrap_intervals(table, THRESHOLDS, 0.2, 40).differences["b - a"]
    other = bootstrap_intervals(table, reversed_order, 0.2, 40).differences["a - b"]
    for found, negative in zip(flat(one), flat(other), strict=True):
        assert dict(found) == pytest.approx(dict(-negative))


def flat(record: Record) -> list[Interval]:
    """Every interval of a record."""
    parts = [value for _, value in record]
    intervals = [part for part in parts if isinstance(part, Interval)]
    records = [part for part in parts if isinstance(part, Record) and part not in intervals]
    return [*intervals, *(found for part in records for found in flat(part))]


def all_of(result: SplitIntervals) -> list[Interval]:
    """Every interval of a result, differences included."""
    records = [*result.columns.values(), *result.differences.values()]
    return [found for record in records for found in flat(record)]


def width_of(found: Interval) -> float:
    assert found.low is not None and found.high is not None
    return found.high - found.low


def test_coverage() -> None:
    """About 95 % of the intervals contain the true value; somewhat fewer with 100 patients."""
    truth = predictions(patients=50_000, images=1, seed=99)
    true = at_threshold(*as_test(truth), 0.5)["accuracy"]
    held = []
    for seed in range(300):
        table = predictions(patients=100, seed=seed)
        found = bootstrap_intervals(table, {"a": 0.5}, 0.2, 200).columns["a"].at_half.accuracy
        assert found.low is not None and found.high is not None
        held.append(found.low <= true <= found.high)
    assert 0.90 <= np.mean(held) <= 0.98


def test_blocks_of_resamples_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    table = predictions(patients=25, images=2)
    whole = bootstrap_intervals(table, THRESHOLDS, 0.2, 60, 0.9)
    monkeypatch.setattr(bootstrap, "BLOCK", 7 * len(table))
    in_blocks = bootstrap_intervals(table, THRESHOLDS, 0.2, 60, 0.9)
    assert in_blocks.selected == whole.selected
    for found, expected in zip(all_of(in_blocks), all_of(whole), strict=True):
        assert dict(found) == pytest.approx(dict(expected))
