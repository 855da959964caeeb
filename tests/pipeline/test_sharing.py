"""Sharing results by a DVC remote: another clone pulls them and computes nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.project import Project

pytestmark = pytest.mark.slow


@pytest.fixture
def store(finished: Project, tmp_path: Path) -> Iterator[Path]:
    """A DVC remote to which the finished project has pushed its results."""
    folder = tmp_path / "store"
    finished.run(f"dvc remote add --local store {folder}")
    finished.run("dvc push --quiet --remote store")
    yield folder
    finished.run("dvc remote remove --local store")


def clone(finished: Project, store: Path, folder: Path) -> Project:
    """A clone with its own cache, as on another machine."""
    finished.run(f"git clone --quiet . {folder}")
    other = Project.at(folder)
    other.run("git config user.email tests@example.org && git config user.name tests")
    other.run(f"dvc remote add --local --default store {store}")
    return other


def test_clone_pulls_results_and_runs_no_stage(
    finished: Project, store: Path, tmp_path: Path
) -> None:
    other = clone(finished, store, tmp_path / "other")
    other.run("dvc pull --quiet")
    assert other.repro() == []
    assert "up to date" in other.run("dvc status")
