"""Metrics, curves and confusion counts of predictions at thresholds that are given, whoever made
the predictions: the pipeline of its own splits, `cxr evaluate` of a folder.
"""

from typing import Any

import pandas as pd

from cxr import scores
from cxr.variants import VARIANTS

POINTS = {"at_half": "at 0.5", "operating_point": "operating point"}  # thresholds, as told
# Short, as DVC puts one column beside the other.
SHORT_NAMES = {"recall": "rec", "precision": "pre", "accuracy": "acc"}


def metrics(y_true: scores.Labels, y_prob: scores.Probabilities) -> dict[str, float]:
    """Counts and rates at 0.5, and what needs no threshold: ranking and calibration.

    Args:
        y_true: int (N,), 1 is PNEUMONIA; both classes.
        y_prob: float (N,), 0 to 1.
    """
    return {
        **scores.at_threshold(y_true, y_prob, scores.HALF),
        **scores.ranking(y_true, y_prob),
        **scores.calibration(y_true, y_prob),
    }


def rates(
    y_true: scores.Labels, y_prob: scores.Probabilities, threshold: float, prevalence: float
) -> dict[str, float]:
    """accuracy, precision, recall, specificity at a threshold, and the predictive values ppv and
    npv where the share `prevalence` of the patients is ill; all 0 to 1.
    """
    found = scores.at_threshold(y_true, y_prob, threshold)
    shown = {name: found[name] for name in ("accuracy", "precision", "recall", "specificity")}
    values = scores.predictive_values(shown["recall"], shown["specificity"], prevalence)
    return {**shown, **{name: float(value) for name, value in values.items()}}


def best_variant(evaluation: dict[str, Any]) -> str:
    """The variant that the rule of `cxr.recommendation` picks, by selection alone."""
    points = [evaluation[variant]["operating_point"]["selection"] for variant in VARIANTS]
    picked = scores.best(
        [point["precision"] for point in points],
        [point["recall"] for point in points],
        [evaluation[variant]["selection"]["roc_auc"] for variant in VARIANTS],
    )
    return VARIANTS[int(picked)]


def summary(evaluation: dict[str, Any]) -> dict[str, Any]:
    """The numbers that DVC compares, for metrics/summary.json.

    DVC shows them as columns such as `b.rec`: the initial of the variant, then `rec`, `pre` and
    `acc` (recall, precision and accuracy on test at the operating point), `auc` (ROC AUC on test)
    and `sel`, the ROC AUC to choose by: that on plain and stressed validation together.

    Args:
        evaluation: content of metrics/evaluation.json.

    Returns:
        Numbers from 0 to 1 with 3 decimals: enough to tell one image of 624, and a fourth would
        make DVC's tables too wide.
    """
    found: dict[str, Any] = {}
    for variant in VARIANTS:
        rates = evaluation[variant]["operating_point"]["test"]
        numbers = {short: rates[name] for name, short in SHORT_NAMES.items()}
        numbers["auc"] = evaluation[variant]["test"]["roc_auc"]
        numbers["sel"] = evaluation[variant]["selection"]["roc_auc"]
        found[variant[0]] = {name: round(value, 3) for name, value in numbers.items()}
    return found


def curves(images: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Curves of every variant over some images: tables `roc` and `precision_recall`.

    Args:
        images: columns label, and for each variant the probability of PNEUMONIA.
    """
    makers = {"roc": scores.roc_curve, "precision_recall": scores.precision_recall_curve}
    return {
        name: pd.concat([maker(*scores.pair(images, v)).assign(variant=v) for v in VARIANTS]).round(
            5
        )
        for name, maker in makers.items()
    }


def confusions(images: pd.DataFrame, evaluation: dict[str, Any]) -> pd.DataFrame:
    """Confusion matrices: columns variant, threshold (name), actual, predicted, images.

    Args:
        images: as `curves` takes them.
        evaluation: holds each variant's `operating_point` with its `threshold`.
    """
    rows = []
    for variant in VARIANTS:
        chosen = evaluation[variant]["operating_point"]["threshold"]
        for name, threshold in zip(POINTS.values(), (scores.HALF, chosen), strict=True):
            cells = scores.confusion(*scores.pair(images, variant), threshold)
            rows += [{"variant": variant, "threshold": name, **cell} for cell in cells]
    return pd.DataFrame(rows)
