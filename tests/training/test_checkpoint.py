"""An interrupted and resumed training ends with the weights of an uninterrupted one."""

import functools
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from cxr import paths
from cxr.errors import CxrError
from cxr.models import networks
from cxr.params import ModelParams, read_params
from cxr.tools.project_copy import PROJECT
from cxr.training import checkpoint, fast_layers, trainer
from cxr.training.batches import ArrayDataset

SIDE = 12
HISTORY = paths.history("unit")
PARAMS = read_params(PROJECT / "params.yaml").model.model_copy(
    update={"filters": (4,), "dense_units": 8, "epochs": 5, "batch_size": 8}
)
VARIATIONS = {
    "default": {},
    "schedule": {"schedule": "cosine", "weight_decay": 0.01},
    "ema": {"ema_decay": 0.9},
    "batch_norm": {"batch_norm": True},
    "early_stopping": {"learning_rate": 0.02, "early_stopping": 4, "epochs": 12},
}


VALUES = "{seed: 1, transfer: {backbone: small, epochs: 3}}"


# Weights and history.
Result = tuple[list[NDArray[np.float32]], pd.DataFrame]


class InterruptedTrainingError(Exception):
    """Simulates a power failure."""


class FailingBatches(ArrayDataset):
    """Batches that fail in the middle of an epoch."""

    fails_at = -1  # number of the batch, counted over all epochs
    requested = 0

    def __getitem__(self, number):  # type: ignore[no-untyped-def]
        self.requested += 1
        if self.requested == self.fails_at:
            raise InterruptedTrainingError
        return super().__getitem__(number)


@pytest.fixture(autouse=True)
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_pipeline()


def write_pipeline() -> None:
    """A dvc.yaml of one stage that depends on images, weights and the seed."""
    Path("dvc.yaml").write_text(
        "stages: {train_unit: {deps: [images, 'weights/${transfer.backbone}.h5'], params: [seed]}}"
    )
    Path("params.yaml").write_text(VALUES)
    for file in ("images/a", "weights/small.h5", "weights/large.h5"):
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).write_text(file)


def train(params: ModelParams, fails_at: int = -1, resume: bool = True) -> keras.Model:
    """Train like a new process, which fails at batch `fails_at`."""
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 40)
    images = rng.integers(0, 200, (40, SIDE, SIDE)).astype(np.uint8) + 50 * labels[:, None, None]
    images = images.astype(np.uint8)
    batches, val = (
        FailingBatches(images[:30], labels[:30], 8, 1),
        ArrayDataset(images[30:], labels[30:], 8),
    )
    batches.fails_at = fails_at
    image = keras.Input((SIDE, SIDE, 1), dtype="uint8")
    network = networks.small_cnn(params)
    model = keras.Model(image, networks.apply(network, image))
    flip = networks.augmentation(read_params(PROJECT / "params.yaml").augment, 1)
    stack = [*flip, *fast_layers.for_training(network)]
    training_model = keras.Model(image, networks.apply(stack, image))
    trainer.train("unit", training_model, batches, val, params, {0: 1.0, 1: 2.0}, resume=resume)
    return model


def history() -> pd.DataFrame:
    return pd.read_csv(HISTORY).drop(columns="seconds")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Result]:
    """Results of uninterrupted trainings, by variation."""

    @functools.cache
    def result(variation: str) -> Result:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path_factory.mktemp("uninterrupted"))
            params = PARAMS.model_copy(update=VARIATIONS[variation])
            return train(params, resume=False).get_weights(), history()

    return result


@pytest.mark.slow
@pytest.mark.parametrize("variation", VARIATIONS)
def test_training_resumed_twice_equals_an_uninterrupted_one(
    variation: str, uninterrupted: Callable[[str], Result], capsys: pytest.CaptureFixture[str]
) -> None:
    weights, expected = uninterrupted(variation)
    params = PARAMS.model_copy(update=VARIATIONS[variation])
    for fails_at in (7, 11):  # in the second epoch, and three later
        with pytest.raises(tf.errors.UnknownError, match="InterruptedTrainingError"):
            train(params, fails_at)
        assert not HISTORY.exists()
    found = train(params)
    assert len(re.findall("resuming from epoch", capsys.readouterr().out)) == 2
    pd.testing.assert_frame_equal(history(), expected)
    assert_equal(found, weights)


