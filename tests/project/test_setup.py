"""What `make` installs and where, with a stand-in for uv, which would download it."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from cxr.tools.project_copy import PROJECT
from tests.support import working_tree


def stand_in(program: Path, script: str) -> None:
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)


class Folder:
    """A folder with the Makefile and the locks; `asked` is what uv was asked to install."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        shutil.copy(PROJECT / "Makefile", path)
        shutil.copytree(PROJECT / "requirements", path / "requirements")
        self.uv_is("0.13.0")

    def uv_is(self, version: str) -> None:
        """That uv is on the path."""
        script = f'[ "$1" = --version ] && echo "uv {version}" || echo "$@" >>asked'
        stand_in(self.path / "bin/uv", script)

    def python_is_quick(self) -> None:
        """`python -m venv` makes an empty environment, whose pip says that it was asked."""
        made = self.path / "bin/made"
        stand_in(made, 'case "$*" in *pip*) echo "pip $*" >>asked ;; esac')
        packages = '"$4/lib/python3.0/site-packages"'
        venv = f'rm -rf "$4" && mkdir -p "$4/bin" {packages} && cp "{made}" "$4/bin/python"'
        script = f'[ "$1" != -m ] || {{ {venv}; }}'
        stand_in(self.path / "bin/python3", script)

    def change_lock(self, name: str) -> None:
        """A lock newer than every stamp, which are set back: clocks of file systems are coarse."""
        for stamp in self.path.glob(".venv/*-installed"):
            earlier = stamp.stat().st_mtime - 10
            os.utime(stamp, (earlier, earlier))
        (self.path / f"requirements/{name}.lock").touch()

    def make(self, *arguments: str) -> list[str]:
        """The locks that were installed, and `editable`, in order."""
        asked = self.path / "asked"
        asked.unlink(missing_ok=True)
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
        if not asked.exists():
            return []
        lines = asked.read_text(encoding="utf-8").splitlines()
        for line in lines:
            assert "--require-hashes" in line or "--no-deps" in line
        return [Path(line.split()[-1]).stem.replace(".", "") or "editable" for line in lines]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "project")
    folder.python_is_quick()
    return folder


def test_each_target_installs_what_it_needs(folder: Folder) -> None:
    assert folder.make("summary") == ["runtime", "editable"]
    assert folder.make("summary") == []
    assert folder.make("test") == ["development"]
    assert folder.make("test", "demo", "readme") == []


def test_a_changed_lock_is_installed_again(folder: Folder) -> None:
    folder.make("test")
    folder.change_lock("development")
    assert folder.make("test") == ["development"]
    folder.change_lock("runtime")
    assert folder.make("demo") == ["runtime", "editable"]
    assert folder.make("test") == ["development"]


def test_tensorflow_for_gpu_replaces_the_other_in_an_empty_environment(folder: Folder) -> None:
    folder.make("demo")
    left = folder.path / ".venv/lib/python3.0/site-packages/tensorflow"
    left.mkdir()
    assert folder.make("test", "GPU=1") == ["gpu", "editable", "development"]
    assert not left.exists()
    assert folder.make("test", "demo") == []  # it stays
    assert folder.make("demo", "GPU=0") == ["runtime", "editable"]
    assert folder.make("demo") == []


def test_uv_of_another_version_is_not_used(folder: Folder) -> None:
    folder.uv_is("0.9.2")
    assert folder.make("demo") == ["uv", "runtime", "editable"]


@pytest.mark.slow
def test_in_a_folder_with_a_letter_beyond_ascii(tmp_path: Path) -> None:
    """DVC cannot write such a path into its configuration; it is not needed there."""
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


def test_no_line_ending_is_converted(tmp_path: Path) -> None:
    """DVC compares hashes, and scripts need their own ends."""
    working_tree.copy_missing(tmp_path / "source")
    identity = "-c user.name=tests -c user.email=tests@example.org"
    command = f"""git init --quiet source && cd source && git add --all &&
    git {identity} commit --quiet -m all &&
    git clone --quiet -c core.autocrlf=true . ../clone"""
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    for name in working_tree.files():
        own = (PROJECT / name).read_bytes()
        assert (tmp_path / "clone" / name).read_bytes() == own, name
