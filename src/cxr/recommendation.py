"""Which variant to use, by a rule that reads validation alone, and how sure that is.

The rule: each variant calls at its operating point, the threshold of the highest precision on
plain and stressed validation together among those with recall of at least `evaluate.min_recall`
there; the variant with the highest precision is recommended (of equal ones that with the higher
recall, then ROC AUC, then the first).
"""

import math
from dataclasses import dataclass
from typing import Any

from cxr.comparison import best_variant
from cxr.intervals import DECIMALS, Interval, is_sure
from cxr.variants import VARIANTS

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Recommendation:
    """The recommended variant, and the sentences that say why and how sure it is."""

    variant: str
    sentences: list[str]


def recommend(evaluation: Metrics, intervals: Metrics, min_recall: float) -> Recommendation:
    """Apply the rule.

    Args:
        evaluation: content of metrics/evaluation.json.
        intervals: content of metrics/intervals.json.
        min_recall: recall that the operating points were chosen for, 0 to 1.
    """
    chosen = best_variant(evaluation)
    sentences = [
        _reason(chosen, evaluation, min_recall),
        *(_comparison(chosen, v, intervals) for v in VARIANTS if v != chosen),
        _picks(chosen, intervals),
        _on_test(chosen, intervals, min_recall),
        "Training has its own chance, which no interval here holds: another seed gives another "
        "model.",
    ]
    return Recommendation(chosen, sentences)


def _reason(chosen: str, evaluation: Metrics, min_recall: float) -> str:
    operating = evaluation[chosen]["operating_point"]
    point = operating["selection"]
    reason = (
        f"**{chosen}** is recommended, with the threshold {operating['threshold']:.3f}: among the "
        f"variants at recall of at least {min_recall:g} on validation, plain and stressed, it has "
        f"the highest precision there, {point['precision']:.3f} (recall {point['recall']:.3f})."
    )
    if point["specificity"] == 0:
        reason += " But it calls every image PNEUMONIA there: no variant is of use at that recall."
    return reason


def _comparison(chosen: str, other: str, intervals: Metrics) -> str:
    difference = signed_difference(intervals["selection"]["differences"], chosen, other)
    found = difference["operating_point"]["precision"]
    if found["value"] == 0:
        return (
            f"{other} has the same precision there; of equals, recall decides, then ROC AUC, then "
            "the order in the tables."
        )
    more = signed(found["value"]).removeprefix("+").replace("=", f"less than {10**-DECIMALS:g}")
    verdict = "leaves out 0" if is_sure(found) else "holds 0, so it may be chance"
    return (
        f"Its precision there is {more} higher than {other}'s "
        f"(95 % interval {_limits(found)}), which {verdict}."
    )


def _picks(chosen: str, intervals: Metrics) -> str:
    picks = intervals["selection"]["picks"]
    return (
        f"The rule picks {chosen} in {picks[chosen]} of {sum(picks.values())} draws of patients; "
        "each draw chooses the thresholds anew, here and in the intervals above."
    )


def signed_difference(differences: Metrics, first: str, second: str) -> Metrics:
    """`first - second`, whichever way round the pair was stored."""
    if (stored := differences.get(f"{first} - {second}")) is not None:
        return stored
    turned = differences[f"{second} - {first}"]
    return {key: _negative(value) for key, value in turned.items()}


def _negative(tree: Metrics) -> Metrics:
    if "value" not in tree:
        return {key: _negative(value) for key, value in tree.items()}
    turned = {"value": tree["value"], "low": tree["high"], "high": tree["low"]}
    return {name: None if x is None else 0.0 - x for name, x in turned.items()}  # no -0.0


def _on_test(chosen: str, intervals: Metrics, min_recall: float) -> str:
    test = intervals["test"]
    point = test["columns"][chosen]["operating_point"]
    recall, precision = (span(point[name]) for name in ("recall", "precision"))
    return (
        f"On test, which had no part in the choice, that threshold gives recall {recall} and "
        f"precision {precision}: {kept(point['recall'], test['ill_patients'], min_recall)}"
    )


def kept(recall: Interval, ill_patients: int, min_recall: float, there: str = "test has") -> str:
    """Whether the recall that was chosen on validation is kept elsewhere. A bootstrap of few
    patients is too sure, most of all where none is missed; by the rule of three (Hanley and
    Lippman-Hand 1983), n patients without a miss show at 95 % no more than recall of 1 - 3 / n.
    """
    low, high = recall["low"], recall["high"]
    if low is not None and high is not None and low < high < min_recall:
        return f"recall of {min_recall:g} is not kept."
    needed = math.ceil(round(3 / (1 - min_recall), 6)) if min_recall < 1 else math.inf
    if ill_patients < needed:
        takes = f"it takes about {needed}" if min_recall < 1 else "no number is enough"
        return (
            f"{there} too few patients with pneumonia ({ill_patients}) to tell whether recall of "
            f"{min_recall:g} is kept ({takes}, even where none is missed)."
        )
    is_kept = low is not None and low >= min_recall
    return f"recall of {min_recall:g} {'is kept' if is_kept else 'may not be kept'}."


def signed(difference: float) -> str:
    """A difference as text, `+0.012` or `-0.012`; `=` where it rounds to 0."""
    return f"{difference:+.{DECIMALS}f}" if round(difference, DECIMALS) else "="


def signed_span(found: Interval) -> str:
    """A difference with its interval; bold where the interval leaves out 0."""
    text = f"{signed(found['value'])} ({_limits(found)})"
    return f"**{text}**" if is_sure(found) else text


def _limits(found: Interval) -> str:
    low, high = found["low"], found["high"]
    if low is None or high is None:
        return "no case to count"
    return " to ".join(signed(limit).replace("=", "0") for limit in (low, high))


def span(found: Interval) -> str:
    """Value and 95 % interval as text: `0.982 (0.968-0.994)`."""
    if found["low"] is None:
        return f"{found['value']:.{DECIMALS}f} (no case to count)"
    value, low, high = (f"{found[name]:.{DECIMALS}f}" for name in ("value", "low", "high"))
    return f"{value} ({low}-{high})"
