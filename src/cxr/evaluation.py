"""Predictions of every variant, and the tables that `scores` makes of them."""

from typing import Any

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr import paths, scores
from cxr.arrays import Split, open_split
from cxr.datasets import Batches
from cxr.errors import CxrError
from cxr.variants import EVALUATED, VARIANTS

BATCH_SIZE = 32  # images; of no influence on the result


def predict(model: keras.Model, rows: NDArray[Any], labels: NDArray[np.int64]) -> Any:
    """Probability of PNEUMONIA for each row, float64 (N,), each row exactly once.

    Raises:
        CxrError: a probability is not a number.
    """
    probabilities = model.predict(Batches(rows, labels, BATCH_SIZE), verbose=0)[:, 0]
    if np.isnan(probabilities).any():
        raise CxrError(f"model {model.name} gives NaN; train it again with a smaller learning rate")
    return probabilities.astype(np.float64)


def predict_transfer(model: keras.Model, split: Split, features: NDArray[np.float32]) -> Any:
    """Probabilities of the transfer variant from cached features, which saves the backbone's run.

    The first images go through the whole model as well, so that features of another backbone,
    weights file or order cannot slip in.

    Raises:
        CxrError: features and images do not belong together.
    """
    probabilities = predict(model.get_layer("head"), features, split.labels)
    whole = predict(model, split.images[:BATCH_SIZE], split.labels[:BATCH_SIZE])
    if not np.allclose(whole, probabilities[: len(whole)], atol=1e-3):
        raise CxrError(
            "data/features and models/transfer.keras do not belong together; "
            "run `dvc repro --force extract_features`"
        )
    return probabilities


def predict_all() -> pd.DataFrame:
    """One row per image of validation and test: path, patient, split, label, pathogen, and the
    probability that each variant gives.
    """
    models = {variant: keras.saving.load_model(paths.model(variant)) for variant in VARIANTS}
    tables = []
    for name in EVALUATED:
        split = open_split(paths.ARRAYS / name)
        features = np.load(paths.features(name), mmap_mode="r")
        table = split.index[["path", "patient", "label", "pathogen"]].copy()
        table.insert(2, "split", name)
        for variant, model in models.items():
            if variant == "transfer":
                table[variant] = predict_transfer(model, split, features)
            else:
                table[variant] = predict(model, split.images, split.labels)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def evaluate(predictions: pd.DataFrame, min_recall: float, prevalence: float) -> dict[str, Any]:
    """Metrics for metrics/evaluation.json: by variant and split, and at the operating point.

    Args:
        predictions: as `predict_all` gives them.
        min_recall: recall that the operating point must reach on validation, 0 to 1.
        prevalence: share of ill patients that the predictive values are for, 0 to 1.
    """
    result: dict[str, Any] = {}
    for variant in VARIANTS:
        data = {split: scores.columns(predictions, split, variant) for split in EVALUATED}
        result[variant] = {
            split: {
                **scores.at_threshold(*pair, scores.HALF),
                **scores.ranking(*pair),
                **scores.calibration(*pair),
            }
            for split, pair in data.items()
        }
        threshold = scores.operating_threshold(*data["val"], min_recall)
        result[variant]["operating_point"] = {"threshold": threshold} | {
            split: _rates(scores.at_threshold(*pair, threshold), prevalence)
            for split, pair in data.items()
        }
    majority = {
        split: {"accuracy": float(scores.columns(predictions, split, VARIANTS[0])[0].mean())}
        for split in EVALUATED
    }
    return {**result, "majority": majority}


def _rates(found: dict[str, float], prevalence: float) -> dict[str, float]:
    rates = {name: found[name] for name in ("accuracy", "precision", "recall", "specificity")}
    values = scores.predictive_values(rates["recall"], rates["specificity"], prevalence)
    return {**rates, **{name: float(value) for name, value in values.items()}}


def curves(predictions: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Test curves of every variant: tables `roc` and `precision_recall`."""
    makers = {"roc": scores.roc_curve, "precision_recall": scores.precision_recall_curve}
    return {
        name: pd.concat(
            [maker(*scores.columns(predictions, "test", v)).assign(variant=v) for v in VARIANTS]
        ).round(5)
        for name, maker in makers.items()
    }


def confusions(predictions: pd.DataFrame, evaluation: dict[str, Any]) -> pd.DataFrame:
    """Test confusion matrices: columns variant, threshold (name), actual, predicted, images."""
    rows = []
    for variant in VARIANTS:
        chosen = evaluation[variant]["operating_point"]["threshold"]
        for name, threshold in {"at 0.5": scores.HALF, "operating point": chosen}.items():
            cells = scores.confusion(*scores.columns(predictions, "test", variant), threshold)
            rows += [{"variant": variant, "threshold": name, **cell} for cell in cells]
    return pd.DataFrame(rows)
