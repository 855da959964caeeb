"""Intervals against scikit-learn on one sample, SciPy's bootstrap, and known coverage."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from cxr.common.names import VARIANTS
from cxr.evaluation import bootstrap
from cxr.evaluation.bootstrap import (
    _cells_of_choice,
    _draws,
    _ranking,
    bootstrap_intervals,
    is_significant,
    thresholds,
)
from cxr.evaluation.metrics import (
    at_threshold,
    calibration,
    columns,
    operating_threshold,
    predictive_values,
    ranking,
)

few = settings(max_examples=20)
# Patients with one to three images each: ill or not, and a probability with many ties.
PROBABILITIES = st.sampled_from([0.0, 0.2, 0.3, 0.5, 0.6, 0.9, 1.0])
images = st.tuples(st.booleans(), PROBABILITIES, PROBABILITIES)
tables = st.lists(st.lists(images, min_size=1, max_size=3), min_size=2, max_size=8).map(
    lambda patients: pd.DataFrame(
        [
            {"patient": f"p{number}", "label": "PNEUMONIA" if ill else "NORMAL", "a": a, "b": b}
            for number, of_patient in enumerate(patients)
            for ill, a, b in of_patient
        ]
    )
)
both_classes = tables.filter(lambda table: table["label"].nunique() == 2)

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
    return columns(table.assign(split="test"), "test", "a")


def test_values_are_the_metrics_of_the_images_as_they_are() -> None:
    table = predictions()
    found = bootstrap_intervals(table, POINTS, 0.2, 100)["columns"]["a"]
    pair = as_test(table)
    at_half = at_threshold(*pair, 0.5)
    for name in ("accuracy", "precision", "recall", "specificity", "f1"):
        assert found["at_half"][name]["value"] == pytest.approx(at_half[name])
    lower = at_threshold(*pair, 0.3)
    assert found["operating_point"]["recall"]["value"] == pytest.approx(lower["recall"])
    brier = {"brier": calibration(*pair)["brier"]}
    for name, value in {**ranking(*pair), **brier}.items():
        assert found[name]["value"] == pytest.approx(value)
    assert "ece" not in found  # its draws lie around a higher value than the one seen
    values = predictive_values(at_half["recall"], at_half["specificity"], 0.2)
    for name, value in values.items():
        assert found["at_half"][name]["value"] == pytest.approx(float(value))


def test_intervals_are_those_of_scipy_over_patients() -> None:
    table = predictions()
    found = bootstrap_intervals(table, POINTS, 0.2, 4000)["columns"]["a"]["at_half"]["accuracy"]
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
            assert found[name,][row] == pytest.approx(score(y_true, y_prob, sample_weight=drawn))


def test_differences_are_paired() -> None:
    table = predictions()
    points = {"a": {"at_half": 0.5}, "b": {"at_half": 0.5}}
    found = bootstrap_intervals(table, points, 0.2, 1000)
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
    difference = bootstrap_intervals(table, points, 0.2, 200)["differences"]["b - a"]
    zero = {"value": 0.0, "low": 0.0, "high": 0.0}
    assert difference["roc_auc"] == difference["at_half"]["recall"] == zero


@pytest.mark.parametrize("decimals", [1, 8])  # with many ties and without
@pytest.mark.parametrize("min_recall", [0.5, 0.9, 1.0])
def test_every_draw_chooses_its_own_threshold(decimals: int, min_recall: float) -> None:
    """As `scores.operating_threshold` does on a table that repeats the images drawn."""
    table = predictions(patients=30)
    y_true, y_prob = as_test(table.assign(a=table["a"].round(decimals)))
    weights = np.random.default_rng(5).integers(0, 4, (40, len(y_true)))
    cells = _cells_of_choice(y_true, y_prob, weights, min_recall)
    for row, drawn in enumerate(weights):
        pair = np.repeat(y_true, drawn), np.repeat(y_prob, drawn)
        found = at_threshold(*pair, operating_threshold(*pair, min_recall))
        assert {name: cells[name][row] for name in cells} == {name: found[name] for name in cells}


def test_of_equal_precision_a_draw_chooses_the_higher_recall() -> None:
    y_true, y_prob = np.array([1, 1, 0, 1]), np.array([0.9, 0.8, 0.5, 0.4])
    cells = _cells_of_choice(y_true, y_prob, np.ones((1, 4), np.int64), 0.3)
    assert {name: count.tolist() for name, count in cells.items()} == {
        **{"tn": [1], "fp": [0], "fn": [1], "tp": [2]}
    }


def test_choosing_anew_is_less_sure() -> None:
    table = predictions()
    chosen = operating_threshold(*as_test(table), 0.95)
    points = {"a": {"operating_point": chosen}, "b": {"operating_point": 0.5}}
    given = bootstrap_intervals(table, points, 0.2, 500)["columns"]["a"]["operating_point"]
    anew = bootstrap_intervals(table, points, 0.2, 500, 0.95)["columns"]["a"]["operating_point"]
    for name in ("precision", "recall", "ppv"):
        assert anew[name]["value"] == pytest.approx(given[name]["value"])
    widths = [of["precision"]["high"] - of["precision"]["low"] for of in (given, anew)]
    assert widths[1] > 1.1 * widths[0]
    assert anew["recall"]["low"] >= 0.95 > given["recall"]["low"]


def test_picks_are_those_of_the_rule() -> None:
    table = predictions(patients=25, images=2)
    points = {name: {"operating_point": 0.5} for name in "ab"}
    picks = bootstrap_intervals(table, points, 0.2, 60, 0.9)["picks"]
    patient, names = pd.factorize(table["patient"])
    counted = dict.fromkeys("ab", 0)
    (draws,) = _draws(patient, len(names), 60)
    for drawn in draws[1:]:
        rows = table.loc[np.repeat(table.index, drawn)].assign(split="test")
        ranks = {}
        for name in "ab":
            pair = columns(rows, "test", name)
            found = at_threshold(*pair, operating_threshold(*pair, 0.9))
            ranks[name] = found["precision"], found["recall"], ranking(*pair)["roc_auc"]
        counted[max("ab", key=lambda name: ranks[name])] += 1
    assert picks == counted
    assert min(picks.values()) > 0  # else nothing was told apart
    assert "picks" not in bootstrap_intervals(table, points, 0.2, 60)


def test_draws_without_illness_pick_nothing() -> None:
    table = pd.DataFrame({"patient": list("123"), "label": ["NORMAL", "NORMAL", "PNEUMONIA"]})
    points = {"a": {"operating_point": 0.5}, "b": {"operating_point": 0.5}}
    found = bootstrap_intervals(
        table.assign(a=[0.1, 0.2, 0.9], b=[0.9, 0.2, 0.1]), points, 0.2, 300, 0.9
    )
    assert found["ill_patients"] == 1
    assert found["picks"]["b"] == 0
    assert 150 < found["picks"]["a"] < 270  # (2 / 3) ** 3 of the draws lack the ill patient


def test_rates_without_any_case_have_no_part_in_the_interval() -> None:
    """Where one patient is ill, a third of the draws has no recall; it is not 0 there."""
    table = pd.DataFrame({"patient": list("123"), "label": ["NORMAL", "NORMAL", "PNEUMONIA"]})
    points = {"a": {"at_half": 0.5}, "b": {"at_half": 0.5}}
    found = bootstrap_intervals(
        table.assign(a=[0.1, 0.2, 0.9], b=[0.1, 0.2, 0.3]), points, 0.2, 300
    )
    a, b = (found["columns"][name]["at_half"] for name in "ab")
    assert a["recall"] == a["precision"] == a["ppv"] == {"value": 1, "low": 1, "high": 1}
    # b calls nobody ill: the value is that of `scores`, and there is no interval.
    assert b["precision"] == b["ppv"] == {"value": 0, "low": None, "high": None}
    assert b["recall"] == {"value": 0, "low": 0, "high": 0}
    difference = found["differences"]["b - a"]["at_half"]["precision"]
    assert difference == {"value": -1, "low": None, "high": None}


@pytest.mark.parametrize(
    ("low", "high", "sure"),
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
def test_sure_is_an_interval_that_leaves_out_0(
    low: float | None, high: float | None, sure: bool
) -> None:
    assert is_significant({"value": 0.5, "low": low, "high": high}) is sure


@few
@given(tables, st.integers(0, 30))
def test_a_draw_is_as_many_patients_each_with_all_images(table: pd.DataFrame, draws: int) -> None:
    patient, names = pd.factorize(table["patient"])
    weights = np.vstack(list(_draws(patient, len(names), draws)))
    assert weights.shape == (draws + 1, len(table))
    assert (weights[0] == 1).all()
    of_patient = pd.DataFrame(weights.T).groupby(patient)
    assert (of_patient.nunique() == 1).all(axis=None)
    assert (of_patient.first().sum() == len(names)).all()


def counted_one_by_one(table: pd.DataFrame, draws: int) -> pd.DataFrame:
    """Metrics of column a on tables that repeat the images drawn, NaN without any case."""
    patient, names = pd.factorize(table["patient"])
    rows = []
    for drawn in np.vstack(list(_draws(patient, len(names), draws))):
        y_true, y_prob = as_test(table.loc[np.repeat(table.index, drawn)])
        called = y_prob >= 0.5
        hits, passed = (called & (y_true == 1)).sum(), (~called & (y_true == 0)).sum()
        shares = {
            "accuracy": (hits + passed, len(y_true)),
            "precision": (hits, called.sum()),
            "recall": (hits, y_true.sum()),
            "specificity": (passed, (1 - y_true).sum()),
        }
        row = {name: part / whole if whole else np.nan for name, (part, whole) in shares.items()}
        row["brier"] = np.mean((y_true - y_prob) ** 2)
        both = len(set(y_true)) == 2
        row["roc_auc"] = metrics.roc_auc_score(y_true, y_prob) if both else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


@few
@given(both_classes)
def test_intervals_are_the_quantiles_of_scores_counted_one_by_one(table: pd.DataFrame) -> None:
    found = bootstrap_intervals(table, {"a": {"at_half": 0.5}}, 0.2, 40)["columns"]["a"]
    found |= found.pop("at_half")
    for name, values in counted_one_by_one(table, 40).items():
        seen, drawn = values.iloc[0], values.iloc[1:].dropna()
        low, high = drawn.quantile([0.025, 0.975]) if len(drawn) else (None, None)
        wanted = {"value": 0 if np.isnan(seen) else seen, "low": low, "high": high}
        assert found[name] == pytest.approx(wanted), name


@few
@given(both_classes)
def test_low_and_high_are_in_order_and_are_shares(table: pd.DataFrame) -> None:
    points = {name: {"at_half": 0.5, "operating_point": 0.3} for name in "ab"}
    for found in flat(bootstrap_intervals(table, points, 0.2, 40, 0.9)["columns"]):
        assert 0 <= found["value"] <= 1
        low, high = found["low"], found["high"]
        assert (low is None and high is None) or 0 <= low <= high <= 1


@few
@given(both_classes)
def test_every_image_twice_changes_no_interval(table: pd.DataFrame) -> None:
    """Twice the images are no more patients."""
    once = bootstrap_intervals(table, POINTS, 0.2, 40)
    twice = bootstrap_intervals(table.loc[np.repeat(table.index, 2)], POINTS, 0.2, 40)
    for found, wanted in zip(*map(flat, (twice, once)), strict=True):
        assert found == pytest.approx(wanted)


@few
@given(both_classes)
def test_a_difference_turned_round_changes_its_sign(table: pd.DataFrame) -> None:
    points = {"a": {"at_half": 0.5}, "b": {"at_half": 0.5}}
    one = bootstrap_intervals(table, points, 0.2, 40)["differences"]["b - a"]
    other = bootstrap_intervals(table, dict(reversed(points.items())), 0.2, 40)["differences"][
        "a - b"
    ]
    for name in ("recall", "precision", "accuracy"):
        found, turned = one["at_half"][name], other["at_half"][name]
        assert found["value"] == pytest.approx(-turned["value"])
        if found["low"] is not None:
            assert (found["low"], found["high"]) == pytest.approx((-turned["high"], -turned["low"]))


def flat(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Every interval of a result of `intervals`, differences included."""
    if "value" in result:
        return [result]
    return [found for part in result.values() if isinstance(part, dict) for found in flat(part)]


