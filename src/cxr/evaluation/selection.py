"""The rule that chooses the recommended variant."""

from cxr.common.names import VARIANTS
from cxr.evaluation.metrics import best_index
from cxr.evaluation.results import Evaluation


def best_variant(evaluation: Evaluation) -> str:
    """The variant that the rule of `cxr.reporting.recommendation` selects on the tuning set."""
    metrics = [evaluation.variants[variant] for variant in VARIANTS]
    selected = best_index(
        [of.operating_point.tuning.precision for of in metrics],
        [of.operating_point.tuning.recall for of in metrics],
        [of.tuning.roc_auc for of in metrics],
    )
    return VARIANTS[int(selected)]
