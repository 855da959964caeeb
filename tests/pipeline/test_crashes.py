"""Stages that are killed, interrupted or starved leave nothing half-written; `dvc repro` mends."""

import subprocess

import pytest

from reliability.crashes import End, Trial
from tests.support.project import Project

CUDA = "E0000 cuda_platform.cc:52] INTERNAL: CUDA error: no driver\n"  # TensorFlow's, no failure


@pytest.fixture(scope="module")
def trial(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """A copy of the finished project, results and cache included."""
    return Trial(finished.copy(tmp_path_factory.mktemp("crashes") / "project"))


ENDS = {
    "one error": (End(1, f"{CUDA}\nerror: the disk is full\n"), True),
    "two errors": (End(1, "error: the disk is full\nerror: and more\n"), False),
    "a traceback as well": (End(1, "Traceback (most recent call last)\nerror: full\n"), False),
    "no error of ours": (End(1, CUDA), False),
    "success": (End(0, "error: the disk is full\n"), False),
}


@pytest.mark.parametrize("case", ENDS)
def test_what_counts_as_one_error(case: str) -> None:
    end, is_one = ENDS[case]
    assert end.is_one_error() == is_one


@pytest.mark.slow
def test_killed_stages_are_mended(trial: Trial) -> None:
    assert trial.kill("evaluate", 2, seconds=6)  # the stage alone
    assert trial.kill("train_baseline", 3, seconds=0)  # all, while a result is being written
    assert trial.kill("preprocess", 7, seconds=0)  # the same, of DVC alone: the stage goes on
    assert trial.kill("fetch", 0, seconds=2)
    assert trial.mended()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["fetch", "preprocess"])
def test_a_full_disk_ends_a_stage_with_one_error(trial: Trial, stage: str) -> None:
    assert trial.limited(stage).reached


@pytest.mark.slow
def test_a_read_only_folder_ends_a_stage_with_one_error(trial: Trial) -> None:
    try:
        assert trial.read_only("preprocess").reached
    except subprocess.CalledProcessError:
        pytest.skip("root cannot mount here, and for root nothing else is read-only")


@pytest.mark.slow
def test_ctrl_c_ends_a_stage_with_one_message(trial: Trial) -> None:
    assert trial.interrupted("preprocess", times=2).reached
