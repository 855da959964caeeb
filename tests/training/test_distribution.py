"""A training over several devices or processes learns what one device learns."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

import stages.fetch
import stages.preprocess
from cxr import paths
from cxr.errors import CxrError
from cxr.tools import project_copy
from cxr.training import batches, distribution
from cxr.training.batches import ArrayDataset
from tests.support.project import QUICK

pytestmark = pytest.mark.slow

LOSSES = ["loss", "accuracy", "val_loss", "val_accuracy"]
EPOCHS = 3
STAGE = ("-m", "stages.train_baseline")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with cached arrays."""
    folder = tmp_path_factory.mktemp("distributed")
    project_copy.copy_project(folder)
    settings = QUICK | {"model.epochs": EPOCHS, "model.batch_size": 16}
    project_copy.set_params(folder / "params.yaml", settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        stages.fetch.main()
        stages.preprocess.main()
    return folder


class Trained:
    """A training of the small network in a copy of the project."""

    def __init__(self, prepared: Path, folder: Path, mode: str, **settings: object) -> None:
        self.folder = shutil.copytree(prepared, folder)
        project_copy.set_params(folder / "params.yaml", {"train.strategy": mode} | settings)
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *command: str, **variables: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *(command or STAGE)],
            cwd=self.folder,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(process)
        return process

    def start_two(self, *programs: str) -> list[subprocess.Popen[str]]:
        """Two processes of one training, which run the stage or a program each."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        return [
            self.start(
                *(("-c", program) if program else ()),
                KERAS_BACKEND="jax",
                KERAS_DISTRIBUTION_JOB_ADDRESSES=address,
                KERAS_DISTRIBUTION_NUM_PROCESSES="2",
                KERAS_DISTRIBUTION_PROCESS_ID=str(number),
            )
            for number, program in enumerate(programs or ("", ""))
        ]

    @property
    def history(self) -> Path:
        return self.folder / paths.history("baseline")

    def losses(self) -> pd.DataFrame:
        return pd.read_csv(self.history)[LOSSES]


Train = Callable[..., Trained]


@pytest.fixture
def training(prepared: Path, tmp_path: Path) -> Iterator[Train]:
    """Makes trainings; none of their processes outlives the test, whatever happens in it."""
    made: list[Trained] = []

    def make(mode: str, **settings: object) -> Trained:
        made.append(Trained(prepared, tmp_path / str(len(made)), mode, **settings))
        return made[-1]

    yield make
    for process in [process for one in made for process in one.started]:
        with process:  # closes its pipe
            process.kill()


def epochs(output: str) -> list[str]:
    """What a process said of each epoch, but for the time."""
    return re.findall(r"^epoch .* val_accuracy [\d.]+", output, re.MULTILINE)


def assert_done(*processes: subprocess.Popen[str]) -> list[str]:
    """Wait for processes; what they said."""
    outputs = [process.communicate()[0] for process in processes]
    assert not any(process.returncode for process in processes), "\n".join(outputs)
    return outputs


def test_two_processes_learn_what_one_learns(training: Train) -> None:
    alone = training("none")
    together = training("multihost")
    outputs = assert_done(*together.start_two(), alone.start(KERAS_BACKEND="jax"))
    said = [epochs(output) for output in outputs]
    assert said[0] == said[1]
    assert len(said[0]) == EPOCHS
    assert np.allclose(alone.losses(), together.losses(), rtol=0, atol=1e-4)
    model = together.folder / paths.model("baseline")
    assert keras.saving.load_model(model).count_params() > 0  # on this test's backend


# The stage, but it does not wait half a minute for a process that gives no sign of life.
IMPATIENT = """
import stages.train_baseline as stage
from cxr.training import distribution
distribution.HEARTBEAT_TIMEOUT = 8
stage.run_stage(stage.main)
"""


@pytest.mark.parametrize("dies", [0, 1])
def test_where_one_process_dies_the_other_ends(training: Train, dies: int) -> None:
    together = training("multihost", **{"model.epochs": 100_000})
    both = together.start_two(IMPATIENT, IMPATIENT)
    wait_for_second_epoch(both[dies])
    both[dies].send_signal(signal.SIGKILL)
    both[dies].communicate()
    assert_told_of_the_end(both[1 - dies])
    assert not together.history.exists()


def wait_for_second_epoch(process: subprocess.Popen[str]) -> None:
    for line in process.stdout or ():
        if line.startswith("epoch 2/"):
            break


def assert_told_of_the_end(process: subprocess.Popen[str]) -> None:
    """It ends in time and says that another one did."""
    started = time.monotonic()
    output, _ = process.communicate(timeout=2 * distribution.HEARTBEAT_TIMEOUT)
    assert time.monotonic() - started < 2 * distribution.HEARTBEAT_TIMEOUT
    assert process.returncode == 1, output
    assert "error: another process of this training ended" in output


# Asks for more memory than there is in the third epoch.
FAILING = """
import jax, keras
import stages.train_baseline as stage
from cxr.training import distribution, trainer
distribution.HEARTBEAT_TIMEOUT = 8
class Full(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            jax.numpy.zeros(2**46).block_until_ready()
callbacks = trainer._callbacks
trainer._callbacks = lambda params: [Full(), *callbacks(params)]
stage.run_stage(stage.main)
"""


def test_a_process_tells_of_its_own_failure(training: Train) -> None:
    together = training("multihost", **{"model.epochs": 100_000})
    other, failing = together.start_two(IMPATIENT, FAILING)
    wait_for_second_epoch(failing)
    output, _ = failing.communicate(timeout=2 * distribution.HEARTBEAT_TIMEOUT)
    assert failing.returncode == 1, output
    assert "Traceback" in output
    assert "JaxRuntimeError: RESOURCE_EXHAUSTED" in output
    assert "another process" not in output
    assert_told_of_the_end(other)


@pytest.mark.parametrize(
    ("said", "lost"),
    [
        ("UNAVAILABLE: Failed to send RPC to coordination service.", True),
        ("DEADLINE_EXCEEDED: Barrier timed out.", True),
        ("UNKNOWN: Gloo all-reduce failed: Connection closed by peer [127.0.0.1]:5045", True),
        ("INTERNAL: Error while lowering", False),
        ("INVALID_ARGUMENT: Argument does not match", False),
        ("the rows were UNAVAILABLE: sorry", False),
    ],
)
def test_which_errors_are_of_lost_processes(said: str, lost: bool) -> None:
    assert bool(distribution.PEER_LOST.match(said)) == lost


def test_hosts_need_equally_many_devices() -> None:
    distribution._refuse_unequal(Counter([0, 1, 0, 1]))
    with pytest.raises(CxrError, match="process 0 has 1, process 1 has 2"):
        distribution._refuse_unequal(Counter([0, 1, 1]))


def test_a_process_that_is_told_of_no_others_says_so(training: Train) -> None:
    alone = training("multihost").start(KERAS_BACKEND="jax")
    output, _ = alone.communicate()
    assert alone.returncode == 1
    assert "did not find each other" in output
    assert "KERAS_DISTRIBUTION_JOB_ADDRESSES" in output


def test_the_backend_has_to_fit() -> None:
    with pytest.raises(CxrError, match="multihost needs Keras on jax, not on tensorflow"):
        distribution.strategy_scope("multihost")


MIRRORED = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import stages.train_baseline as stage
assert len(tf.config.list_logical_devices("CPU")) == 2
stage.run_stage(stage.main)
"""


def test_two_devices_learn_what_one_learns(training: Train) -> None:
    off = {"model.conv_dropout": 0.0, "model.dense_dropout": 0.0}  # devices draw their own
    alone = training("none", **off)
    mirrored = training("mirrored", **off)
    assert_done(alone.start(), mirrored.start("-c", MIRRORED))
    assert np.allclose(alone.losses(), mirrored.losses(), rtol=0, atol=1e-4)


def test_mirrored_batches_are_split_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distribution, "_replicas", lambda: 3)
    rows = np.arange(11, dtype=np.float32)[:, np.newaxis]
    batches = ArrayDataset(rows, np.zeros(11, int), 6, shuffle_seed=1)
    assert [len(batches[number][0]) for number in range(len(batches))] == [6, 3]
    whole = ArrayDataset(rows, np.zeros(11, int), 6)
    assert np.concatenate([whole[0][0], whole[1][0]])[:, 0].tolist() == list(range(11))
    with pytest.raises(CxrError, match="batch_size 4 cannot be split over 3 devices"):
        ArrayDataset(rows, np.zeros(11, int), 4)


@pytest.fixture
def two_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    process = distribution.ProcessInfo(index=1, count=2, local_devices=2)
    monkeypatch.setattr(distribution, "process_info", lambda: process)


def test_a_process_takes_its_share_of_a_batch(two_devices: None) -> None:
    rows = np.arange(11, dtype=np.float32)[:, np.newaxis]
    labels = np.zeros(11, int)
    batches = ArrayDataset(rows, labels, 4, shuffle_seed=1)
    taken = np.concatenate([batches[number][0][:, 0] for number in range(len(batches))])
    assert len(batches) == 2
    assert taken.tolist() == batches.order[[2, 3, 6, 7]].tolist()


def test_every_device_sees_all_of_validation(two_devices: None) -> None:
    rows = np.arange(5, dtype=np.float32)[:, np.newaxis]
    batches = ArrayDataset(rows, np.zeros(5, int), 4)
    assert batches[0][0][:, 0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert batches[1][0][:, 0].tolist() == [4, 4]


def test_a_batch_that_cannot_be_split_is_refused(two_devices: None) -> None:
    with pytest.raises(CxrError, match="batch_size 6 cannot be split over 4 devices"):
        batches.ArrayDataset(np.zeros((8, 1)), np.zeros(8, int), 6)
