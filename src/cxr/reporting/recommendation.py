"""The recommended variant, chosen on the tuning set (validation and stress-test set together).

The rule: each variant predicts at its operating point, the threshold with the highest precision
among those with recall of at least `evaluate.min_recall`; the variant with the highest precision
is recommended (ties: higher recall, then higher ROC AUC, then the order of `VARIANTS`).
"""

import math
from dataclasses import dataclass

from cxr.common.names import VARIANTS
from cxr.evaluation.bootstrap import DECIMALS, is_significant
from cxr.evaluation.results import Evaluation, Interval, Intervals
from cxr.evaluation.selection import best_variant
from cxr.reporting.formatting import limits, signed, span


@dataclass(frozen=True)
class Recommendation:
    """The recommended variant, and sentences on the reason and its uncertainty."""

    variant: str
    sentences: list[str]


def recommend(evaluation: Evaluation, intervals: Intervals, min_recall: float) -> Recommendation:
    """Apply the rule.

    Args:
        evaluation: metrics of all variants.
        intervals: their intervals.
        min_recall: recall that the operating points were chosen for, 0 to 1.
    """
    chosen = best_variant(evaluation)
    sentences = [
        _reason(chosen, evaluation, min_recall),
        *(_comparison(chosen, v, intervals) for v in VARIANTS if v != chosen),
        _picks(chosen, intervals),
        _on_test(chosen, intervals, min_recall),
        "The intervals do not include training variance (seed).",
    ]
    return Recommendation(chosen, sentences)


def _reason(chosen: str, evaluation: Evaluation, min_recall: float) -> str:
    operating = evaluation.variants[chosen].operating_point
    point = operating.tuning
    reason = (
        f"**{chosen}** is recommended at threshold {operating.threshold:.3f}: at recall of at "
        f"least {min_recall:g} on the tuning set (validation and stress-test set together), it "
        f"has the highest precision there, {point.precision:.3f} "
        f"(recall {point.recall:.3f})."
    )
    if point.specificity == 0:
        reason += " But it predicts PNEUMONIA for every image: no variant is usable at this recall."
    return reason


def _comparison(chosen: str, other: str, intervals: Intervals) -> str:
    found = intervals.tuning.precision_difference(chosen, other)
    if found.value == 0:
        return (
            f"{other} has the same precision there; ties are broken by recall, then ROC AUC, then "
            "the order in the tables."
        )
    more = signed(found.value).removeprefix("+").replace("=", f"less than {10**-DECIMALS:g}")
    verdict = "excludes 0" if is_significant(found) else "includes 0 (not significant)"
    return (
        f"Its precision there is {more} higher than {other}'s "
        f"({limits(found)}): the 95 % CI {verdict}."
    )


def _picks(chosen: str, intervals: Intervals) -> str:
    selected = intervals.tuning.selected
    resamples = sum(selected.values())
    return (
        f"{chosen} is selected in {selected[chosen]} of {resamples} bootstrap resamples; "
        "each resample includes the choice of the thresholds, here and in the CIs above."
    )


def _on_test(chosen: str, intervals: Intervals, min_recall: float) -> str:
    test = intervals.test
    point = test.columns[chosen].operating_point
    recall, precision = span(point.recall), span(point.precision)
    verdict = recall_statement(point.recall, test.positive_patients, min_recall)
    return (
        "On the test set, which was not used for this choice, the threshold gives "
        f"recall {recall} and precision {precision}: {verdict}"
    )


def recall_statement(
    recall: Interval, n_positive: int, min_recall: float, there: str = "test has"
) -> str:
    """Whether the recall chosen on the tuning set is reached elsewhere. Bootstrap intervals of few
    patients are too narrow, above all without a false negative; by the rule of three (Hanley and
    Lippman-Hand 1983), n patients without a false negative show at 95 % a recall of at most
    1 - 3 / n.
    """
    low, high = recall.low, recall.high
    if low is not None and high is not None and low < high < min_recall:
        return f"recall of {min_recall:g} is not reached."
    needed = math.ceil(round(3 / (1 - min_recall), 6)) if min_recall < 1 else math.inf
    if n_positive < needed:
        takes = f"about {needed} are needed" if min_recall < 1 else "no number is enough"
        return (
            f"{there} too few positive patients ({n_positive}) to decide whether recall of "
            f"{min_recall:g} is reached ({takes}, even without a false negative)."
        )
    is_kept = low is not None and low >= min_recall
    return f"recall of {min_recall:g} {'is reached' if is_kept else 'may not be reached'}."
