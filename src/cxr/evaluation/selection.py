"""The rule that chooses the recommended variant."""

from typing import Any

from cxr.common.names import VARIANTS
from cxr.evaluation.metrics import best_index


def best_variant(evaluation: dict[str, Any]) -> str:
    """The variant that the rule of `cxr.reporting.recommendation` picks, by selection alone."""
    points = [evaluation[variant]["operating_point"]["selection"] for variant in VARIANTS]
    picked = best_index(
        [point["precision"] for point in points],
        [point["recall"] for point in points],
        [evaluation[variant]["selection"]["roc_auc"] for variant in VARIANTS],
    )
    return VARIANTS[int(picked)]
