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


def text_of(metrics: Evaluation, found: Intervals, min_recall: float = 0.98) -> str:
    return " ".join(recommend(metrics, found, min_recall).sentences)


TRANSFER = evaluation(transfer=0.85)


@pytest.mark.parametrize(
    ("best", "count"),
    [("baseline", 60), ("augmented", 4), ("transfer", 936), ("finetuned", 0), ("ensemble", 0)],
)
def test_highest_precision_on_the_tuning_set_is_recommended(best: str, count: int) -> None:
    found = recommend(evaluation(**{best: 0.9}), intervals(), 0.98)
    assert found.variant == best  # though it is the worst on test
    assert f"**{best}** is recommended" in found.sentences[0]
    assert "0.900 (recall 0.990)" in found.sentences[0]
    selected = f"{best} is selected in {count} of 1000 bootstrap resamples"
    assert selected in " ".join(found.sentences)


def test_ties_in_precision_are_broken_by_recall_then_roc_auc() -> None:
    higher_recall = {"augmented.operating_point.tuning.recall": 0.995}
    assert best_variant(changed(evaluation(), higher_recall)) == "augmented"
    assert best_variant(changed(evaluation(), {"transfer.tuning.roc_auc": 0.95})) == "transfer"


@pytest.mark.parametrize(
    ("value", "low", "high", "sentence"),
    [
        (0.05, 0.01, 0.09, "is 0.050 higher than {} (+0.010 to +0.090): the 95 % CI excludes 0."),
        (0.05, -0.01, 0.09, "0.050 higher than {} (-0.010 to +0.090): the 95 % CI includes 0 (not"),
        (0.0002, -0.0003, 0.04, "less than 0.001 higher than {} (0 to +0.040): the 95 % CI incl"),
    ],
)
def test_the_lead_in_precision_is_reported_with_its_significance(
    value: float, low: float, high: float, sentence: str
) -> None:
    text = text_of(TRANSFER, intervals(low, value=value, high=high))
    for other in ("baseline", "augmented"):
        assert sentence.format(f"{other}'s") in text


def test_equal_precision_is_reported() -> None:
    text = text_of(evaluation(), intervals(value=0, low=0, high=0))
    assert text.count("has the same precision there") == len(VARIANTS) - 1


@pytest.mark.parametrize(
    ("recall", "n_positive", "min_recall", "statement"),
    [
        ((0.985, 1), 200, 0.98, "recall of 0.98 is reached."),
        ((0.9, 0.99), 200, 0.98, "recall of 0.98 may not be reached."),
        ((0.9, 0.97), 200, 0.98, "recall of 0.98 is not reached."),
        ((0.9, 0.97), 20, 0.98, "recall of 0.98 is not reached."),
        ((1, 1), 150, 0.98, "recall of 0.98 is reached."),
        ((1, 1), 149, 0.98, "(149) to decide whether recall of 0.98 is reached (about 150 are"),
        ((0.985, 1), 20, 0.98, "too few positive patients (20)"),
        ((0, 0), 1, 0.98, "too few positive patients (1)"),
        ((None, None), 20, 0.98, "too few positive patients (20)"),
        ((1, 1), 30, 0.9, "recall of 0.9 is reached."),
        ((1, 1), 29, 0.9, "(29) to decide whether recall of 0.9 is reached (about 30 are needed"),
        ((1, 1), 10**6, 1.0, "(no number is enough, even without a false negative)"),
    ],
)
def test_whether_test_reaches_the_recall(
    recall: tuple[float | None, float | None], n_positive: int, min_recall: float, statement: str
) -> None:
    text = text_of(TRANSFER, intervals(recall=recall, n_positive=n_positive), min_recall)
    assert statement in text
    assert ("too few" in text) == ("is reached (" in text)


def test_a_variant_that_predicts_only_positives_is_unusable() -> None:
    useless = changed(TRANSFER, {"transfer.operating_point.tuning.specificity": 0})
    assert "usable" not in text_of(TRANSFER, intervals())
    assert "no variant is usable" in text_of(useless, intervals())


def test_texts_of_intervals() -> None:
    assert span(interval(0.9816, 0.97, 0.99)) == "0.982 (0.970-0.990)"
    assert span(interval(0, None, None)) == "0.000 (undefined)"
    assert signed_span(interval(0.01, -0.02, 0.03)) == "+0.010 (-0.020 to +0.030)"
    assert signed_span(interval(-0.02, -0.03, -0.01)) == "**-0.020 (-0.030 to -0.010)**"
    assert signed_span(interval(0.01, 0.0001, 0.03)) == "+0.010 (0 to +0.030)"
    assert signed_span(interval(-0.0001, -0.01, 0.0004)) == "= (-0.010 to 0)"
    assert signed_span(interval(0.8, None, None)) == "+0.800 (undefined)"


@pytest.mark.parametrize("difference", [0.0, -0.0, 0.0004, -0.0004])
def test_a_difference_that_rounds_to_0_has_no_sign(difference: float) -> None:
    assert signed(difference) == "="
