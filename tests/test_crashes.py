"""Stages that are killed, interrupted or starved leave nothing half-written; `dvc repro` mends."""

import subprocess

import pytest
from conftest import Project

from reliability.crashes import Trial

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trial(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """A copy of the finished project, results and cache included."""
    return Trial(finished.copy(tmp_path_factory.mktemp("crashes") / "project"))


def test_killed_stages_are_mended(trial: Trial) -> None:
    assert trial.kill("evaluate", 2, seconds=6)  # the stage alone
    assert trial.kill("train_baseline", 3, seconds=0)  # all, while a result is being written
    assert trial.kill("preprocess", 7, seconds=0)  # the same, of DVC alone: the stage goes on
    assert trial.kill("fetch", 0, seconds=2)
    assert trial.mended()


@pytest.mark.parametrize("stage", ["fetch", "preprocess"])
def test_a_full_disk_ends_a_stage_with_one_error(trial: Trial, stage: str) -> None:
    assert trial.limited(stage).reached


def test_a_read_only_folder_ends_a_stage_with_one_error(trial: Trial) -> None:
    try:
        assert trial.read_only("preprocess").reached
    except subprocess.CalledProcessError:
        pytest.skip("root cannot mount here, and for root nothing else is read-only")


def test_ctrl_c_ends_a_stage_with_one_message(trial: Trial) -> None:
    assert trial.interrupted("preprocess", times=2).reached
