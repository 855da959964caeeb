"""A training over several devices or processes learns what one device learns."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import QUICK

from cxr import datasets, demo, distribution, paths
from cxr.errors import CxrError

pytestmark = pytest.mark.slow

PREPARED = ("fetch", "preprocess", "stress", "fetch_weights", "extract_features")
LOSSES = ["loss", "accuracy", "val_loss", "val_accuracy"]
SETTINGS = QUICK | {
    **{"model.epochs": 3, "model.batch_size": 16},
    **{"transfer.epochs": 3, "transfer.batch_size": 16},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with cached arrays and features."""
    folder = tmp_path_factory.mktemp("distributed")
    demo.copy_project(folder)
    demo.set_params(folder / "params.yaml", SETTINGS)
    for stage in PREPARED:
        process = start(folder, stage)
        output, _ = process.communicate()
        assert process.returncode == 0, output
    return folder


def start(folder: Path, stage: str = "train_transfer", **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", f"stages.{stage}"],
        cwd=folder,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_two(folder: Path) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [
        start(
            folder,
            KERAS_BACKEND="jax",
            KERAS_DISTRIBUTION_JOB_ADDRESSES=address,
            KERAS_DISTRIBUTION_NUM_PROCESSES="2",
            KERAS_DISTRIBUTION_PROCESS_ID=str(number),
        )
        for number in range(2)
    ]


def set_distribution(folder: Path, mode: str, **settings: object) -> None:
    demo.set_params(folder / "params.yaml", {"train.distribution": mode} | settings)


def history_of_one(folder: Path, variant: str, backend: str) -> pd.DataFrame:
    set_distribution(folder, "none")
    alone = start(folder, f"train_{variant}", KERAS_BACKEND=backend)
    output, _ = alone.communicate()
    assert alone.returncode == 0, output
    return losses(folder, variant)


def losses(folder: Path, variant: str) -> pd.DataFrame:
    return pd.read_csv(folder / paths.history(variant))[LOSSES]


def epochs(output: str) -> list[str]:
    """What a process said of each epoch, but for the time."""
    lines = [line for line in output.splitlines() if "val_loss" in line]
    return [line[line.index("accuracy") : line.index(" - seconds")] for line in lines]


def test_two_processes_learn_what_one_learns(project: Path) -> None:
    alone = history_of_one(project, "transfer", "jax")
    model = project / paths.model("transfer")
    model.unlink()
    set_distribution(project, "multihost")
    both = start_two(project)
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    said = [epochs(output) for output in outputs]
    assert said[0] == said[1]
    assert len(said[0]) == SETTINGS["transfer.epochs"]
    together = losses(project, "transfer")
    assert np.allclose(alone, together, rtol=0, atol=1e-4)
    assert keras.saving.load_model(model).count_params() > 0  # on this test's backend


@pytest.mark.parametrize("dies", [0, 1])
def test_where_one_process_dies_the_other_ends(project: Path, dies: int) -> None:
    history = project / paths.history("transfer")
    history.unlink(missing_ok=True)
    set_distribution(project, "multihost", **{"transfer.epochs": 100_000})
    both = start_two(project)
    other = both[1 - dies]
    for line in both[dies].stdout or ():
        if line.startswith("Epoch 2"):
            break
    both[dies].send_signal(signal.SIGKILL)
    both[dies].communicate()
    started = time.monotonic()
    output, _ = other.communicate(timeout=2 * distribution.LOST_AFTER)
    assert time.monotonic() - started < 2 * distribution.LOST_AFTER
    assert other.returncode == 1, output
    assert "error: another process of this training ended" in output
    assert not history.exists()
    set_distribution(project, "none", **{"transfer.epochs": SETTINGS["transfer.epochs"]})


def test_a_process_that_is_told_of_no_others_says_so(project: Path) -> None:
    set_distribution(project, "multihost")
    alone = start(project, KERAS_BACKEND="jax")
    output, _ = alone.communicate()
    set_distribution(project, "none")
    assert alone.returncode == 1
    assert "did not find each other" in output
    assert "KERAS_DISTRIBUTION_JOB_ADDRESSES" in output


def test_the_backend_has_to_fit() -> None:
    with pytest.raises(CxrError, match="multihost needs Keras on jax, not on tensorflow"):
        distribution.spread("multihost")


MIRRORED = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import stages.train_baseline as stage
assert len(tf.config.list_logical_devices("CPU")) == 2
stage.run_stage(stage.main)
"""


def test_two_devices_learn_what_one_learns(project: Path) -> None:
    # Devices draw their own dropout.
    off = {"model.conv_dropout": 0.0, "model.dense_dropout": 0.0}
    demo.set_params(project / "params.yaml", off)
    alone = history_of_one(project, "baseline", "tensorflow")
    set_distribution(project, "mirrored")
    done = subprocess.run(
        [sys.executable, "-c", MIRRORED], cwd=project, capture_output=True, text=True, check=False
    )
    set_distribution(project, "none")
    assert done.returncode == 0, done.stdout + done.stderr
    mirrored = losses(project, "baseline")
    assert np.allclose(alone, mirrored, rtol=0, atol=1e-4), f"{alone}\n{mirrored}"


@pytest.fixture
def two_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    place = distribution.Place(number=1, processes=2, devices=2)
    monkeypatch.setattr(distribution, "place", lambda: place)


def test_a_process_takes_its_share_of_a_batch(two_devices: None) -> None:
    rows = np.arange(11, dtype=np.float32)[:, np.newaxis]
    labels = np.zeros(11, int)
    batches = datasets.Batches(rows, labels, 4, shuffle_seed=1)
    taken = np.concatenate([batches[number][0][:, 0] for number in range(len(batches))])
    assert len(batches) == 2
    assert taken.tolist() == batches.order[[2, 3, 6, 7]].tolist()


def test_every_device_sees_all_of_validation(two_devices: None) -> None:
    rows = np.arange(5, dtype=np.float32)[:, np.newaxis]
    batches = datasets.Batches(rows, np.zeros(5, int), 4)
    assert batches[0][0][:, 0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert batches[1][0][:, 0].tolist() == [4, 4]


def test_a_batch_that_cannot_be_split_is_refused(two_devices: None) -> None:
    with pytest.raises(CxrError, match="batch_size 6 cannot be split over 4 devices"):
        datasets.Batches(np.zeros((8, 1)), np.zeros(8, int), 6)
