"""Predictions of every variant in one table, and their metrics."""

from collections.abc import Mapping

import pandas as pd

from cxr import paths
from cxr.common.names import EVALUATED, TRAINED, TUNING, VARIANTS
from cxr.errors import CxrError
from cxr.evaluation import metrics
from cxr.evaluation.calibration import Scale
from cxr.evaluation.results import (
    Accuracy,
    Evaluation,
    MajorityMetrics,
    OperatingPoint,
    StressMetrics,
    VariantMetrics,
)

INDEX = ["path", "patient", "split", "label", "pathogen", "condition"]


def merge() -> pd.DataFrame:
    """One row per image of validation, stress-test set and test: path, patient, split, label,
    pathogen, condition (of the stress-test set, else plain), and a probability per trained variant.

    Raises:
        CxrError: a variant's table is missing or damaged, or has other images than the first.
    """
    tables = {variant: _table(variant) for variant in TRAINED}
    merged = tables[TRAINED[0]][INDEX].copy()
    for variant, table in tables.items():
        if not table[INDEX].equals(merged[INDEX]):
            raise CxrError(
                f"{paths.predictions(variant)} is of other images than "
                f"{paths.predictions(TRAINED[0])}; run `dvc repro`"
            )
        merged[variant] = table["probability"]
    return merged


def _table(variant: str) -> pd.DataFrame:
    path = paths.predictions(variant)
    try:
        text = dict.fromkeys(INDEX, str)
        table = pd.read_csv(path, dtype=text, keep_default_na=False)
        return table[[*INDEX, "probability"]]
    except (OSError, ValueError, KeyError) as error:
        stage = f"predict@{variant}"
        raise CxrError(f"{path} cannot be read ({error}); run `dvc repro {stage}`") from error


def evaluate(
    predictions: pd.DataFrame,
    min_recall: float,
    prevalence: float,
    scales: Mapping[str, Scale] | None = None,
) -> Evaluation:
    """Metrics of every variant at threshold 0.5 and at its operating point, which is chosen on the
    tuning set.

    Args:
        predictions: as `merge` returns them, with a column for each variant.
        min_recall: recall that the operating point must reach on the tuning set, 0 to 1.
        prevalence: for the predictive values, 0 to 1.
        scales: Platt scaling of each member of the ensemble, to be stored with its metrics.
    """
    variants = {}
    for variant in VARIANTS:
        data = {split: metrics.columns(predictions, split, variant) for split in EVALUATED}
        data["tuning"] = metrics.columns(predictions, TUNING, variant)
        threshold = metrics.operating_threshold(*data["tuning"], min_recall)
        rates = {
            split: metrics.operating_rates(*pair, threshold, prevalence)
            for split, pair in data.items()
        }
        variants[variant] = VariantMetrics(
            **{split: metrics.classification_metrics(*pair) for split, pair in data.items()},
            operating_point=OperatingPoint(threshold=threshold, **rates),
            stress=_stress(predictions, variant, threshold),
            scales=dict(scales or {}) if variant == "ensemble" else {},
        )
    majority = {
        split: Accuracy(accuracy=metrics.columns(predictions, split, VARIANTS[0])[0].mean())
        for split in EVALUATED
    }
    return Evaluation(variants=variants, majority=MajorityMetrics(**majority))


def _stress(predictions: pd.DataFrame, variant: str, threshold: float) -> dict[str, StressMetrics]:
    """Metrics of a variant by condition of the stress-test set."""
    result = {}
    for condition, rows in predictions[predictions["split"] == "stress"].groupby("condition"):
        pair = metrics.columns(rows, "stress", variant)
        rates = metrics.at_threshold(*pair, threshold)
        result[str(condition)] = StressMetrics(
            roc_auc=metrics.ranking(*pair)["roc_auc"],
            recall=rates["recall"],
            specificity=rates["specificity"],
        )
    return result
