"""A copy of the project with small parameters on phantoms, for tests under DVC."""

import hashlib
import re
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest

from cxr.common.files import read_yaml
from cxr.tools import project_copy

# Small: tests of the pipeline, not of what the networks learn.
QUICK = {
    "data.source": "phantom",
    "data.phantom.patients": 60,
    "data.phantom.short_side": 48,
    "split.val_fraction": 0.2,
    "image.input_size": 32,
    "model.filters": [4],
    "model.dense_units": 8,
    "model.epochs": 1,
    "transfer.backbone": "tiny",
    "transfer.weights": "none",
    "transfer.epochs": 1,
    "finetune.input_size": 32,
    "finetune.n_augmentations": 1,
    "finetune.epochs": 1,
    "evaluate.n_bootstrap": 100,
}


FIRST_OUTPUT = ".dvc/tmp/first_repro.log"  # output of the first `repro` of a project


class Project:
    """A copy of the project in its own git repository, with the parameters `QUICK`."""

    def __init__(self, folder: Path, settings: dict[str, object] | None = None) -> None:
        self._set_up(folder)
        project_copy.copy_project(folder)
        project_copy.set_params(folder / "params.yaml", QUICK | (settings or {}))
        shutil.copy(project_copy.PROJECT / ".gitignore", folder)
        shutil.copy(project_copy.PROJECT / ".dvc" / ".gitignore", folder / ".dvc")
        self.run("git init --quiet --initial-branch=main .")
        self.run("git config user.email tests@example.org")
        self.run("git config user.name tests")
        self.commit("start")

    def copy(self, folder: Path) -> "Project":
        """A copy with all results and its own cache."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Project.at(folder)

    @classmethod
    def at(cls, folder: Path) -> "Project":
        """A project that already exists in a folder."""
        project = cls.__new__(cls)
        project._set_up(folder)
        return project

    def _set_up(self, folder: Path) -> None:
        self.folder = folder
        self.outside = folder.with_name(f"{folder.name}-outside")
        self.written_outside: list[Path] = []
        self.ran_at_first: list[str] = []
        for name in ("home", "tmp"):
            (self.outside / name).mkdir(parents=True)

    def start(self, command: str, log: Path) -> "subprocess.Popen[bytes]":
        """Start a command as the leader of a process group; its output goes to `log`."""
        with log.open("wb") as file:
            return subprocess.Popen(
                command.split(),
                cwd=self.folder,
                env=self.environment(),
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(self, command: str, check: bool = True) -> str:
        """Run a command in the project; return its output, including standard error."""
        done = subprocess.run(
            command,
            shell=True,
            cwd=self.folder,
            env=self.environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}\n{done.stdout}"
        return done.stdout

    def environment(self) -> dict[str, str]:
        """Environment with an empty home folder, so that libraries find no settings."""
        of_user = re.compile("XDG_|KERAS_HOME|MPLCONFIGDIR")
        variables = {
            name: v for name, v in project_copy.environment().items() if not of_user.match(name)
        }
        return variables | {
            "HOME": str(self.outside / "home"),
            "TMPDIR": str(self.outside / "tmp"),
            "DVC_SITE_CACHE_DIR": str(self.folder / ".dvc/tmp/site-cache"),
        }

    def commit(self, message: str) -> None:
        """Commit all files that git does not ignore."""
        self.run("git add --all")
        self.run(f"git commit --quiet --message '{message}'")

    def repro(self, *arguments: str) -> list[str]:
        """Run `dvc repro`; return the stages that ran, in order."""
        output = self.run(" ".join(["dvc repro", *arguments]))
        if not (log := self.folder / FIRST_OUTPUT).exists():
            log.write_text(output, encoding="utf-8")
        return [line.split("'")[1] for line in output.splitlines() if "Running stage" in line]

    def outputs(self) -> dict[str, list[str]]:
        """Paths of the outputs of each stage, by dvc.lock."""
        lock = read_yaml(self.folder / "dvc.lock")
        return {
            stage: [out["path"] for out in entry["outs"]] for stage, entry in lock["stages"].items()
        }

    def contents(self, outputs: list[str]) -> dict[str, str]:
        """SHA-256 of every existing file of some outputs, by path."""
        hashes: dict[str, str] = {}
        for output in outputs:
            path = self.folder / output
            files = sorted(path.rglob("*")) if path.is_dir() else [path]
            for file in filter(Path.is_file, files):
                with suppress(FileNotFoundError):  # another process may replace it
                    hashes[str(file.relative_to(self.folder))] = hash_of(file)
        return hashes


def hash_of(file: Path) -> str:
    """SHA-256 of a file; of a training history without its seconds, which always differ."""
    content = file.read_bytes()
    if file.parent.name == "history" and content:
        table = pd.read_csv(file)
        content = table.drop(columns="seconds", errors="ignore").to_csv().encode()
    return hashlib.sha256(content).hexdigest()


def wait_for_queue(project: Project, seconds: float = 400) -> str:
    """Wait until all experiments of DVC's queue have ended; return `dvc queue status`."""
    deadline = time.monotonic() + seconds
    while re.search(r"(Queued|Running)$", status := project.run("dvc queue status"), re.MULTILINE):
        if time.monotonic() > deadline:
            logs = sorted((project.folder / ".dvc/tmp/exps").rglob("*.out"))
            outputs = [f"{log}\n{log.read_text(errors='replace')}" for log in logs]
            pytest.fail("\n".join([f"not done within {seconds} s", status, *outputs]))
        time.sleep(5)  # the status takes a second of CPU time
    return status
