"""Predictions of a trained variant on validation, stress-test set and test."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr import paths
from cxr.common.arrays import Split, batches, open_rows, open_split
from cxr.common.names import EVALUATED, REGISTRY, TUNING, CachedInput
from cxr.compute.conversion import convert
from cxr.compute.runtimes import Run, compile_network, open_network
from cxr.errors import CxrError
from cxr.progress import Meter

BATCH_SIZE = 32  # images; does not affect the result


def predict_variant(variant: str, model: keras.Model) -> pd.DataFrame:
    """Predictions of one variant, by its OpenVINO network.

    A variant with a cached input is predicted by its trained part, without running the backbone.

    Args:
        variant: a trained one.
        model: its Keras model; the network of it has been written.

    Returns:
        one row per image of validation, stress-test set and test: path, patient, split, label,
        pathogen, condition (of the stress-test set, else plain), probability of PNEUMONIA.

    Raises:
        CxrError: a probability is NaN, or cached input and model do not match.
    """
    whole = open_network(paths.network(variant))
    cached = REGISTRY[variant].cached
    trained = compile_network(convert(model.get_layer(cached.layer))) if cached else None
    names = dict.fromkeys((*TUNING, *EVALUATED))
    splits = {name: open_split(paths.ARRAYS / name) for name in names}
    tables = []
    with Meter(variant, sum(len(split.index) for split in splits.values()), "predictions") as meter:
        for name, split in splits.items():
            table = split.index[["path", "patient", "label", "pathogen"]].copy()
            table.insert(2, "split", name)
            table["condition"] = split.index.get("condition", "plain")
            if cached and trained:
                rows = open_rows(cached.path(name))
                views = rows if cached.has_views else rows[np.newaxis]
                found = predict_from_cache(variant, cached, trained, views, whole, split)
            else:
                found = predict(variant, whole, split.images[..., np.newaxis])
            tables.append(table.assign(probability=found))
            meter.advance(len(split.index))
    return pd.concat(tables, ignore_index=True)


def predict(variant: str, run: Run, rows: NDArray[Any]) -> NDArray[np.float64]:
    """Probability of PNEUMONIA for each row, float64 (N,), each row exactly once.

    Args:
        variant: for the message of an error.
        run: returns the probability (N, 1).
        rows: its input (N, ...), images uint8 or other numbers, which it gets as float32.

    Raises:
        CxrError: a probability is NaN.
    """
    dtype = np.uint8 if rows.dtype == np.uint8 else np.float32
    stacked: Iterator[Any] = (np.stack(batch, dtype=dtype) for batch in batches(rows, BATCH_SIZE))
    probabilities = np.concatenate([run(batch) for batch in stacked])[:, 0].astype(np.float64)
    if np.isnan(probabilities).any():
        raise CxrError(f"{variant} predicts NaN; train it again with a smaller learning rate")
    return probabilities


def predict_from_cache(
    variant: str,
    cached: CachedInput,
    trained: Run,
    views: NDArray[Any],
    whole: Run,
    split: Split,
) -> Any:
    """Probabilities of a variant from the cached input of its trained part.

    The first batch is also predicted by the whole network, which detects features of another
    backbone, weights file or order of images.

    Args:
        variant: its name.
        cached: describes the input.
        trained: runs the trained part.
        views: cached input (V, N, ...) for V views of the images; probabilities are averaged.
        whole: runs the whole network.
        split: the images.

    Raises:
        CxrError: cached input and network do not match.
    """
    probabilities = np.mean([predict(variant, trained, rows) for rows in views], axis=0)
    expected = predict(variant, whole, split.images[:BATCH_SIZE, ..., np.newaxis])
    if not np.allclose(expected, probabilities[: len(expected)], atol=cached.tolerance):
        raise CxrError(
            f"{cached.path('').parent} and {paths.model(variant)} do not match; "
            f"run `dvc repro --force {cached.stage}`"
        )
    return probabilities
