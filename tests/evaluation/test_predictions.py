"""Predictions of all variants and their metrics."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from cxr import paths
from cxr.common.arrays import Split, write_split
from cxr.common.names import REGISTRY
from cxr.errors import CxrError
from cxr.evaluation import predictions as predictions_module
from cxr.evaluation.predictions import (
    BATCH_SIZE,
    evaluate,
    predict,
    predict_all,
    predict_from_features,
)
from cxr.evaluation.results import Evaluation, SplitMetrics

VARIANTS = ["baseline", "augmented", "transfer", "finetuned", "ensemble"]


def predictions() -> pd.DataFrame:
    """Validation of 10 images, 6 of them positive; test of 8, 4 of them; one condition of the
    stress-test set with the same predictions.
    """
    labels = ["NORMAL"] * 4 + ["PNEUMONIA"] * 6 + ["NORMAL"] * 4 + ["PNEUMONIA"] * 4
    baseline = [0.1, 0.2, 0.3, 0.8, 0.4, 0.6, 0.7, 0.75, 0.9, 0.95]
    baseline += [0.1, 0.35, 0.45, 0.8, 0.3, 0.45, 0.5, 0.9]
    table = pd.DataFrame(
        {
            "path": [f"{number}.png" for number in range(18)],
            "patient": [str(number) for number in range(18)],
            "split": ["val"] * 10 + ["test"] * 8,
            "label": labels,
            "pathogen": "none",
            "condition": "plain",
            "baseline": baseline,
            "augmented": [float(label == "PNEUMONIA") for label in labels],
            "transfer": 0.4,
            "finetuned": 0.6,
            "ensemble": 0.5,
        }
    )
    stress = table[:10].assign(split="stress", condition="dark")
    return pd.concat([table, stress], ignore_index=True)


def test_structure_of_the_evaluation() -> None:
    scales = {"transfer": {"slope": 1.0, "intercept": 0.0}}
    found = evaluate(predictions(), 0.9, 0.2, scales)
    assert list(found.variants) == VARIANTS
    assert {name: of.scales for name, of in found.variants.items() if of.scales} == {
        "ensemble": scales
    }
    assert all(list(of.stress) == ["dark"] for of in found.variants.values())
    assert Evaluation.parse(json.dumps(found.model_dump(), allow_nan=False), "") == found


def test_every_variant_and_split_is_scored_by_its_own_rows() -> None:
    found = evaluate(predictions(), 0.9, 0.2)
    baseline, augmented, transfer = (found.variants[name] for name in VARIANTS[:3])

    def counts(metrics: SplitMetrics) -> list[int]:
        return [metrics.n, metrics.tn, metrics.fp, metrics.fn, metrics.tp]

    assert counts(baseline.val) == [10, 3, 1, 1, 5]
    assert counts(baseline.test) == [8, 3, 1, 2, 2]
    assert baseline.val.roc_auc == pytest.approx(20 / 24)
    assert baseline.test.roc_auc == pytest.approx(10.5 / 16)
    assert counts(augmented.test) == [8, 4, 0, 0, 4]
    assert augmented.test.average_precision == 1
    assert counts(transfer.test) == [8, 4, 0, 4, 0]
    assert transfer.test.roc_auc == 0.5


@pytest.mark.parametrize(
    ("min_recall", "threshold", "test"),
    [  # accuracy, precision, recall, specificity on test
        (1.0, 0.4, (5 / 8, 3 / 5, 3 / 4, 2 / 4)),
        (0.8, 0.4, (5 / 8, 3 / 5, 3 / 4, 2 / 4)),
        (0.3, 0.9, (5 / 8, 1, 1 / 4, 1)),
    ],
)
def test_operating_point(min_recall: float, threshold: float, test: tuple[float, ...]) -> None:
    point = evaluate(predictions(), min_recall, 0.2).variants["baseline"].operating_point
    assert point.threshold == threshold
    shown = ("accuracy", "precision", "recall", "specificity")
    assert tuple(getattr(point.test, name) for name in shown) == pytest.approx(test)
    recall, specificity = test[2:]
    predicted = 200 * recall + 800 * (1 - specificity)  # of 1000 people, 200 of them positive
    assert point.test.ppv == pytest.approx(200 * recall / predicted)
    assert point.test.npv == pytest.approx(800 * specificity / (1000 - predicted))
    assert point.val.recall >= min_recall


def test_threshold_does_not_depend_on_test() -> None:
    table = predictions()
    is_test = table["split"] == "test"
    other = table.copy()
    other.loc[is_test, "baseline"] = 1 - other.loc[is_test, "baseline"]
    changed = table.copy()
    changed.loc[~is_test, "baseline"] = 1 - changed.loc[~is_test, "baseline"]
    first, second, third = (
        evaluate(t, 0.9, 0.2).variants["baseline"].operating_point for t in (table, other, changed)
    )
    assert first.threshold == second.threshold
    assert first.val == second.val
    assert first.test != second.test
    assert first.threshold != third.threshold


def test_threshold_is_chosen_on_the_whole_tuning_set() -> None:
    table = predictions()
    positive_stress = (table["split"] == "stress") & (table["label"] == "PNEUMONIA")
    table.loc[positive_stress, "baseline"] -= 0.35
    same, lower = (evaluate(t, 1.0, 0.2).variants["baseline"] for t in (predictions(), table))
    assert same.operating_point.threshold == 0.4
    assert lower.operating_point.threshold == pytest.approx(0.05)
    assert lower.operating_point.tuning.recall == 1
    assert lower.tuning.n == 20
    assert lower.val == same.val
    # The condition alone: the positive images are now ranked below some negative ones.
    assert same.stress["dark"].roc_auc == pytest.approx(20 / 24)
    positive, negative = [0.05, 0.25, 0.35, 0.4, 0.55, 0.6], [0.1, 0.2, 0.3, 0.8]
    in_order = sum(p > n for p in positive for n in negative)
    assert lower.stress["dark"].roc_auc == pytest.approx(in_order / 24)
    assert lower.stress["dark"].specificity == 0


def test_majority_predicts_pneumonia_everywhere() -> None:
    majority = evaluate(predictions(), 0.9, 0.2).majority
    assert majority.val.accuracy == pytest.approx(0.6)
    assert majority.test.accuracy == pytest.approx(0.5)


class Model:
    """Stand-in for a network: a function of the rows of a batch."""

    def __init__(
        self, function: Callable[[Any], Any], head: "Model | None" = None, dtype: str = "uint8"
    ) -> None:
        self.name = "stand-in"
        self.function = function
        self.head = head
        self.input = SimpleNamespace(dtype=dtype)

    def predict_on_batch(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        assert len(rows) <= BATCH_SIZE
        return self.function(rows).astype(np.float32)[:, np.newaxis]

    def get_layer(self, name: str) -> "Model":
        assert name in ("head", "tuned")
        assert self.head is not None
        return self.head


def split(count: int) -> Split:
    """Image number i is filled with the value i; the last two thirds are PNEUMONIA."""
    images = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None], (count, 4, 4))
    names = [f"{number}.png" for number in range(count)]
    label = ["NORMAL" if number < count / 3 else "PNEUMONIA" for number in range(count)]
    index = {"path": names, "label": label, "patient": names, "pathogen": "none", "width": 4}
    return Split(images, pd.DataFrame(index))


def mean(images: Any) -> Any:
    assert images.shape[1:] == (4, 4, 1)
    return images.mean(axis=(1, 2, 3)) / 255


def first(features: Any) -> Any:
    assert features.dtype == np.float32  # also where they are kept in half precision
    return features[:, 0]


def head() -> Model:
    return Model(first, dtype="float32")


def features(count: int) -> NDArray[np.float32]:
    return np.repeat(np.arange(count, dtype=np.float32)[:, None] / 255, 3, axis=1)


def from_cache(model: Model, part: Split, rows: NDArray[np.float32]) -> Any:
    return predict_from_features(
        model, part, rows[np.newaxis], REGISTRY["transfer"].cached, "transfer"
    )


@pytest.mark.parametrize("count", [1, 31, 32, 33, 70])
def test_each_row_is_predicted_once_and_in_order(count: int) -> None:
    inputs = keras.Input((3,))
    outputs = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")(inputs)
    found = predict(keras.Model(inputs, outputs), features(count))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, 3 * np.arange(count) / 255, atol=1e-6)


@pytest.mark.parametrize("row", [0, 40, 69])
def test_nan_is_reported(row: int) -> None:
    part = split(70)
    model = Model(lambda images: np.where(images[:, 0, 0, 0] == row, np.nan, 0.5))
    with pytest.raises(CxrError, match="stand-in predicts NaN"):
        predict(model, part.images[..., np.newaxis])


@pytest.mark.parametrize("count", [5, 32, 70])
def test_transfer_is_predicted_from_the_features(count: int) -> None:
    seen = []
    model = Model(lambda images: seen.append(len(images)) or mean(images), head())
    found = from_cache(model, split(count), features(count))
    np.testing.assert_allclose(found, np.arange(count) / 255, atol=1e-7)
    assert sum(seen) == min(count, 32)  # the backbone runs on the first images only


@pytest.mark.parametrize(
    "wrong",
    [features(70)[::-1], features(70) * 2 + 0.01, np.roll(features(70), 1, axis=0)],
    ids=["reversed", "of another backbone", "shifted"],
)
def test_features_of_other_images(wrong: NDArray[np.float32]) -> None:
    with pytest.raises(CxrError, match="do not match"):
        from_cache(Model(mean, head()), split(70), wrong)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays and features in the folders of the pipeline, stand-ins for its saved models."""
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
    models = {
        "baseline": Model(mean),
        "augmented": Model(lambda images: 1 - mean(images)),
        "transfer": Model(mean, head()),
        "finetuned": Model(mean, head()),
    }
    by_path = {paths.model(variant): model for variant, model in models.items()}
    monkeypatch.setattr(predictions_module, "load_model", by_path.__getitem__)


@pytest.mark.usefixtures("results")
def test_table_of_all_predictions() -> None:
    table = predict_all()
    assert list(table.columns) == [
        *("path", "patient", "split", "label", "pathogen", "condition"),
        *VARIANTS[:-1],
    ]
    assert list(table["split"]) == ["val"] * 40 + ["stress"] * 40 + ["test"] * 9
    assert list(table["condition"]) == ["plain"] * 40 + ["dark"] * 40 + ["plain"] * 9
    assert table.index.equals(pd.RangeIndex(89))
    numbers = table["path"].str.removesuffix(".png").astype(int)
    assert list(numbers) == [*range(40), *range(40), *range(9)]
    np.testing.assert_allclose(table["baseline"], numbers / 255, atol=1e-7)
    np.testing.assert_allclose(table["augmented"], 1 - numbers / 255, atol=1e-7)
    np.testing.assert_allclose(table["transfer"], numbers / 255, atol=1e-7)
    np.testing.assert_allclose(table["finetuned"], numbers / 255, atol=1e-3)
    table["ensemble"] = table["finetuned"]
    assert evaluate(table, 0.98, 0.2).variants["baseline"].test.n == 9
