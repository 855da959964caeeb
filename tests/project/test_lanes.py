"""Fast tests start no DVC and no server; the finished project is built once per state."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cxr.tools import project_copy
from tests.support import finished


def test_fast_test_may_not_open_a_socket() -> None:
    with socket.socket() as own, pytest.raises(pytest.fail.Exception, match="socket"):
        own.bind(("127.0.0.1", 0))
    one, other = socket.socketpair()  # asyncio uses one
    one.close()
    other.close()


@pytest.mark.parametrize(
    ("command", "shell"),
    [(["dvc", "--version"], False), ("true && /usr/bin/dvc --version", True)],
)
def test_fast_test_may_not_start_dvc(command: list[str] | str, shell: bool) -> None:
    with pytest.raises(pytest.fail.Exception, match="DVC"):
        subprocess.run(command, shell=shell, check=False)
    subprocess.run(["true", "dvc.yaml"], check=True)


def test_project_is_built_once_for_the_same_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []

    def build(folder: Path) -> None:
        built.append(finished._key())
        (folder / "project/.dvc").mkdir(parents=True)
        (folder / "project/result").write_text(str(len(built)))
        (folder / "record.json").write_text(json.dumps({"ran": ["fetch"], "written_outside": []}))

    monkeypatch.setattr(finished, "_build", build)
    cache = tmp_path / "cache"
    (cache / "part").mkdir(parents=True)  # of a build that was killed

    def result(number: int) -> str:
        project = finished.finished_project(cache, tmp_path / str(number))
        assert project.ran_at_first == ["fetch"]
        return (project.folder / "result").read_text()

    assert [result(1), result(2)] == ["1", "1"]
    monkeypatch.setitem(finished.QUICK, "seed", 2)
    assert [result(3), result(4)] == ["2", "2"]
    source = tmp_path / "source"
    project_copy.copy_project(source)
    for name in (".gitignore", ".dvc/.gitignore"):
        shutil.copy(project_copy.PROJECT / name, source / name)
    monkeypatch.setattr(project_copy, "PROJECT", source)
    assert result(5) == "2"
    with (source / "stages/evaluate.py").open("a") as code:
        code.write("# changed\n")
    assert result(6) == "3"
    assert len(set(built)) == 3
    assert sorted(path.name for path in cache.iterdir()) == sorted([built[-1], "lock"])


def test_each_worker_runs_whole_modules(tmp_path: Path) -> None:
    """With the options of the Makefile; otherwise every worker creates the fixtures of a module."""
    makefile = (project_copy.PROJECT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    options = re.search("^PYTEST := python -m pytest (.*)$", makefile, re.MULTILINE)
    assert options is not None
    code = "import os, pytest\n@pytest.mark.parametrize('n', range(6))\ndef test(n):\n"
    for name in "abcd":
        log = tmp_path / name
        write = f"    open({str(log)!r}, 'a').write(os.environ['PYTEST_XDIST_WORKER'] + ' ')\n"
        (tmp_path / f"test_{name}.py").write_text(code + write)
    command = [sys.executable, "-m", "pytest", "-p", "xdist", *options[1].split()]
    subprocess.run(
        [*command, "--numprocesses", "2", "--config-file", "/dev/null", tmp_path],
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        check=True,
        capture_output=True,
    )
    for name in "abcd":
        workers = (tmp_path / name).read_text().split()
        assert len(workers) == 6
        assert len(set(workers)) == 1
