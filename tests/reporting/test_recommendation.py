"""The rule uses only the tuning set, and the report states its uncertainty."""

import pytest

from cxr.common.names import VARIANTS
from cxr.evaluation.results import Evaluation, Intervals
from cxr.evaluation.selection import best_variant
from cxr.reporting.formatting import signed, signed_span, span
from cxr.reporting.recommendation import recommend
from tests.support import results
from tests.support.results import changed, interval


def evaluation(**given: float) -> Evaluation:
    """With the given precision on the tuning set; 0.7 where none is given."""
    values: dict[str, float] = {}
    for variant, precision in (dict.fromkeys(VARIANTS, 0.7) | given).items():
        point = f"{variant}.operating_point"
        values |= {f"{point}.tuning.precision": precision, f"{point}.tuning.recall": 0.99}
        values |= {f"{point}.test.precision": 1 - precision}
    return results.evaluation(values)


def intervals(
    low: float = 0.01,
    recall: tuple[float | None, float | None] = (0.9, 0.99),
    n_positive: int = 200,
    value: float = 0.05,
    high: float = 0.09,
) -> Intervals:
    """With the given interval of every difference of precision, and of recall on test."""
    values = {
        f"tuning.differences.{pair}.operating_point.precision": interval(value, low, high)
        for pair in results.intervals().tuning.differences
    }
    values |= {
        f"test.columns.{variant}.operating_point.recall": interval(0.95, *recall)
        for variant in VARIANTS
    }
    selected = {"baseline": 60, "augmented": 4, "transfer": 936, "finetuned": 0, "ensemble": 0}
    return results.intervals(
        {**values, "tuning.selected": selected, "test.positive_patients": n_positive}
    )


@pytest.mark.parametrize("best", VARIANTS)
def test_highest_precision_on_the_tuning_set_is_recommended(best: str) -> None:
    precision = dict.fromkeys(VARIANTS, 0.8) | {best: 0.9}
    found = recommend(evaluation(**precision), intervals(), 0.98)
    assert found.variant == best  # though it is the worst on test
    assert f"**{best}** is recommended" in found.sentences[0]
    assert "0.900 (recall 0.990)" in found.sentences[0]


def test_ties_in_precision_are_broken_by_recall_then_roc_auc() -> None:
    metrics = evaluation(baseline=0.8, augmented=0.8, transfer=0.8)
    higher_recall = {"augmented.operating_point.tuning.recall": 0.995}
    assert best_variant(changed(metrics, higher_recall)) == "augmented"
    assert best_variant(changed(metrics, {"transfer.tuning.roc_auc": 0.95})) == "transfer"


def test_insignificant_differences_are_reported() -> None:
    metrics = evaluation(baseline=0.8, augmented=0.8, transfer=0.85)
    sure = " ".join(recommend(metrics, intervals(low=0.01), 0.98).sentences)
    unsure = " ".join(recommend(metrics, intervals(low=-0.01), 0.98).sentences)
    assert "not significant" not in sure
    assert unsure.count("not significant") == len(VARIANTS) - 1
    assert "0.050 higher than baseline's (-0.010 to +0.090): the 95 % CI includes 0" in unsure


def test_equals_are_told() -> None:
    equal = intervals(value=0, low=0, high=0)
    metrics = evaluation(baseline=0.8, augmented=0.8, transfer=0.8)
    sentences = recommend(metrics, equal, 0.98).sentences
    assert (
        sum("has the same precision there" in sentence for sentence in sentences)
        == len(VARIANTS) - 1
    )


def test_a_difference_too_small_to_print_is_told() -> None:
    small = intervals(value=0.0002, low=-0.0003, high=0.04)
    metrics = evaluation(baseline=0.8, augmented=0.8, transfer=0.8002)
    text = " ".join(recommend(metrics, small, 0.98).sentences)
    sentence = "less than 0.001 higher than baseline's (0 to +0.040): the 95 % CI includes 0"
    assert sentence in text


@pytest.mark.parametrize(("best", "count"), [("transfer", 936), ("baseline", 60)])
def test_fraction_of_resamples_that_select_it(best: str, count: int) -> None:
    metrics = evaluation(**(dict.fromkeys(VARIANTS, 0.8) | {best: 0.9}))
    text = " ".join(recommend(metrics, intervals(), 0.98).sentences)
    assert f"{best} is selected in {count} of 1000 bootstrap resamples" in text


@pytest.mark.parametrize(
    ("recall", "n_positive", "told"),
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
    recall: tuple[float | None, float | None], n_positive: int, told: str
) -> None:
    metrics = evaluation(baseline=0.8, augmented=0.8, transfer=0.85)
    text = " ".join(
        recommend(metrics, intervals(recall=recall, n_positive=n_positive), 0.98).sentences
    )
    assert told in text
    assert ("too few" in told or "are needed" in told) == ("is reached (" in text)


def test_number_of_patients_needed_depends_on_the_recall() -> None:
    metrics = evaluation(baseline=0.8, augmented=0.8, transfer=0.85)
    shown = recommend(metrics, intervals(recall=(1, 1), n_positive=30), 0.9).sentences
    assert "recall of 0.9 is reached." in " ".join(shown)
    few = recommend(metrics, intervals(recall=(1, 1), n_positive=29), 0.9).sentences
    assert "(29) to decide whether recall of 0.9 is reached (about 30" in " ".join(few)


def test_no_number_of_patients_shows_perfect_recall() -> None:
    metrics = evaluation(baseline=0.8, augmented=0.8, transfer=0.85)
    text = " ".join(recommend(metrics, intervals(recall=(1, 1), n_positive=10**6), 1.0).sentences)
    assert "(no number is enough, even without a false negative)" in text


def test_a_variant_that_predicts_only_positives_is_unusable() -> None:
    metrics = evaluation(baseline=0.7, augmented=0.7, transfer=0.75)
    assert "usable" not in " ".join(recommend(metrics, intervals(), 0.98).sentences)
    useless = changed(metrics, {"transfer.operating_point.tuning.specificity": 0})
    assert "no variant is usable" in recommend(useless, intervals(), 0.98).sentences[0]


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
