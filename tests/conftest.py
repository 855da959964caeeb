"""Shared fixtures: generated radiographs, copies of the project, the real images where given."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cxr import demo, phantom

# Small and quick: what is tested is the pipeline, not what the networks learn.
QUICK = {
    "data.source": "phantom",
    "data.phantom.patients": 60,
    "data.phantom.short_side": 48,
    "split.val_fraction": 0.2,
    "image.size": 32,
    "model.filters": [4],
    "model.dense_units": 8,
    "model.epochs": 1,
    "transfer.backbone": "mobilenetv2",
    "transfer.weights": "none",
    "transfer.epochs": 1,
    "finetune.side": 32,
    "finetune.copies": 1,
    "finetune.epochs": 1,
    "evaluate.resamples": 100,
}


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with generated radiographs of 40 patients. Do not change it."""
    folder = tmp_path_factory.mktemp("phantoms") / "images"
    phantom.generate(folder, patients=40, seed=3, short_side=48)
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the 256-pixel copy of the Kaggle set, `$CXR_TEST_DATA/chest_xray_256`."""
    folder = Path(os.environ.get("CXR_TEST_DATA", "")) / "chest_xray_256"
    if not os.environ.get("CXR_TEST_DATA") or not folder.is_dir():
        pytest.skip("CXR_TEST_DATA names no folder with chest_xray_256")
    return folder


class Project:
    """A copy of the project in a git repository of its own, with quick parameters."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ran_at_first: list[str] = []
        demo.copy_project(folder)
        demo.set_params(folder / "params.yaml", QUICK)
        shutil.copy(demo.PROJECT / ".gitignore", folder)
        shutil.copy(demo.PROJECT / ".dvc" / ".gitignore", folder / ".dvc")
        self.run("git init --quiet --initial-branch=main .")
        self.run("git config user.email tests@example.org")
        self.run("git config user.name tests")
        self.commit("start")

    def run(self, command: str, check: bool = True) -> str:
        """Run a command in the project; its output, standard error included."""
        done = subprocess.run(
            command,
            shell=True,
            cwd=self.folder,
            env=demo.environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}\n{done.stdout}"
        return done.stdout

    def commit(self, message: str) -> None:
        self.run("git add --all")
        self.run(f"git commit --quiet --message '{message}'")

    def repro(self, *arguments: str) -> list[str]:
        """`dvc repro`; the stages that ran, in order."""
        output = self.run(" ".join(["dvc repro", *arguments]))
        return [line.split("'")[1] for line in output.splitlines() if "Running stage" in line]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project after one `dvc repro`, committed. Tests leave it as they found it."""
    project = Project(tmp_path_factory.mktemp("project"))
    project.ran_at_first = project.repro()
    project.commit("results")
    return project
