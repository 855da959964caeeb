"""An interrupted and resumed training ends with the weights of an uninterrupted one."""

import functools
import os
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
    "plain": {},
    "schedule": {"schedule": "cosine", "weight_decay": 0.01},
    "average": {"ema_decay": 0.9},
    "normalised": {"batch_norm": True},
    "stopped": {"learning_rate": 0.02, "early_stopping": 4, "epochs": 12},
}


VALUES = "{seed: 1, transfer: {backbone: small, epochs: 3}}"


# Weights and history.
Ended = tuple[list[NDArray[np.float32]], pd.DataFrame]


class CutOffError(Exception):
    """Stands for a power cut."""


class Cut(ArrayDataset):
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


def train(params: ModelParams, cut: int = -1, resume: bool = True) -> keras.Model:
    """A new process's training, which fails at batch `cut`."""
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 40)
    images = rng.integers(0, 200, (40, SIDE, SIDE)).astype(np.uint8) + 50 * labels[:, None, None]
    images = images.astype(np.uint8)
    batches, val = Cut(images[:30], labels[:30], 8, 1), ArrayDataset(images[30:], labels[30:], 8)
    batches.at = cut
    image = keras.Input((SIDE, SIDE, 1), dtype="uint8")
    network = networks.small_cnn(params)
    model = keras.Model(image, networks.apply(network, image))
    flip = networks.augmentation(read_params(PROJECT / "params.yaml").augment, 1)
    stack = [*flip, *fast_layers.for_training(network)]
    learner = keras.Model(image, networks.apply(stack, image))
    trainer.train("unit", learner, batches, val, params, {0: 1.0, 1: 2.0}, resume=resume)
    return model


def history() -> pd.DataFrame:
    return pd.read_csv(HISTORY).drop(columns="seconds")


@pytest.fixture(scope="module")
def in_one_go(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ended]:
    """How a training ends that is never cut off, by variation."""

    @functools.cache
    def ended(variation: str) -> Ended:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path_factory.mktemp("whole"))
            params = PARAMS.model_copy(update=VARIATIONS[variation])
            return train(params, resume=False).get_weights(), history()

    return ended


