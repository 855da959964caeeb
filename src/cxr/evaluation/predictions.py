"""Predictions of every variant, and their metrics."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr import paths
from cxr.common.arrays import Split, batches, open_rows, open_split
from cxr.common.names import EVALUATED, REGISTRY, TRAINED, TUNING, VARIANTS, CachedInput
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
from cxr.progress import Meter

BATCH_SIZE = 32  # images; does not affect the result


def load_model(path: Path) -> keras.Model:
    """Load a saved model for prediction. It may contain built-in layers of Keras only: code in the
    file is refused, not run.

    Raises:
        CxrError: the file is missing or damaged, or contains anything else.
    """
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # what is in the file decides where in Keras it fails
        reason = textwrap.shorten(str(error), 200)
        raise CxrError(
            f"{path} is damaged or contains more than Keras layers; run `dvc repro` ({reason})"
        ) from error


def predict(model: keras.Model, rows: NDArray[Any]) -> Any:
    """Probability of PNEUMONIA for each row, float64 (N,), each row exactly once.

    Args:
        model: returns the probability (N, 1).
        rows: its input (N, ...); float16 is converted to float32 batch by batch.

    Raises:
        CxrError: a probability is NaN.
    """
    stacked = (np.stack(batch, dtype=model.input.dtype) for batch in batches(rows, BATCH_SIZE))
    probabilities = np.concatenate([model.predict_on_batch(batch) for batch in stacked])[:, 0]
    if np.isnan(probabilities).any():
        raise CxrError(
            f"model {model.name} predicts NaN; train it again with a smaller learning rate"
        )
    return probabilities.astype(np.float64)


def predict_from_features(
    model: keras.Model, split: Split, rows: NDArray[Any], cached: CachedInput, variant: str
) -> Any:
    """Probabilities of a variant from cached features, without running the backbone.

    The first batch is also predicted by the whole model, which detects features of another
    backbone, weights file or order of images.

    Args:
        model: the whole model, with the trained part as a layer.
        split: the images.
        rows: cached features (V, N, ...) for V views of the images; probabilities are averaged.
        cached: describes the features.
        variant: name of the model.

    Raises:
        CxrError: features and model do not match.
    """
    trained = model.get_layer(cached.layer)
    probabilities = np.mean([predict(trained, block) for block in rows], axis=0)
    whole = predict(model, split.images[:BATCH_SIZE, ..., np.newaxis])
    if not np.allclose(whole, probabilities[: len(whole)], atol=cached.tolerance):
        raise CxrError(
            f"{cached.path('').parent} and {paths.model(variant)} do not match; "
            f"run `dvc repro --force {cached.stage}`"
        )
    return probabilities


def predict_split(model: keras.Model, variant: str, name: str, split: Split) -> Any:
    """Probabilities of one variant for the images of a split."""
    if (cached := REGISTRY[variant].cached) is None:
        return predict(model, split.images[..., np.newaxis])
    rows = open_rows(cached.path(name))
    views = rows if cached.has_views else rows[np.newaxis]
    return predict_from_features(model, split, views, cached, variant)


def predict_all() -> pd.DataFrame:
    """One row per image of validation, stress-test set and test: path, patient, split, label,
    pathogen, condition (of the stress-test set, else plain), and a probability per trained variant.
    """
    models = {variant: load_model(paths.model(variant)) for variant in TRAINED}
    names = dict.fromkeys((*TUNING, *EVALUATED))
    splits = {name: open_split(paths.ARRAYS / name) for name in names}
    tables = []
    count = len(models) * sum(len(split.index) for split in splits.values())
    with Meter("evaluate", count, "predictions") as meter:
        for name, split in splits.items():
            table = split.index[["path", "patient", "label", "pathogen"]].copy()
            table.insert(2, "split", name)
            table["condition"] = split.index.get("condition", "plain")
            for variant, model in models.items():
                table[variant] = predict_split(model, variant, name, split)
                meter.advance(len(split.index))
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def evaluate(
    predictions: pd.DataFrame,
    min_recall: float,
    prevalence: float,
    scales: Mapping[str, Scale] | None = None,
) -> Evaluation:
    """Metrics of every variant at threshold 0.5 and at its operating point, which is chosen on the
    tuning set.

    Args:
        predictions: as `predict_all` returns them, with a column for each variant.
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
