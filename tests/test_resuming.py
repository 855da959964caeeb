"""A training that is cut off and started again ends with the weights of one that never was."""

import shutil
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from cxr import faster, networks, paths, resuming, training
from cxr.datasets import Batches
from cxr.demo import PROJECT
from cxr.params import ModelParams, read_params

SIDE = 12
HISTORY = paths.history("unit")
PARAMS = read_params(PROJECT / "params.yaml").model.model_copy(
    update={"filters": (4,), "dense_units": 8, "epochs": 5, "batch_size": 8}
)
VARIATIONS = {
    "plain": {},
    "schedule": {"schedule": "cosine", "weight_decay": 0.01},
    "average": {"weight_average": 0.9},
    "normalised": {"batch_norm": True},
    "stopped": {"learning_rate": 0.02, "early_stopping": 4, "epochs": 12},
}


class CutOffError(Exception):
    """Stands for a power cut."""


class Cut(Batches):
    """Batches that fail in the middle of an epoch."""

    at = -1  # batch, counted over all epochs
    given = 0

    def __getitem__(self, number):  # type: ignore[no-untyped-def]
        self.given += 1
        if self.given == self.at:
            raise CutOffError
        return super().__getitem__(number)


@pytest.fixture(autouse=True)
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a dvc.yaml of one stage that depends on one file."""
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text("stages: {train_unit: {deps: [images]}}")
    Path("params.yaml").write_text("seed: 1")
    Path("images").mkdir()
    Path("images/a").write_bytes(b"images")


def train(params: ModelParams, cut: int = -1, resume: bool = True) -> keras.Model:
    """A new process's training, which fails at batch `cut`."""
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 40)
    images = rng.integers(0, 200, (40, SIDE, SIDE)).astype(np.uint8) + 50 * labels[:, None, None]
    images = images.astype(np.uint8)
    batches, val = Cut(images[:30], labels[:30], 8, 1), Batches(images[30:], labels[30:], 8)
    batches.at = cut
    image = keras.Input((SIDE, SIDE, 1), dtype="uint8")
    network = networks.small_cnn(params)
    model = keras.Model(image, networks.apply(network, image))
    flip = networks.augmentation(read_params(PROJECT / "params.yaml").augment, 1)
    stack = [*flip, *faster.for_training(network)]
    learner = keras.Model(image, networks.apply(stack, image))
    training.train("unit", learner, batches, val, params, {0: 1.0, 1: 2.0}, resume=resume)
    return model


def history() -> pd.DataFrame:
    return pd.read_csv(HISTORY).drop(columns="seconds")


@pytest.mark.parametrize("cut", [7, 19])
@pytest.mark.parametrize("variation", VARIATIONS)
def test_a_cut_changes_nothing(
    variation: str, cut: int, capsys: pytest.CaptureFixture[str]
) -> None:
    params = PARAMS.model_copy(update=VARIATIONS[variation])
    whole, expected = train(params, resume=False), history()
    HISTORY.unlink()
    with pytest.raises(tf.errors.UnknownError, match="CutOffError"):
        train(params, cut)
    assert not HISTORY.exists()
    found = train(params)
    assert "goes on after epoch" in capsys.readouterr().out
    pd.testing.assert_frame_equal(history(), expected)
    for ours, theirs in zip(found.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("variation", ["plain", "stopped"])
def test_a_finished_training_is_not_trained_on(variation: str) -> None:
    """The process died after the last epoch, before its model was saved."""
    params = PARAMS.model_copy(update=VARIATIONS[variation])
    whole, expected = train(params), history()
    found = train(params)
    pd.testing.assert_frame_equal(history(), expected)
    for ours, theirs in zip(found.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("changed", ["images/a", "params.yaml"])
def test_what_belongs_to_other_inputs_is_not_used(
    changed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(tf.errors.UnknownError, match="CutOffError"):
        train(PARAMS, cut=12)
    Path(changed).write_text("other")
    train(PARAMS)
    assert "begins anew" in capsys.readouterr().out


def test_the_saved_model_ends_it() -> None:
    model = train(PARAMS)
    assert paths.resume("unit").exists()
    training.save("unit", model)
    assert not paths.resume("unit").exists()
    assert paths.model("unit").exists()


def test_a_half_written_state_is_not_used() -> None:
    with pytest.raises(tf.errors.UnknownError, match="CutOffError"):
        train(PARAMS, cut=12)
    kept = paths.resume("unit")
    shutil.copytree(kept, kept.with_name(f".part-{kept.name}"))
    (kept.with_name(f".part-{kept.name}") / "state.json").unlink()
    train(PARAMS)
    assert not kept.with_name(f".part-{kept.name}").exists()


def test_without_resume_nothing_is_kept() -> None:
    train(PARAMS, resume=False)
    assert not paths.resume("unit").exists()


def test_the_mark_is_of_every_file_below_a_folder() -> None:
    before = resuming.mark_of("train_unit")
    Path("images/more").mkdir()
    Path("images/more/labels.csv").write_text("label")
    assert resuming.mark_of("train_unit") != before
