"""What `make` installs and where, with a fake uv that downloads nothing."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from cxr.tools.project_copy import PROJECT
from tests.support import working_tree


def fake_program(program: Path, script: str) -> None:
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)


class Folder:
    """A folder with the Makefile and the locks; the fake uv records its arguments in `requests`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        shutil.copy(PROJECT / "Makefile", path)
        shutil.copytree(PROJECT / "requirements", path / "requirements")
        self.use_uv("0.13.0")

    def use_uv(self, version: str) -> None:
        """Put a fake uv of a version on the path."""
        script = f'[ "$1" = --version ] && echo "uv {version}" || echo "$@" >>requests'
        fake_program(self.path / "bin/uv", script)

    def use_fake_python(self) -> None:
        """Let `python -m venv` create an empty environment, whose pip records its arguments."""
        python = self.path / "bin/fake-python"
        fake_program(python, 'case "$*" in *pip*) echo "pip $*" >>requests ;; esac')
        packages = '"$4/lib/python3.0/site-packages"'
        venv = f'rm -rf "$4" && mkdir -p "$4/bin" {packages} && cp "{python}" "$4/bin/python"'
        script = f'[ "$1" != -m ] || {{ {venv}; }}'
        fake_program(self.path / "bin/python3", script)

    def change_lock(self, name: str) -> None:
        """Make a lock newer than all stamps; they are set back as file times are coarse."""
        for stamp in self.path.glob(".venv/*-installed"):
            earlier = stamp.stat().st_mtime - 10
            os.utime(stamp, (earlier, earlier))
        (self.path / f"requirements/{name}.lock").touch()

    def make(self, *arguments: str) -> list[str]:
        """Run make; return the locks that were installed, and `editable`, in order."""
        requests = self.path / "requests"
        requests.unlink(missing_ok=True)
        path = f"{self.path / 'bin'}{os.pathsep}{os.environ['PATH']}"
        variables = {name: value for name, value in os.environ.items() if name != "GPU"}
        done = subprocess.run(
            ["make", "--silent", *arguments],
            cwd=self.path,
            env=variables | {"PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        if not requests.exists():
            return []
        lines = requests.read_text(encoding="utf-8").splitlines()
        for line in lines:
            assert "--require-hashes" in line or "--no-deps" in line
        return [Path(line.split()[-1]).stem.replace(".", "") or "editable" for line in lines]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "project")
    folder.use_fake_python()
    return folder


def test_each_target_installs_its_requirements(folder: Folder) -> None:
    assert folder.make("summary") == ["runtime", "editable"]
    assert folder.make("summary") == []
    assert folder.make("test") == ["development"]
    assert folder.make("test", "demo", "readme") == []


def test_changed_lock_is_reinstalled(folder: Folder) -> None:
    folder.make("test")
    folder.change_lock("development")
    assert folder.make("test") == ["development"]
    folder.change_lock("runtime")
    assert folder.make("demo") == ["runtime", "editable"]
    assert folder.make("test") == ["development"]


def test_gpu_replaces_tensorflow_in_a_new_environment(folder: Folder) -> None:
    folder.make("demo")
    of_cpu = folder.path / ".venv/lib/python3.0/site-packages/tensorflow"
    of_cpu.mkdir()
    assert folder.make("test", "GPU=1") == ["gpu", "editable", "development"]
    assert not of_cpu.exists()
    assert folder.make("test", "demo") == []  # GPU=1 persists
    assert folder.make("demo", "GPU=0") == ["runtime", "editable"]
    assert folder.make("demo") == []


def test_other_version_of_uv_is_not_used(folder: Folder) -> None:
    folder.use_uv("0.9.2")
    assert folder.make("demo") == ["uv", "runtime", "editable"]


@pytest.mark.slow
def test_install_in_a_folder_with_a_non_ascii_name(tmp_path: Path) -> None:
    """DVC cannot write such a path to its configuration; the environment variable suffices."""
    folder = Folder(tmp_path / "müller")
    target = (".venv/runtime-installed", f"PYTHON={sys.executable}")
    assert folder.make(*target) == ["runtime", "editable"]
    assert folder.make(*target) == []
    subprocess.run(["git", "init", "--quiet", "."], cwd=folder.path, check=True)
    code = "from dvc.repo import Repo; print(Repo.init('.').site_cache_dir)"
    done = subprocess.run(
        [folder.path / ".venv/bin/python", "-c", code],
        cwd=folder.path,
        env={
            **{name: v for name, v in os.environ.items() if name != "DVC_SITE_CACHE_DIR"},
            "PYTHONPATH": sysconfig.get_path("purelib"),
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    cache = folder.path / ".dvc/tmp/site-cache"
    assert Path(done.stdout.splitlines()[-1]).is_relative_to(cache)
    assert cache.is_dir()


def test_git_converts_no_line_endings(tmp_path: Path) -> None:
    """DVC compares hashes, and shell scripts need LF."""
    working_tree.copy_missing(tmp_path / "source")
    identity = "-c user.name=tests -c user.email=tests@example.org"
    command = f"""git init --quiet source && cd source && git add --all &&
    git {identity} commit --quiet -m all &&
    git clone --quiet -c core.autocrlf=true . ../clone"""
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    for name in working_tree.files():
        original = (PROJECT / name).read_bytes()
        assert (tmp_path / "clone" / name).read_bytes() == original, name
