"""Predictions of every variant, and their metrics."""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr import comparison, paths, scores
from cxr.arrays import Split, open_rows, open_split
from cxr.datasets import ArrayDataset, Batch
from cxr.errors import CxrError
from cxr.progress import Meter
from cxr.variants import EVALUATED, SELECTION, TRAINED, VARIANTS

BATCH_SIZE = 32  # images; of no influence on the result


class SinglePrecision(ArrayDataset):
    """Batches of rows that are kept in half precision, for which processors lack kernels."""

    def __getitem__(self, number: int) -> Batch:
        rows, labels = super().__getitem__(number)
        return rows.astype(np.float32), labels


def load_model(path: Path) -> keras.Model:
    """Open a saved model, to predict. It may hold built-in layers of Keras only: code in the file
    is refused, not run.

    Raises:
        CxrError: the file is missing, damaged, or holds anything else.
    """
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # what is in the file decides where in Keras it fails
        reason = textwrap.shorten(str(error), 200)
        raise CxrError(
            f"{path} is damaged, or holds more than layers of Keras; run `dvc repro` ({reason})"
        ) from error


def predict(model: keras.Model, rows: NDArray[Any], labels: NDArray[np.int64]) -> Any:
    """Probability of PNEUMONIA for each row, float64 (N,), each row exactly once.

    Raises:
        CxrError: a probability is not a number.
    """
    kind = SinglePrecision if rows.dtype == np.float16 else ArrayDataset
    probabilities = model.predict(kind(rows, labels, BATCH_SIZE), verbose=0)[:, 0]
    if np.isnan(probabilities).any():
        raise CxrError(f"model {model.name} gives NaN; train it again with a smaller learning rate")
    return probabilities.astype(np.float64)


@dataclass(frozen=True)
class Cache:
    """What of a variant is computed once for each image, ahead of its trained part.

    Attributes:
        stage: that computes it.
        layer: name of the trained part in the saved model.
        rows: gives the file of a split.
        tolerance: largest difference of a probability from the whole model's.
    """

    stage: str
    layer: str
    rows: Callable[[str], Path]
    tolerance: float


CACHES = {
    "transfer": Cache("extract_features", "head", paths.features, 1e-3),
    "finetuned": Cache("extract_activations", "tuned", paths.activations, 0.02),  # half precision
}


def predict_from_cache(
    model: keras.Model, split: Split, rows: NDArray[Any], cache: Cache, variant: str
) -> Any:
    """Probabilities of a variant from what is cached, which saves the backbone's run.

    The first images go through the whole model as well, so that rows of another backbone, weights
    file or order cannot slip in.

    Args:
        model: the whole, with the trained part as a layer.
        split: the images.
        rows: (V, N, ...), a block for each view of the images; probabilities are averaged.
        cache: what the rows are.
        variant: name of the model.

    Raises:
        CxrError: rows and images do not belong together.
    """
    trained = model.get_layer(cache.layer)
    probabilities = np.mean([predict(trained, block, split.labels) for block in rows], axis=0)
    whole = predict(model, split.images[:BATCH_SIZE], split.labels[:BATCH_SIZE])
    if not np.allclose(whole, probabilities[: len(whole)], atol=cache.tolerance):
        raise CxrError(
            f"{cache.rows('').parent} and {paths.model(variant)} do not belong together; "
            f"run `dvc repro --force {cache.stage}`"
        )
    return probabilities


def predict_split(model: keras.Model, variant: str, name: str, split: Split) -> Any:
    """Probabilities of one variant for the images of a split."""
    if variant not in CACHES:
        return predict(model, split.images, split.labels)
    cache = CACHES[variant]
    rows = open_rows(cache.rows(name))
    views = rows if variant == "finetuned" else rows[np.newaxis]
    return predict_from_cache(model, split, views, cache, variant)


def predict_all(mirrored: Sequence[str] = ()) -> pd.DataFrame:
    """One row per image of validation, stress validation and test: path, patient, split, label,
    pathogen, condition (of stress, else plain), and the probability of each trained variant.

    Args:
        mirrored: variants that also get a column `<variant>_mirrored`, for the image left to right.
    """
    models = {variant: load_model(paths.model(variant)) for variant in TRAINED}
    names = dict.fromkeys((*SELECTION, *EVALUATED))
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
                if variant in mirrored:  # nothing is cached of these
                    images = split.images[:, :, ::-1]
                    table[f"{variant}_mirrored"] = predict(model, images, split.labels)
                meter.advance(len(split.index))
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def evaluate(predictions: pd.DataFrame, min_recall: float, prevalence: float) -> dict[str, Any]:
    """Metrics for metrics/evaluation.json: by variant and split, and at the operating point.

    The operating point is chosen on plain and stressed validation together (`selection`). `stress`
    holds, for each of its conditions, ROC AUC and the rates at the operating point.

    Args:
        predictions: as `predict_all` gives them, with a column for each variant.
        min_recall: recall that the operating point must reach on the selection, 0 to 1.
        prevalence: share of ill patients that the predictive values are for, 0 to 1.
    """
    result: dict[str, Any] = {}
    for variant in VARIANTS:
        data = {split: scores.columns(predictions, split, variant) for split in EVALUATED}
        data["selection"] = scores.columns(predictions, SELECTION, variant)
        threshold = scores.operating_threshold(*data["selection"], min_recall)
        result[variant] = {split: comparison.metrics(*pair) for split, pair in data.items()}
        result[variant]["operating_point"] = {"threshold": threshold} | {
            split: comparison.rates(*pair, threshold, prevalence) for split, pair in data.items()
        }
        result[variant]["stress"] = _stress(predictions, variant, threshold)
    majority = {
        split: {"accuracy": float(scores.columns(predictions, split, VARIANTS[0])[0].mean())}
        for split in EVALUATED
    }
    return {**result, "majority": majority}


def _stress(predictions: pd.DataFrame, variant: str, threshold: float) -> dict[str, Any]:
    found = {}
    for condition, rows in predictions[predictions["split"] == "stress"].groupby("condition"):
        pair = scores.columns(rows, "stress", variant)
        at_threshold = scores.at_threshold(*pair, threshold)
        found[str(condition)] = {
            "roc_auc": scores.ranking(*pair)["roc_auc"],
            **{name: at_threshold[name] for name in ("recall", "specificity")},
        }
    return found