@pytest.mark.slow
@pytest.mark.parametrize("cut", [7, 19])
@pytest.mark.parametrize("variation", VARIATIONS)
def test_a_cut_changes_nothing(
    variation: str,
    cut: int,
    in_one_go: Callable[[str], Ended],
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights, expected = in_one_go(variation)
    params = PARAMS.model_copy(update=VARIATIONS[variation])
    with pytest.raises(tf.errors.UnknownError, match="CutOffError"):
        train(params, cut)
    assert not HISTORY.exists()
    found = train(params)
    assert "resuming from epoch" in capsys.readouterr().out
    pd.testing.assert_frame_equal(history(), expected)
    assert_equal(found, weights)


@pytest.mark.parametrize("variation", ["plain", "stopped"])
def test_a_finished_training_is_not_trained_on(variation: str) -> None:
    """The process died after the last epoch, before its model was saved."""
    params = PARAMS.model_copy(update=VARIATIONS[variation])
    whole, expected = train(params), history()
    found = train(params)
    pd.testing.assert_frame_equal(history(), expected)
    assert_equal(found, whole.get_weights())


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a training leaves that is cut off in its third epoch."""
    folder = tmp_path_factory.mktemp("left")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_pipeline()
        with pytest.raises(tf.errors.UnknownError, match="CutOffError"):
            train(PARAMS, cut=12)
    return folder / paths.resume("unit")


@pytest.fixture
def kept(left: Path) -> Path:
    """The second epoch of a training that was cut off here in its third."""
    return shutil.copytree(left, paths.resume("unit")) / "epoch000002"


def assert_equal(model: keras.Model, weights: list[NDArray[np.float32]]) -> None:
    for ours, theirs in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("changed", ["images/a", "weights/small.h5", "params.yaml"])
def test_what_belongs_to_other_inputs_is_not_used(
    changed: str, kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(changed).write_text(VALUES.replace("seed: 1", "seed: 2"))
    train(PARAMS)
    said = [line for line in capsys.readouterr().out.splitlines() if "from scratch" in line]
    reason = "other data, code, parameters or libraries"
    assert said == [f"checkpoint {kept} ignored ({reason}): starting from scratch"]


@pytest.mark.usefixtures("kept")
def test_what_the_stage_does_not_read_may_change(capsys: pytest.CaptureFixture[str]) -> None:
    Path("params.yaml").write_text(VALUES.replace("epochs: 3", "epochs: 4"))
    Path("weights/large.h5").write_text("other")
    train(PARAMS)
    assert "resuming from epoch 2 (" in capsys.readouterr().out


def shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def put_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.touch()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "short weights": lambda kept: shorten(kept / "variables.npz"),
    "flipped weights": lambda kept: flip_a_bit(kept / "variables.npz"),
    "no weights": lambda kept: (kept / "variables.npz").unlink(),
    "short state": lambda kept: shorten(kept / "state.json"),
    "no state": lambda kept: (kept / "state.json").unlink(),
    "another state": lambda kept: (kept / "state.json").write_text("[]"),
    "a file": put_a_file,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_told_and_replaced(
    damage: str,
    kept: Path,
    in_one_go: Callable[[str], Ended],
    capsys: pytest.CaptureFixture[str],
) -> None:
    DAMAGES[damage](kept)
    assert_equal(train(PARAMS), in_one_go("plain")[0])
    said = [line for line in capsys.readouterr().out.splitlines() if "from scratch" in line]
    assert said == [f"checkpoint {kept} ignored (damaged): starting from scratch"]
    assert [folder.name for folder in paths.resume("unit").iterdir()] == ["epoch000005"]


def test_a_whole_state_is_used_where_a_later_one_is_damaged(
    kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    later = shutil.copytree(kept, kept.with_name("epoch000003"))
    shorten(later / "variables.npz")
    train(PARAMS)
    assert "resuming from epoch 2 (" in capsys.readouterr().out


@pytest.mark.slow
def test_there_is_a_whole_state_at_every_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a kill would leave before each change of the folder, told by Python's audit events."""
    params = PARAMS.model_copy(update={"epochs": 3})
    moments: list[Path] = []
    looking = True

    def look(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal looking
        if looking and event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir"):
            looking = False
            moments.append(tmp_path / "moments" / str(len(moments)))
            shutil.copytree(paths.resume("unit"), moments[-1], dirs_exist_ok=True)
            looking = True

    paths.resume("unit").mkdir(parents=True)
    sys.addaudithook(look)
    weights = train(params).get_weights()
    looking = False
    standing = [len(list(moment.glob("epoch*"))) for moment in moments]
    assert set(standing) == {0, 1, 2}
    assert 0 not in standing[standing.index(1) :]
    for moment in moments[standing.index(1) :]:
        shutil.rmtree(paths.resume("unit"))
        shutil.copytree(moment, paths.resume("unit"))
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(keras.Model, "fit", cut_before_fit)
            with pytest.raises(CutOffError):
                train(params)
        assert "resuming from epoch" in capsys.readouterr().out, sorted(moment.rglob("*"))
    between = moments[standing.index(2)]
    shutil.rmtree(paths.resume("unit"))
    shutil.copytree(between, paths.resume("unit"))
    assert_equal(train(params), weights)


def cut_before_fit(*arguments: object, **named: object) -> None:
    raise CutOffError


def test_the_saved_model_ends_it() -> None:
    model = train(PARAMS)
    assert paths.resume("unit").exists()
    trainer.save("unit", model)
    assert not paths.resume("unit").exists()
    assert paths.model("unit").exists()


def test_a_half_written_state_is_not_used(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended, running = (
        shutil.copytree(kept, kept.with_name(f".part-{pid}-epoch000003"))
        for pid in ("none", os.getppid())
    )
    (ended / "state.json").unlink()
    train(PARAMS)
    assert "resuming from epoch 2 (" in capsys.readouterr().out
    assert set(paths.resume("unit").iterdir()) == {kept.with_name("epoch000005"), running}


def test_without_resume_nothing_is_kept() -> None:
    train(PARAMS, resume=False)
    assert not paths.resume("unit").exists()


def test_the_fingerprint_is_of_every_file_below_a_folder() -> None:
    before = checkpoint.stage_fingerprint("train_unit")
    Path("images/more").mkdir()
    Path("images/more/labels.csv").write_text("label")
    assert checkpoint.stage_fingerprint("train_unit") != before


@pytest.mark.parametrize("name", ["__pycache__/a.cpython-312.pyc", "a.pyo", ".a.py.swp", "a.py~"])
def test_what_dvc_ignores_does_not_change_the_fingerprint(name: str) -> None:
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
def test_the_fingerprint_is_of_the_libraries(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = checkpoint.stage_fingerprint("train_unit")
    monkeypatch.setattr(f"{library}.__version__", "0")
    assert checkpoint.stage_fingerprint("train_unit") != before


@pytest.mark.parametrize("missing", ["images", "weights/small.h5"])
def test_a_missing_input_is_named(missing: str) -> None:
    Path(missing).rename("elsewhere")
    with pytest.raises(CxrError, match=f"{missing} is missing.*run `dvc repro train_unit`"):
        checkpoint.stage_fingerprint("train_unit")
