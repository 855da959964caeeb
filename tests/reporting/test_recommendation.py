"""The rule uses only the tuning set, and the report states its uncertainty."""

import itertools
from typing import Any

import pytest

from cxr.common.names import VARIANTS
from cxr.evaluation.selection import best_variant
from cxr.reporting.formatting import signed, signed_span, span
from cxr.reporting.recommendation import recommend, signed_difference

PAIRS = [(b, a) for a, b in itertools.combinations(VARIANTS, 2)]


def interval(value: float, low: float | None, high: float | None) -> dict[str, float | None]:
    return {"value": value, "low": low, "high": high}


def evaluation(**given: float) -> dict[str, Any]:
    """Of the given precision on validation, plain and stressed; 0.7 where none is given."""
    precision = dict.fromkeys(VARIANTS, 0.7) | given
    return {
        variant: {
            "selection": {"roc_auc": 0.9},
            "operating_point": {
                "threshold": 0.4,
                "selection": {
                    "precision": precision[variant],
                    "recall": 0.99,
                    "specificity": 0.5,
                },
                "test": {"precision": 1 - precision[variant], "recall": 0.5, "specificity": 0.5},
            },
        }
        for variant in VARIANTS
    }


def intervals(
    low: float = 0.01, recall: tuple[float | None, float | None] = (0.9, 0.99), ill: int = 200
) -> dict[str, Any]:
    differences = {
        f"{b} - {a}": {"operating_point": {"precision": interval(0.05, low, 0.09)}}
        for b, a in PAIRS
    }
    point = {"recall": interval(0.95, *recall), "precision": interval(0.8, 0.7, 0.9)}
    columns = {variant: {"operating_point": point} for variant in VARIANTS}
    picks = {"baseline": 60, "augmented": 4, "transfer": 936, "finetuned": 0, "ensemble": 0}
    return {
        "selection": {"differences": differences, "picks": picks},
        "test": {"columns": columns, "ill_patients": ill},
    }


@pytest.mark.parametrize("best", VARIANTS)
def test_highest_precision_on_the_tuning_set_is_recommended(best: str) -> None:
    precision = dict.fromkeys(VARIANTS, 0.8) | {best: 0.9}
    found = recommend(evaluation(**precision), intervals(), 0.98)
    assert found.variant == best  # though it is the worst on test
    assert f"**{best}** is recommended" in found.sentences[0]
    assert "0.900 (recall 0.990)" in found.sentences[0]


def test_ties_in_precision_are_broken_by_recall_then_roc_auc() -> None:
    metrics = evaluation(baseline=0.8, augmented=0.8, transfer=0.8)
    metrics["augmented"]["operating_point"]["selection"]["recall"] = 0.995
    assert best_variant(metrics) == "augmented"
    metrics["augmented"]["operating_point"]["selection"]["recall"] = 0.99
    metrics["transfer"]["selection"]["roc_auc"] = 0.95
    assert best_variant(metrics) == "transfer"


def test_insignificant_differences_are_reported() -> None:
    metrics = evaluation(baseline=0.8, augmented=0.8, transfer=0.85)
    sure = " ".join(recommend(metrics, intervals(low=0.01), 0.98).sentences)
    unsure = " ".join(recommend(metrics, intervals(low=-0.01), 0.98).sentences)
    assert "not significant" not in sure
    assert unsure.count("not significant") == len(VARIANTS) - 1
    assert "0.050 higher than baseline's (-0.010 to +0.090): the 95 % CI includes 0" in unsure


def test_equals_are_told() -> None:
    equal = intervals()
    for pair in equal["selection"]["differences"].values():
        pair["operating_point"]["precision"] = interval(0.0, 0.0, 0.0)
    metrics = evaluation(baseline=0.8, augmented=0.8, transfer=0.8)
    sentences = recommend(metrics, equal, 0.98).sentences
    assert (
        sum("has the same precision there" in sentence for sentence in sentences)
        == len(VARIANTS) - 1
    )


def test_a_difference_too_small_to_print_is_told() -> None:
    small = intervals()
    for pair in small["selection"]["differences"].values():
        pair["operating_point"]["precision"] = interval(0.0002, -0.0003, 0.04)
    metrics = evaluation(baseline=0.8, augmented=0.8, transfer=0.8002)
    text = " ".join(recommend(metrics, small, 0.98).sentences)
    sentence = "less than 0.001 higher than baseline's (0 to +0.040): the 95 % CI includes 0"
    assert sentence in text


