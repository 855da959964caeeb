"""Predictions of a variant, from images or from the cached input of its trained part."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from cxr import paths
from cxr.common.arrays import Split, write_split
from cxr.common.names import REGISTRY, TRAINED
from cxr.compute.runtimes import Run
from cxr.errors import CxrError
from cxr.prediction import networks
from cxr.prediction.variants import BATCH_SIZE, predict, predict_from_cache, predict_variant

TRANSFER = REGISTRY["transfer"].cached
assert TRANSFER


def split(count: int) -> Split:
    """Image number i is filled with the value i; the last two thirds are PNEUMONIA."""
    images = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None], (count, 4, 4))
    names = [f"{number}.png" for number in range(count)]
    label = ["NORMAL" if number < count / 3 else "PNEUMONIA" for number in range(count)]
    index = {"path": names, "label": label, "patient": names, "pathogen": "none", "width": 4}
    return Split(images, pd.DataFrame(index))


def mean(images: Any) -> Any:
    """Stand-in for a whole network."""
    assert images.shape[1:] == (4, 4, 1)
    assert len(images) <= BATCH_SIZE
    return images.mean(axis=(1, 2, 3), dtype=np.float32)[:, np.newaxis] / 255


def first(features: Any) -> Any:
    """Stand-in for the trained part of a network."""
    assert features.dtype == np.float32  # also where they are kept in half precision
    assert len(features) <= BATCH_SIZE
    return features[:, :1]


def features(count: int) -> NDArray[np.float32]:
    return np.repeat(np.arange(count, dtype=np.float32)[:, None] / 255, 3, axis=1)


def from_cache(whole: Run, part: Split, rows: NDArray[np.float32]) -> Any:
    return predict_from_cache("transfer", TRANSFER, first, rows[np.newaxis], whole, part)


@pytest.mark.parametrize("count", [1, 31, 32, 33, 70])
def test_each_row_is_predicted_once_and_in_order(count: int) -> None:
    part = split(count)
    found = predict("baseline", mean, part.images[..., np.newaxis])
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, np.arange(count) / 255, atol=1e-7)


@pytest.mark.parametrize("row", [0, 40, 69])
def test_nan_is_reported(row: int) -> None:
    part = split(70)
    with pytest.raises(CxrError, match="baseline predicts NaN"):
        predict(
            "baseline",
            lambda images: np.where(images[:, :, 0, 0] == row, np.nan, 0.5)[:, :1],
            part.images[..., np.newaxis],
        )


@pytest.mark.parametrize("count", [5, 32, 70])
def test_transfer_is_predicted_from_the_features(count: int) -> None:
    seen: list[int] = []

    def whole(images: Any) -> Any:
        seen.append(len(images))
        return mean(images)

    found = from_cache(whole, split(count), features(count))
    np.testing.assert_allclose(found, np.arange(count) / 255, atol=1e-7)
    assert sum(seen) == min(count, 32)  # the backbone runs on the first images only


@pytest.mark.parametrize(
    "wrong",
    [features(70)[::-1], features(70) * 2 + 0.01, np.roll(features(70), 1, axis=0)],
    ids=["reversed", "of another backbone", "shifted"],
)
def test_features_of_other_images(wrong: NDArray[np.float32]) -> None:
    with pytest.raises(CxrError, match="do not match"):
        from_cache(mean, split(70), wrong)


def model_of(variant: str) -> keras.Model:
    """Keras model whose probability is the mean of an image, or for `augmented` 1 minus it; the
    trained part of a variant with cached input gives the first feature.
    """
    image = keras.Input((4, 4, 1), dtype="uint8")
    value = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(image))
    cached = REGISTRY[variant].cached
    if cached:
        row = keras.Input((3,))
        kernel = np.array([[1], [0], [0]], np.float32)
        dense = keras.layers.Dense(1, use_bias=False)
        trained = keras.Model(row, dense(row), name=cached.layer)
        dense.set_weights([kernel])
        return keras.Model(image, trained(keras.layers.Concatenate()([value] * 3)))
    scale, offset = (-1.0, 1.0) if variant == "augmented" else (1.0, 0.0)
    return keras.Model(image, keras.layers.Rescaling(scale, offset)(value))


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays and features in the folders of the pipeline."""
    monkeypatch.chdir(tmp_path)
    paths.FEATURES.mkdir(parents=True)
    paths.ACTIVATIONS.mkdir(parents=True)
    for name, count in {"val": 40, "stress": 40, "test": 9}.items():
        part = split(count)
        index = part.index.assign(condition="dark") if name == "stress" else part.index
        write_split(paths.ARRAYS / name, part.images, index)
        np.save(paths.features(name), features(count))
        views = np.stack([0.5 * features(count), 1.5 * features(count)])  # their mean: features
        np.save(paths.activations(name), views.astype(np.float16))


def predicted(variant: str) -> pd.DataFrame:
    """Table of the predictions of `model_of`."""
    model = model_of(variant)
    paths.network(variant).parent.mkdir(parents=True)
    images = split(2).images
    expected = model.predict_on_batch(images[..., np.newaxis])
    networks.write_compared(model, paths.network(variant), images, expected)
    return predict_variant(variant, model)


@pytest.mark.usefixtures("results")
@pytest.mark.parametrize("variant", TRAINED)
def test_table_of_the_predictions(variant: str) -> None:
    table = predicted(variant)
    assert list(table.columns) == [
        *("path", "patient", "split", "label", "pathogen", "condition", "probability")
    ]
    assert list(table["split"]) == ["val"] * 40 + ["stress"] * 40 + ["test"] * 9
    assert list(table["condition"]) == ["plain"] * 40 + ["dark"] * 40 + ["plain"] * 9
    assert table.index.equals(pd.RangeIndex(89))
    numbers = table["path"].str.removesuffix(".png").astype(int)
    assert list(numbers) == [*range(40), *range(40), *range(9)]
    expected = 1 - numbers / 255 if variant == "augmented" else numbers / 255
    tolerance = 1e-3 if variant == "finetuned" else 1e-6  # activations are in half precision
    np.testing.assert_allclose(table["probability"], expected, atol=tolerance)


@pytest.mark.usefixtures("results")
def test_features_of_the_other_split() -> None:
    np.save(paths.features("test"), features(40)[20:29])
    with pytest.raises(CxrError, match=r"do not match; run `dvc repro --force extract_features`"):
        predicted("transfer")
