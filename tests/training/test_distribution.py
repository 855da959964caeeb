"""Distributed training gives the results of training on one device."""

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


class TrainingRun:
    """A training of the small CNN in a copy of the project."""

    def __init__(self, prepared: Path, folder: Path, strategy: str, **settings: object) -> None:
        self.folder = shutil.copytree(prepared, folder)
        project_copy.set_params(folder / "params.yaml", {"train.strategy": strategy} | settings)
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
        """Start two processes of one training, each of which runs the stage or a program."""
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


Train = Callable[..., TrainingRun]


@pytest.fixture
def training(prepared: Path, tmp_path: Path) -> Iterator[Train]:
    """Create trainings; kill their processes after the test, even if it fails."""
    runs: list[TrainingRun] = []

    def make(strategy: str, **settings: object) -> TrainingRun:
        runs.append(TrainingRun(prepared, tmp_path / str(len(runs)), strategy, **settings))
        return runs[-1]

    yield make
    for process in [process for run in runs for process in run.started]:
        with process:  # closes its pipe
            process.kill()


def epochs(output: str) -> list[str]:
    """Lines of the epochs in the output of a process, without durations."""
    return re.findall(r"^epoch .* val_accuracy [\d.]+", output, re.MULTILINE)


def wait_for_success(*processes: subprocess.Popen[str]) -> list[str]:
    """Wait for processes that must succeed; return their outputs."""
    outputs = [process.communicate()[0] for process in processes]
    assert not any(process.returncode for process in processes), "\n".join(outputs)
    return outputs


def test_two_processes_train_like_one(training: Train) -> None:
    alone = training("none")
    together = training("multihost")
    outputs = wait_for_success(*together.start_two(), alone.start(KERAS_BACKEND="jax"))
    lines = [epochs(output) for output in outputs]
    assert lines[0] == lines[1]
    assert len(lines[0]) == EPOCHS
    assert np.allclose(alone.losses(), together.losses(), rtol=0, atol=1e-4)
    model = together.folder / paths.model("baseline")
    assert keras.saving.load_model(model).count_params() > 0  # by the backend of this test


# The stage with a shorter heartbeat timeout.
IMPATIENT = """
import stages.train_baseline as stage
from cxr.training import distribution
distribution.HEARTBEAT_TIMEOUT = 15
stage.run_stage(stage.main)
"""


@pytest.mark.parametrize("killed", [0, 1])
def test_if_one_process_is_killed_the_other_ends(training: Train, killed: int) -> None:
    together = training("multihost", **{"model.epochs": 100_000})
    both = together.start_two(IMPATIENT, IMPATIENT)
    wait_for_second_epoch(both[killed])
    both[killed].send_signal(signal.SIGKILL)
    both[killed].communicate()
    assert_reports_lost_process(both[1 - killed])
    assert not together.history.exists()


def wait_for_second_epoch(process: subprocess.Popen[str]) -> None:
    for line in process.stdout or ():
        if line.startswith("epoch 2/"):
            break


def assert_reports_lost_process(process: subprocess.Popen[str]) -> None:
    """Assert that a process ends in time and reports that another one ended."""
    started = time.monotonic()
    output, _ = process.communicate(timeout=2 * distribution.HEARTBEAT_TIMEOUT)
    assert time.monotonic() - started < 2 * distribution.HEARTBEAT_TIMEOUT
    assert process.returncode == 1, output
    assert "error: another process of this training ended" in output


# Allocates more memory than exists in the third epoch.
FAILING = """
import jax, keras
import stages.train_baseline as stage
from cxr.training import distribution, trainer
distribution.HEARTBEAT_TIMEOUT = 15
class AllocateTooMuch(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            jax.numpy.zeros(2**46).block_until_ready()
callbacks = trainer._callbacks
trainer._callbacks = lambda params: [AllocateTooMuch(), *callbacks(params)]
stage.run_stage(stage.main)
"""


def test_process_reports_its_own_error(training: Train) -> None:
    together = training("multihost", **{"model.epochs": 100_000})
    other, failing = together.start_two(IMPATIENT, FAILING)
    wait_for_second_epoch(failing)
    output, _ = failing.communicate(timeout=2 * distribution.HEARTBEAT_TIMEOUT)
    assert failing.returncode == 1, output
    assert "Traceback" in output
    assert "JaxRuntimeError: RESOURCE_EXHAUSTED" in output
    assert "another process" not in output
    assert_reports_lost_process(other)


@pytest.mark.parametrize(
    ("message", "lost"),
    [
        ("UNAVAILABLE: Failed to send RPC to coordination service.", True),
        ("DEADLINE_EXCEEDED: Barrier timed out.", True),
        ("UNKNOWN: Gloo all-reduce failed: Connection closed by peer [127.0.0.1]:5045", True),
        ("INTERNAL: Error while lowering", False),
        ("INVALID_ARGUMENT: Argument does not match", False),
        ("the rows were UNAVAILABLE: sorry", False),
    ],
)
def test_errors_of_lost_processes(message: str, lost: bool) -> None:
    assert bool(distribution.PEER_LOST.match(message)) == lost


def test_hosts_need_the_same_number_of_devices() -> None:
    distribution._refuse_unequal(Counter([0, 1, 0, 1]))
    with pytest.raises(CxrError, match="process 0 has 1, process 1 has 2"):
        distribution._refuse_unequal(Counter([0, 1, 1]))


def test_process_without_addresses_is_an_error(training: Train) -> None:
    alone = training("multihost").start(KERAS_BACKEND="jax")
    output, _ = alone.communicate()
    assert alone.returncode == 1
    assert "KERAS_DISTRIBUTION_JOB_ADDRESSES" in output


def test_strategy_needs_its_backend() -> None:
    with pytest.raises(CxrError, match="KERAS_BACKEND=jax"):
        distribution.strategy_scope("multihost")


MIRRORED = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import stages.train_baseline as stage
assert len(tf.config.list_logical_devices("CPU")) == 2
stage.run_stage(stage.main)
"""


def test_two_devices_train_like_one(training: Train) -> None:
    no_dropout = {
        "model.conv_dropout": 0.0,
        "model.dense_dropout": 0.0,
    }  # each device has its own random numbers
    alone = training("none", **no_dropout)
    mirrored = training("mirrored", **no_dropout)
    wait_for_success(alone.start(), mirrored.start("-c", MIRRORED))
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


def test_process_gets_its_part_of_a_batch(two_devices: None) -> None:
    rows = np.arange(11, dtype=np.float32)[:, np.newaxis]
    labels = np.zeros(11, int)
    batches = ArrayDataset(rows, labels, 4, shuffle_seed=1)
    taken = np.concatenate([batches[number][0][:, 0] for number in range(len(batches))])
    assert len(batches) == 2
    assert taken.tolist() == batches.order[[2, 3, 6, 7]].tolist()


def test_each_device_gets_all_validation_rows(two_devices: None) -> None:
    rows = np.arange(5, dtype=np.float32)[:, np.newaxis]
    batches = ArrayDataset(rows, np.zeros(5, int), 4)
    assert batches[0][0][:, 0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert batches[1][0][:, 0].tolist() == [4, 4]


def test_batch_size_must_be_a_multiple_of_the_devices(two_devices: None) -> None:
    with pytest.raises(CxrError, match="batch_size 6 cannot be split over 4 devices"):
        batches.ArrayDataset(np.zeros((8, 1)), np.zeros(8, int), 6)