@pytest.mark.parametrize("variation", ["default", "early_stopping"])
def test_completed_training_is_not_continued(variation: str) -> None:
    """The process ended after the last epoch, before its model was saved."""
    params = PARAMS.model_copy(update=VARIATIONS[variation])
    completed, expected = train(params), history()
    found = train(params)
    pd.testing.assert_frame_equal(history(), expected)
    assert_equal(found, completed.get_weights())


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint folder of a training that was interrupted in its third epoch."""
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_pipeline()
        with pytest.raises(tf.errors.UnknownError, match="InterruptedTrainingError"):
            train(PARAMS, fails_at=12)
    return folder / paths.resume("unit")


@pytest.fixture
def last_checkpoint(interrupted: Path) -> Path:
    """Checkpoint of the second epoch of a training that was interrupted in its third."""
    return shutil.copytree(interrupted, paths.resume("unit")) / "epoch000002"


def assert_equal(model: keras.Model, weights: list[NDArray[np.float32]]) -> None:
    for found, expected in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("changed", ["images/a", "weights/small.h5", "params.yaml"])
def test_checkpoint_of_other_inputs_is_ignored(
    changed: str, last_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(changed).write_text(VALUES.replace("seed: 1", "seed: 2"))
    train(PARAMS)
    messages = [line for line in capsys.readouterr().out.splitlines() if "from scratch" in line]
    reason = "other data, code, parameters or libraries"
    assert messages == [f"checkpoint {last_checkpoint} ignored ({reason}): starting from scratch"]


@pytest.mark.usefixtures("last_checkpoint")
def test_inputs_of_other_stages_do_not_invalidate_the_checkpoint(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("params.yaml").write_text(VALUES.replace("epochs: 3", "epochs: 4"))
    Path("weights/large.h5").write_text("other")
    train(PARAMS)
    assert "resuming from epoch 2 (" in capsys.readouterr().out


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def replace_by_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.touch()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated weights": lambda folder: truncate(folder / "variables.npz"),
    "bit flip in weights": lambda folder: flip_a_bit(folder / "variables.npz"),
    "missing weights": lambda folder: (folder / "variables.npz").unlink(),
    "truncated state": lambda folder: truncate(folder / "state.json"),
    "missing state": lambda folder: (folder / "state.json").unlink(),
    "unexpected state": lambda folder: (folder / "state.json").write_text("[]"),
    "a file instead of a folder": replace_by_a_file,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint_is_reported_and_replaced(
    damage: str,
    last_checkpoint: Path,
    uninterrupted: Callable[[str], Result],
    capsys: pytest.CaptureFixture[str],
) -> None:
    DAMAGES[damage](last_checkpoint)
    assert_equal(train(PARAMS), uninterrupted("default")[0])
    messages = [line for line in capsys.readouterr().out.splitlines() if "from scratch" in line]
    assert messages == [f"checkpoint {last_checkpoint} ignored (damaged): starting from scratch"]
    assert [folder.name for folder in paths.resume("unit").iterdir()] == ["epoch000005"]


def test_earlier_checkpoint_is_used_if_the_last_is_damaged(
    last_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    later = shutil.copytree(last_checkpoint, last_checkpoint.with_name("epoch000003"))
    truncate(later / "variables.npz")
    train(PARAMS)
    assert "resuming from epoch 2 (" in capsys.readouterr().out


@pytest.mark.slow
def test_a_complete_checkpoint_exists_at_every_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Copy the folder before each change of a file, by audit events, as if killed there."""
    params = PARAMS.model_copy(update={"epochs": 3})
    snapshots: list[Path] = []
    recording = True

    def record(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal recording
        if recording and event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir"):
            recording = False
            snapshots.append(tmp_path / "snapshots" / str(len(snapshots)))
            shutil.copytree(paths.resume("unit"), snapshots[-1], dirs_exist_ok=True)
            recording = True

    paths.resume("unit").mkdir(parents=True)
    sys.addaudithook(record)
    weights = train(params).get_weights()
    recording = False
    n_checkpoints = [len(list(snapshot.glob("epoch*"))) for snapshot in snapshots]
    assert set(n_checkpoints) == {0, 1, 2}
    assert 0 not in n_checkpoints[n_checkpoints.index(1) :]
    for snapshot in snapshots[n_checkpoints.index(1) :]:
        shutil.rmtree(paths.resume("unit"))
        shutil.copytree(snapshot, paths.resume("unit"))
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(keras.Model, "fit", interrupt)
            with pytest.raises(InterruptedTrainingError):
                train(params)
        assert "resuming from epoch" in capsys.readouterr().out, sorted(snapshot.rglob("*"))
    with_two = snapshots[n_checkpoints.index(2)]
    shutil.rmtree(paths.resume("unit"))
    shutil.copytree(with_two, paths.resume("unit"))
    assert_equal(train(params), weights)


def interrupt(*arguments: object, **keywords: object) -> None:
    raise InterruptedTrainingError


def test_saving_the_model_removes_the_checkpoint() -> None:
    model = train(PARAMS)
    assert paths.resume("unit").exists()
    trainer.save("unit", model)
    assert not paths.resume("unit").exists()
    assert paths.model("unit").exists()


def test_incomplete_checkpoint_is_not_used(
    last_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_ended, of_running = (
        shutil.copytree(last_checkpoint, last_checkpoint.with_name(f".part-{pid}-epoch000003"))
        for pid in ("none", os.getppid())
    )
    (of_ended / "state.json").unlink()
    train(PARAMS)
    assert "resuming from epoch 2 (" in capsys.readouterr().out
    assert set(paths.resume("unit").iterdir()) == {
        last_checkpoint.with_name("epoch000005"),
        of_running,
    }


def test_without_resume_there_is_no_checkpoint() -> None:
    train(PARAMS, resume=False)
    assert not paths.resume("unit").exists()


def test_fingerprint_includes_files_of_subfolders() -> None:
    before = checkpoint.stage_fingerprint("train_unit")
    Path("images/more").mkdir()
    Path("images/more/labels.csv").write_text("label")
    assert checkpoint.stage_fingerprint("train_unit") != before


@pytest.mark.parametrize("name", ["__pycache__/a.cpython-312.pyc", "a.pyo", ".a.py.swp", "a.py~"])
def test_fingerprint_excludes_what_dvc_ignores(name: str) -> None:
    """Python writes bytecode into a folder of code while the training runs."""
    shutil.copy(PROJECT / ".dvcignore", ".")
    before = checkpoint.stage_fingerprint("train_unit")
    file = Path("images/more", name)
    file.parent.mkdir(parents=True)
    file.write_text("other")
    assert checkpoint.stage_fingerprint("train_unit") == before
    Path(".dvcignore").unlink()
    assert checkpoint.stage_fingerprint("train_unit") != before


@pytest.mark.parametrize("library", ["keras", "numpy", "tensorflow"])
def test_fingerprint_includes_library_versions(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = checkpoint.stage_fingerprint("train_unit")
    monkeypatch.setattr(f"{library}.__version__", "0")
    assert checkpoint.stage_fingerprint("train_unit") != before


@pytest.mark.parametrize("missing", ["images", "weights/small.h5"])
def test_error_names_the_missing_dependency(missing: str) -> None:
    Path(missing).rename("elsewhere")
    with pytest.raises(CxrError, match=missing):
        checkpoint.stage_fingerprint("train_unit")
