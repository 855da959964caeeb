"""Results go through a remote to another clone, where nothing is computed again."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Project

from cxr import demo

pytestmark = pytest.mark.slow


@pytest.fixture
def store(finished: Project, tmp_path: Path) -> Iterator[Path]:
    """A remote to which the finished project has pushed all that it has."""
    folder = tmp_path / "store"
    finished.run(f"dvc remote add --local store {folder}")
    finished.run("dvc push --quiet --remote store --run-cache")
    yield folder
    finished.run("dvc remote remove --local store")


def clone(finished: Project, store: Path, folder: Path) -> Project:
    """A clone on another machine, as far as DVC can tell: with a cache of its own."""
    finished.run(f"git clone --quiet . {folder}")
    other = Project.__new__(Project)
    other.folder = folder
    other.run("git config user.email tests@example.org && git config user.name tests")
    other.run(f"dvc remote add --local --default store {store}")
    return other


def test_a_clone_pulls_and_computes_nothing(finished: Project, store: Path, tmp_path: Path) -> None:
    other = clone(finished, store, tmp_path / "other")
    other.run("dvc pull --quiet")
    assert other.repro() == []
    assert "up to date" in other.run("dvc status")


def test_another_machines_experiment_is_fetched_not_run(
    finished: Project, store: Path, tmp_path: Path
) -> None:
    """The run cache travels as well: what one machine tried, another one has."""
    one = clone(finished, store, tmp_path / "one")
    one.run("dvc pull --quiet")
    demo.set_params(one.folder / "params.yaml", {"transfer.dropout": 0.25})
    assert "train_transfer" in one.repro()
    one.run("dvc push --quiet --run-cache")
    two = clone(finished, store, tmp_path / "two")
    two.run("dvc pull --quiet --run-cache")
    demo.set_params(two.folder / "params.yaml", {"transfer.dropout": 0.25})
    ran = two.repro("--pull")
    assert "train_transfer" not in ran
    model = Path("models/transfer.keras")
    assert (one.folder / model).read_bytes() == (two.folder / model).read_bytes()