@pytest.mark.parametrize(("best", "picks"), [("transfer", 936), ("baseline", 60)])
def test_fraction_of_resamples_that_select_it(best: str, picks: int) -> None:
    metrics = evaluation(**(dict.fromkeys(VARIANTS, 0.8) | {best: 0.9}))
    text = " ".join(recommend(metrics, intervals(), 0.98).sentences)
    assert f"{best} is selected in {picks} of 1000 bootstrap resamples" in text


@pytest.mark.parametrize(
    ("recall", "ill", "told"),
    [
        ((0.985, 1), 200, "recall of 0.98 is reached."),
        ((0.9, 0.99), 200, "recall of 0.98 may not be reached."),
        ((0.9, 0.97), 200, "recall of 0.98 is not reached."),
        ((0.9, 0.97), 20, "recall of 0.98 is not reached."),
        ((1, 1), 150, "recall of 0.98 is reached."),
        ((1, 1), 149, "too few positive patients (149)"),
        ((0.985, 1), 20, "too few positive patients (20)"),
        ((0, 0), 1, "too few positive patients (1)"),
        ((0.9, 0.99), 20, "(about 150 are needed, even without a false negative)"),
        ((None, None), 20, "too few positive patients (20)"),
    ],
)
def test_whether_test_keeps_the_recall(
    recall: tuple[float | None, float | None], ill: int, told: str
) -> None:
    metrics = evaluation(baseline=0.8, augmented=0.8, transfer=0.85)
    text = " ".join(recommend(metrics, intervals(recall=recall, ill=ill), 0.98).sentences)
    assert told in text
    assert ("too few" in told or "are needed" in told) == ("is reached (" in text)


def test_number_of_patients_needed_depends_on_the_recall() -> None:
    metrics = evaluation(baseline=0.8, augmented=0.8, transfer=0.85)
    shown = recommend(metrics, intervals(recall=(1, 1), ill=30), 0.9).sentences
    assert "recall of 0.9 is reached." in " ".join(shown)
    few = recommend(metrics, intervals(recall=(1, 1), ill=29), 0.9).sentences
    assert "(29) to decide whether recall of 0.9 is reached (about 30" in " ".join(few)


def test_no_number_of_patients_shows_perfect_recall() -> None:
    metrics = evaluation(baseline=0.8, augmented=0.8, transfer=0.85)
    text = " ".join(recommend(metrics, intervals(recall=(1, 1), ill=10**6), 1.0).sentences)
    assert "(no number is enough, even without a false negative)" in text


def test_a_variant_that_predicts_only_positives_is_unusable() -> None:
    metrics = evaluation(baseline=0.7, augmented=0.7, transfer=0.75)
    assert "usable" not in " ".join(recommend(metrics, intervals(), 0.98).sentences)
    metrics["transfer"]["operating_point"]["selection"]["specificity"] = 0
    assert "no variant is usable" in recommend(metrics, intervals(), 0.98).sentences[0]


def test_a_difference_is_turned_round() -> None:
    stored = {"b - a": {"roc_auc": interval(0.1, -0.05, 0.2)}}
    assert signed_difference(stored, "b", "a") == stored["b - a"]
    assert signed_difference(stored, "a", "b") == {"roc_auc": interval(-0.1, -0.2, 0.05)}


def test_a_difference_without_interval_is_turned_round() -> None:
    stored = {"b - a": {"precision": interval(0.1, None, None)}}
    assert signed_difference(stored, "a", "b") == {"precision": interval(-0.1, None, None)}


def test_texts_of_intervals() -> None:
    assert span(interval(0.9816, 0.97, 0.99)) == "0.982 (0.970-0.990)"
    assert span(interval(0, None, None)) == "0.000 (undefined)"
    assert signed_span(interval(0.01, -0.02, 0.03)) == "+0.010 (-0.020 to +0.030)"
    assert signed_span(interval(-0.02, -0.03, -0.01)) == "**-0.020 (-0.030 to -0.010)**"
    assert signed_span(interval(0.01, 0.0001, 0.03)) == "+0.010 (0 to +0.030)"
    assert signed_span(interval(-0.0001, -0.01, 0.0004)) == "= (-0.010 to 0)"
    assert signed_span(interval(0.8, None, None)) == "+0.800 (undefined)"


@pytest.mark.parametrize(
    ("difference", "shown"),
    [
        (0.25, "+0.250"),
        (-0.25, "-0.250"),
        (0.0, "="),
        (-0.0, "="),
        (0.0004, "="),
        (-0.0004, "="),
        (0.0006, "+0.001"),
    ],
)
def test_a_difference_that_rounds_to_0_has_no_sign(difference: float, shown: str) -> None:
    assert signed(difference) == shown
