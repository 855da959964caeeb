"""A quick copy of the project on generated images, for what may break it."""

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

# Small and quick: what is tried is the pipeline, not what the networks learn.
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


FIRST_OUTPUT = ".dvc/tmp/first_repro.log"  # what the first `repro` of a project printed


class Project:
    """A copy of the project in a git repository of its own, with quick parameters."""

    def __init__(self, folder: Path, settings: dict[str, object] | None = None) -> None:
        self._settle(folder)
        project_copy.copy_project(folder)
        project_copy.set_params(folder / "params.yaml", QUICK | (settings or {}))
        shutil.copy(project_copy.PROJECT / ".gitignore", folder)
        shutil.copy(project_copy.PROJECT / ".dvc" / ".gitignore", folder / ".dvc")
        self.run("git init --quiet --initial-branch=main .")
        self.run("git config user.email tests@example.org")
        self.run("git config user.name tests")
        self.commit("start")

    def copy(self, folder: Path) -> "Project":
        """A copy with all results and a cache of its own."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Project.at(folder)

    @classmethod
    def at(cls, folder: Path) -> "Project":
        """A project that stands in a folder already."""
        project = cls.__new__(cls)
        project._settle(folder)
        return project

    def _settle(self, folder: Path) -> None:
        self.folder = folder
        self.outside = folder.with_name(f"{folder.name}-outside")
        self.written_outside: list[Path] = []
        self.ran_at_first: list[str] = []
        for name in ("home", "tmp"):
            (self.outside / name).mkdir(parents=True)

    def start(self, command: str, log: Path) -> "subprocess.Popen[bytes]":
        """Start a command, as the head of a process group, which says what it says to `log`."""
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
        """Run a command in the project; its output, standard error included."""
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
        """With empty folders of the user, in which libraries find no settings."""
        own = re.compile("XDG_|KERAS_HOME|MPLCONFIGDIR")
        kept = {name: v for name, v in project_copy.environment().items() if not own.match(name)}
        return kept | {
            "HOME": str(self.outside / "home"),
            "TMPDIR": str(self.outside / "tmp"),
            "DVC_SITE_CACHE_DIR": str(self.folder / ".dvc/tmp/site-cache"),
        }

    def commit(self, message: str) -> None:
        """Commit all that git does not ignore."""
        self.run("git add --all")
        self.run(f"git commit --quiet --message '{message}'")

    def repro(self, *arguments: str) -> list[str]:
        """`dvc repro`; the stages that ran, in order."""
        output = self.run(" ".join(["dvc repro", *arguments]))
        if not (log := self.folder / FIRST_OUTPUT).exists():
            log.write_text(output, encoding="utf-8")
        return [line.split("'")[1] for line in output.splitlines() if "Running stage" in line]

    def outputs(self) -> dict[str, list[str]]:
        """Paths of the files and folders that each stage makes, by dvc.lock."""
        lock = read_yaml(self.folder / "dvc.lock")
        return {
            stage: [out["path"] for out in entry["outs"]] for stage, entry in lock["stages"].items()
        }

    def contents(self, outputs: list[str]) -> dict[str, str]:
        """Hash of every file of some outputs, of those that are there."""
        found: dict[str, str] = {}
        for output in outputs:
            path = self.folder / output
            files = sorted(path.rglob("*")) if path.is_dir() else [path]
            for file in filter(Path.is_file, files):
                with suppress(FileNotFoundError):  # another process may replace it
                    found[str(file.relative_to(self.folder))] = hash_of(file)
        return found


def hash_of(file: Path) -> str:
    """SHA-256 of a file; a training's history without its seconds, which never repeat."""
    content = file.read_bytes()
    if file.parent.name == "history" and content:
        table = pd.read_csv(file)
        content = table.drop(columns="seconds", errors="ignore").to_csv().encode()
    return hashlib.sha256(content).hexdigest()


def wait_for_queue(project: Project, seconds: float = 400) -> str:
    """Wait until no experiment of DVC's queue waits or runs; what `dvc queue status` says then."""
    deadline = time.monotonic() + seconds
    while re.search(r"(Queued|Running)$", status := project.run("dvc queue status"), re.MULTILINE):
        if time.monotonic() > deadline:
            logs = sorted((project.folder / ".dvc/tmp/exps").rglob("*.out"))
            said = [f"{log}\n{log.read_text(errors='replace')}" for log in logs]
            pytest.fail("\n".join([f"not done within {seconds} s", status, *said]))
        time.sleep(5)  # asking takes a second of the processor's time
    return status
