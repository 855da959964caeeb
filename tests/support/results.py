"""Complete records of results with made-up numbers."""

import itertools
from collections.abc import Mapping
from typing import Any, TypeVar

from cxr.common.names import VARIANTS
from cxr.evaluation.results import (
    Evaluation,
    Interval,
    Intervals,
    OperatingRates,
    RateDifferences,
    RateIntervals,
    Record,
    SplitMetrics,
    StressMetrics,
)

R = TypeVar("R", bound=Record)
NONE: Mapping[str, Any] = {}


def changed(record: R, values: Mapping[str, Any]) -> R:
    """The same with other values, by their place in the file, such as `transfer.test.recall`."""
    content = record.model_dump()
    for key, value in values.items():
        *above, name = key.split(".")
        place = content
        for section in above:
            place = place[section]
        place[name] = value
    return type(record).model_validate(content)


def interval(value: float, low: float | None, high: float | None) -> Interval:
    return Interval(value=value, low=low, high=high)


def evaluation(values: Mapping[str, Any] = NONE) -> Evaluation:
    """All rates 0.5, but for the given ones."""
    split = dict.fromkeys(SplitMetrics.model_fields, 0.5)
    split |= dict.fromkeys(("n", "tn", "fp", "fn", "tp"), 10)
    rates = dict.fromkeys(OperatingRates.model_fields, 0.5)
    names = ("val", "test", "tuning")
    stress = dict.fromkeys(StressMetrics.model_fields, 0.5)
    variant = dict.fromkeys(names, split) | {
        "operating_point": {"threshold": 0.4} | dict.fromkeys(names, rates),
        "stress": dict.fromkeys(("dark", "low_quality"), stress),
    }
    majority = {split: {"accuracy": 0.5} for split in ("val", "test")}
    content = dict.fromkeys(VARIANTS, variant) | {"majority": majority}
    return changed(Evaluation.model_validate(content), values)


def intervals(values: Mapping[str, Any] = NONE) -> Intervals:
    """All metrics 0.5, all differences 0.1, but for the given ones."""
    metric = {"value": 0.5, "low": 0.4, "high": 0.6}
    rates = dict.fromkeys(RateIntervals.model_fields, metric)
    column = dict.fromkeys(("roc_auc", "average_precision", "brier"), metric)
    column |= {"at_half": rates, "operating_point": rates}
    gap = {"value": 0.1, "low": 0.05, "high": 0.15}
    gaps = dict.fromkeys(RateDifferences.model_fields, gap)
    difference = {"at_half": gaps, "operating_point": gaps, "roc_auc": gap}
    pairs = [f"{b} - {a}" for a, b in itertools.combinations(VARIANTS, 2)]
    split = {
        "columns": dict.fromkeys(VARIANTS, column),
        "differences": dict.fromkeys(pairs, difference),
        "positive_patients": 200,
    }
    content = {
        "val": split,
        "test": split,
        "tuning": split | {"selected": dict.fromkeys(VARIANTS, 1)},
    }
    return changed(Intervals.model_validate(content), values)