def test_same_numbers_every_time() -> None:
    table = predictions(patients=30)
    assert bootstrap_intervals(table, POINTS, 0.2, 100) == bootstrap_intervals(
        table, POINTS, 0.2, 100
    )


def test_draws_of_one_class_alone_have_no_ranking_and_break_nothing() -> None:
    table = pd.DataFrame(
        {
            "patient": ["1", "2", "3"],
            "label": ["NORMAL", "PNEUMONIA", "PNEUMONIA"],
            "a": [0.2, 0.9, 0.1],
            "b": [0.3, 0.7, 0.8],
        }
    )
    found = bootstrap_intervals(table, POINTS, 0.2, 300)["columns"]
    assert found["b"]["roc_auc"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert (found["a"]["roc_auc"]["low"], found["a"]["roc_auc"]["high"]) == (0, 1)


def test_coverage() -> None:
    """About 95 % of the intervals hold the truth; with 100 patients somewhat fewer are expected."""
    truth = predictions(patients=50_000, images=1, seed=99)
    true = at_threshold(*as_test(truth), 0.5)["accuracy"]
    held = []
    for seed in range(300):
        table = predictions(patients=100, seed=seed)
        points = {"a": {"at_half": 0.5}}
        found = bootstrap_intervals(table, points, 0.2, 200)["columns"]["a"]["at_half"]["accuracy"]
        held.append(found["low"] <= true <= found["high"])
    assert 0.90 <= np.mean(held) <= 0.98


def test_thresholds_of_an_evaluation() -> None:
    evaluation = {
        variant: {"operating_point": {"threshold": number}}
        for number, variant in enumerate(VARIANTS)
    }
    assert thresholds(evaluation)["transfer"] == {"at_half": 0.5, "operating_point": 2}


def test_blocks_of_draws_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    table = predictions(patients=25, images=2)
    points = {name: {"operating_point": 0.5} for name in "ab"}
    whole = bootstrap_intervals(table, points, 0.2, 60, 0.9)
    monkeypatch.setattr(bootstrap, "BLOCK", 7 * len(table))
    in_blocks = bootstrap_intervals(table, points, 0.2, 60, 0.9)
    assert in_blocks["picks"] == whole["picks"]
    found, expected = pd.json_normalize(in_blocks), pd.json_normalize(whole)
    pd.testing.assert_frame_equal(found, expected)
