"""The rule reads validation alone, and says how sure it is."""

from typing import Any

import pytest

from cxr.recommendation import best_variant, recommend, signed_difference, signed_span, span
from cxr.variants import VARIANTS

PAIRS = (("augmented", "baseline"), ("transfer", "baseline"), ("transfer", "augmented"))


def interval(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


def evaluation(**precision: float) -> dict[str, Any]:
    return {
        variant: {
            "val": {"roc_auc": 0.9},
            "operating_point": {
                "threshold": 0.4,
                "val": {"precision": precision[variant], "recall": 0.99, "specificity": 0.5},
                "test": {"precision": 1 - precision[variant], "recall": 0.5, "specificity": 0.5},
            },
        }
        for variant in VARIANTS
    }


def intervals(low: float = 0.01, recall: tuple[float, float] = (0.9, 0.99)) -> dict[str, Any]:
    differences = {
        f"{b} - {a}": {"operating_point": {"precision": interval(0.05, low, 0.09)}}
        for b, a in PAIRS
    }
    point = {"recall": interval(0.95, *recall), "precision": interval(0.8, 0.7, 0.9)}
    columns = {variant: {"operating_point": point} for variant in VARIANTS}
    return {"val": {"differences": differences}, "test": {"columns": columns}}


@pytest.mark.parametrize("best", VARIANTS)
def test_highest_precision_on_validation_is_recommended(best: str) -> None:
    precision = dict.fromkeys(VARIANTS, 0.8) | {best: 0.9}
    found = recommend(evaluation(**precision), intervals(), 0.98)
    assert found.variant == best  # though it is the worst on test
    assert f"**{best}** is recommended" in found.sentences[0]
    assert "0.900 (recall 0.990)" in found.sentences[0]


def test_equal_precision_is_decided_by_recall_then_by_ranking() -> None:
    metrics = evaluation(baseline=0.8, augmented=0.8, transfer=0.8)
    metrics["augmented"]["operating_point"]["val"]["recall"] = 0.995
    assert best_variant(metrics) == "augmented"
    metrics["augmented"]["operating_point"]["val"]["recall"] = 0.99
    metrics["transfer"]["val"]["roc_auc"] = 0.95
    assert best_variant(metrics) == "transfer"


def test_what_may_be_chance_is_said() -> None:
    metrics = evaluation(baseline=0.8, augmented=0.8, transfer=0.85)
    sure = " ".join(recommend(metrics, intervals(low=0.01), 0.98).sentences)
    unsure = " ".join(recommend(metrics, intervals(low=-0.01), 0.98).sentences)
    assert "may be chance" not in sure
    assert unsure.count("may be chance") == 2
    assert "0.050 higher than baseline's (95 % interval -0.010 to +0.090)" in unsure


def test_equals_are_told() -> None:
    equal = intervals()
    for pair in equal["val"]["differences"].values():
        pair["operating_point"]["precision"] = interval(0.0, 0.0, 0.0)
    metrics = evaluation(baseline=0.8, augmented=0.8, transfer=0.8)
    sentences = recommend(metrics, equal, 0.98).sentences
    assert sum("has the same precision there" in sentence for sentence in sentences) == 2
    assert "-0.000" not in " ".join(sentences)


@pytest.mark.parametrize(
    ("recall", "told"),
    [((0.985, 1), "is kept"), ((0.9, 0.99), "may not be kept"), ((0.9, 0.97), "is not kept")],
)
def test_whether_test_keeps_the_recall(recall: tuple[float, float], told: str) -> None:
    metrics = evaluation(baseline=0.8, augmented=0.8, transfer=0.85)
    text = " ".join(recommend(metrics, intervals(recall=recall), 0.98).sentences)
    assert f"recall of 0.98 {told}" in text


def test_calling_everything_ill_is_no_use() -> None:
    metrics = evaluation(baseline=0.7, augmented=0.7, transfer=0.75)
    assert "of use" not in " ".join(recommend(metrics, intervals(), 0.98).sentences)
    metrics["transfer"]["operating_point"]["val"]["specificity"] = 0
    assert "no variant is of use" in recommend(metrics, intervals(), 0.98).sentences[0]


def test_a_difference_is_turned_round() -> None:
    stored = {"b - a": {"roc_auc": interval(0.1, -0.05, 0.2)}}
    assert signed_difference(stored, "b", "a") == stored["b - a"]
    assert signed_difference(stored, "a", "b") == {"roc_auc": interval(-0.1, -0.2, 0.05)}


def test_texts_of_intervals() -> None:
    assert span(interval(0.9816, 0.97, 0.99)) == "0.982 (0.970-0.990)"
    assert signed_span(interval(0.01, -0.02, 0.03)) == "+0.010 (-0.020 to +0.030)"
    assert signed_span(interval(-0.02, -0.03, -0.01)) == "**-0.020 (-0.030 to -0.010)**"
    assert signed_span(interval(0.01, 0.0001, 0.03)) == "+0.010 (+0.000 to +0.030)"
