"""Killed or failing stages leave no partial files; `dvc repro` restores the results."""

import subprocess

import pytest

from reliability.crashes import End, Trial
from tests.support.project import Project

CUDA = "E0000 cuda_platform.cc:52] INTERNAL: CUDA error: no driver\n"  # of TensorFlow, harmless


@pytest.fixture(scope="module")
def trial(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """A copy of the finished project with its results and cache."""
    return Trial(finished.copy(tmp_path_factory.mktemp("crashes") / "project"))


ENDS = {
    "one error": (End(1, f"{CUDA}\nerror: the disk is full\n"), True),
    "two errors": (End(1, "error: the disk is full\nerror: and more\n"), False),
    "traceback and error": (End(1, "Traceback (most recent call last)\nerror: full\n"), False),
    "error of a library": (End(1, CUDA), False),
    "success": (End(0, "error: the disk is full\n"), False),
}


@pytest.mark.parametrize("case", ENDS)
def test_is_one_error(case: str) -> None:
    end, is_one = ENDS[case]
    assert end.is_one_error() == is_one


@pytest.mark.slow
def test_results_are_restored_after_kills(trial: Trial) -> None:
    assert trial.kill("evaluate", 2, seconds=6)  # only the stage
    assert trial.kill("train_baseline", 3, seconds=0)  # all processes, during a write
    assert trial.kill("preprocess", 7, seconds=0)  # only DVC, during a write: the stage continues
    assert trial.kill("fetch", 0, seconds=2)
    assert trial.is_restored()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["fetch", "preprocess"])
def test_full_disk_is_one_error(trial: Trial, stage: str) -> None:
    assert trial.limited(stage).reached


@pytest.mark.slow
def test_read_only_folder_is_one_error(trial: Trial) -> None:
    try:
        assert trial.read_only("preprocess").reached
    except subprocess.CalledProcessError:
        pytest.skip("root needs a mount for a read-only folder, and cannot mount here")


@pytest.mark.slow
def test_ctrl_c_gives_one_message(trial: Trial) -> None:
    assert trial.interrupted("preprocess", times=2).reached
