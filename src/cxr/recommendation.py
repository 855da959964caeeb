"""Which variant to use, by a rule that reads validation alone, and how sure that is.

The rule: each variant calls at its operating point, the threshold of the highest precision on
validation among those with recall of at least `evaluate.min_recall` there; the variant with the
highest precision is recommended (of equal ones that with the higher recall, then ROC AUC).
"""

from dataclasses import dataclass
from typing import Any

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
        "These intervals take the thresholds as given, though they were chosen on the same images: "
        "choosing them anew in each draw would give wider ones.",
        _on_test(chosen, intervals, min_recall),
        "Training has its own chance, which no interval here holds: another seed gives another "
        "model.",
    ]
    return Recommendation(chosen, sentences)


def best_variant(evaluation: Metrics) -> str:
    """The variant that the rule gives."""
    return max(VARIANTS, key=lambda variant: _rank(evaluation[variant]))


def _rank(of_variant: Metrics) -> tuple[float, float, float]:
    point = of_variant["operating_point"]["val"]
    return point["precision"], point["recall"], of_variant["val"]["roc_auc"]


def _reason(chosen: str, evaluation: Metrics, min_recall: float) -> str:
    operating = evaluation[chosen]["operating_point"]
    point = operating["val"]
    reason = (
        f"**{chosen}** is recommended, with the threshold {operating['threshold']:.3f}: among the "
        f"variants at recall of at least {min_recall:g} on validation, it has the highest "
        f"precision there, {point['precision']:.3f} (recall {point['recall']:.3f})."
    )
    if point["specificity"] == 0:
        reason += " But it calls every image PNEUMONIA there: no variant is of use at that recall."
    return reason


def _comparison(chosen: str, other: str, intervals: Metrics) -> str:
    difference = signed_difference(intervals["val"]["differences"], chosen, other)
    found = difference["operating_point"]["precision"]
    if found["value"] == 0:
        return f"{other} has the same precision there; of equals, recall and then ROC AUC decide."
    verdict = (
        "which leaves out 0" if found["low"] > 0 else "which holds 0, so it may be chance"
    )
    return (
        f"Its precision there is {found['value']:.3f} higher than {other}'s "
        f"(95 % interval {found['low']:+.3f} to {found['high']:+.3f}), {verdict}."
    )


def signed_difference(differences: Metrics, first: str, second: str) -> Metrics:
    """`first - second`, whichever way round the pair was stored."""
    if (stored := differences.get(f"{first} - {second}")) is not None:
        return stored
    turned = differences[f"{second} - {first}"]
    return {key: _negative(value) for key, value in turned.items()}


def _negative(tree: Metrics) -> Metrics:
    if "value" in tree:
        value, low, high = (0.0 - tree[name] for name in ("value", "high", "low"))  # no -0.0
        return {"value": value, "low": low, "high": high}
    return {key: _negative(value) for key, value in tree.items()}


def _on_test(chosen: str, intervals: Metrics, min_recall: float) -> str:
    point = intervals["test"]["columns"][chosen]["operating_point"]
    recall, precision = (span(point[name]) for name in ("recall", "precision"))
    kept = "is kept" if point["recall"]["low"] >= min_recall else "may not be kept"
    if point["recall"]["high"] < min_recall:
        kept = "is not kept"
    return (
        f"On test, which had no part in the choice, that threshold gives recall {recall} and "
        f"precision {precision}: recall of {min_recall:g} {kept}."
    )


def signed_span(found: Metrics) -> str:
    """A difference with its interval; bold where the interval leaves out 0."""
    text = f"{found['value']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})"
    is_sure = round(found["low"], 3) > 0 or round(found["high"], 3) < 0
    return f"**{text}**" if is_sure else text


def span(found: Metrics) -> str:
    """Value and 95 % interval as text: `0.982 (0.968-0.994)`."""
    return f"{found['value']:.3f} ({found['low']:.3f}-{found['high']:.3f})"
