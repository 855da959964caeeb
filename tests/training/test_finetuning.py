"""Fine-tuning changes only the trained part of the backbone."""

import keras
import numpy as np
import pandas as pd
import pytest

from cxr import paths
from cxr.errors import CxrError
from cxr.features import activations
from cxr.params import read_params
from cxr.tools.project_copy import PROJECT
from cxr.training import finetuning, trainer
from tests.support.mobilenet import cut, image_input, images, square_split

PARAMS = read_params(PROJECT / "params.yaml")
FINETUNE = PARAMS.finetune.model_copy(update={"epochs": 2, "batch_size": 8})


def test_targets_by_pathogen_and_by_label():
    index = pd.DataFrame(
        {
            "label": ["NORMAL", "PNEUMONIA", "PNEUMONIA", "PNEUMONIA"],
            "pathogen": ["none", "bacteria", "virus", "none"],
        }
    )
    np.testing.assert_array_equal(
        finetuning.targets(index, "pathogen"), [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0.5, 0.5]]
    )
    np.testing.assert_array_equal(
        finetuning.targets(index, "label"), [[1, 0], [0, 1], [0, 1], [0, 1]]
    )


@pytest.fixture
def split(tmp_path):
    return square_split(tmp_path / "split")


def augmented(seed=None):
    rows = np.arange(3 * 10, dtype=np.float16).reshape(3, 10, 1, 1, 1)
    targets = np.eye(10, dtype=np.float32)
    return finetuning.AugmentedActivations(rows, targets, np.ones(10, np.float32), 4, seed)


def test_each_epoch_has_each_image_once_in_its_next_version():
    batches, seen = augmented(seed=5), []
    for _ in range(3):
        batches.on_epoch_end()
        parts = [batches[number] for number in range(len(batches))]
        values = np.concatenate([part[0] for part in parts]).ravel().astype(int)
        rows = np.concatenate([part[1] for part in parts]).argmax(axis=1)
        assert sorted(rows) == list(range(10))
        np.testing.assert_array_equal(values % 10, rows)  # targets belong to their images
        assert len(set(values // 10)) > 1
        seen.append(values)
    assert not np.array_equal(seen[0], seen[1])
    assert set(np.concatenate(seen)) == set(range(30))  # three epochs use all three versions


def test_without_a_seed_version_0_is_used_in_order():
    batches = augmented()
    values = np.concatenate([batches[n][0] for n in range(len(batches))]).ravel()
    np.testing.assert_array_equal(values, np.arange(10))


def test_training_changes_only_the_last_layers(weights, split, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/activations").mkdir(parents=True)
    (tmp_path / "plots/history").mkdir(parents=True)
    backbone = cut(weights)
    path = paths.activations("train")
    activations.write_augmented(path, backbone.frozen, "tensorflow", split, 1, PARAMS.perturb)
    training_model = finetuning.with_outputs(backbone.tuned, FINETUNE)
    model = finetuning.whole_model(image_input(), backbone.frozen, training_model, (1,))
    before = {w.path: np.array(w) for w in model.weights}
    batches = finetuning.batches("train", split, FINETUNE, seed=1)
    val = finetuning.batches("train", split, FINETUNE)
    trainer.train("finetuned", training_model, batches, val, FINETUNE)
    changed = {w.path for w in model.weights if not np.array_equal(before[w.path], w)}
    trained = {w.path for w in training_model.trainable_weights}
    assert changed
    assert changed <= trained
    assert not [path for path in changed if "moving" in path]
    assert not {w.path for w in backbone.frozen.weights} & changed
    history = pd.read_csv(paths.history("finetuned"))
    assert history["epoch"].tolist() == [1, 2]
    assert history["kept"].tolist() == [0, 1]
    probability = model.predict(np.asarray(split.images)[..., None], verbose=0)
    classes = training_model.predict(batches.activations[0].astype(np.float32), verbose=0)
    np.testing.assert_allclose(probability[:, 0], 1 - classes[:, 0], atol=0.02)
    assert model.name == "finetuned"


def test_model_averages_over_tta_scales(tmp_path):
    view, maps = keras.Input((None, None, 1), dtype="uint8"), keras.Input((8, 8, 1))
    small = keras.layers.Resizing(8, 8)(view)
    frozen = keras.Model(view, keras.layers.Rescaling(1 / 255)(small))
    classes = keras.layers.Dense(3, activation="softmax")(keras.layers.Flatten()(maps))
    training_model = keras.Model(maps, classes)
    one, other, both = (
        finetuning.whole_model(image_input(), frozen, training_model, scales)
        for scales in ((0.8,), (1.25,), (0.8, 1.25))
    )
    single = [model.predict(images(4), verbose=0) for model in (one, other)]
    assert np.abs(single[0] - single[1]).max() > 1e-3
    both.save(tmp_path / "both.keras")
    loaded = keras.saving.load_model(tmp_path / "both.keras")
    np.testing.assert_allclose(loaded.predict(images(4), verbose=0), np.mean(single, 0), atol=1e-6)


def test_missing_or_mismatched_activations_are_an_error(weights, split, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CxrError, match=r"activations/train.npy"):
        finetuning.batches("train", split, FINETUNE)
    (tmp_path / "data/activations").mkdir(parents=True)
    np.save(paths.activations("train"), np.zeros((1, 5, 2, 2, 1), np.float16))
    with pytest.raises(CxrError, match=r"activations/train.npy has 5 images"):
        finetuning.batches("train", split, FINETUNE)


def test_image_weights_balance_the_classes():
    labels = np.array([0, 1, 1, 1])
    weights = finetuning.image_weights(labels, "balanced")
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, [2, 2 / 3, 2 / 3, 2 / 3])
    np.testing.assert_array_equal(finetuning.image_weights(labels, "none"), 1)
