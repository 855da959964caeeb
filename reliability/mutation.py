"""Mutation testing with mutmut: how many small changes to a module make its tests fail.

It runs on a copy of the project in a temporary folder and mutates operators, numbers, strings and
arguments within functions, not constants of the module.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from cxr.errors import CxrError
from cxr.tools.project_copy import PROJECT
from reliability.figures import Figure

MODULES = ("data/splits", "evaluation/metrics", "data/manifest")
MIN_KILLED = 0.85  # the others change no result, such as the text of an error
LIMIT_SECONDS = 900  # per module, several times its duration on 2 cores

SETTINGS = """
[tool.mutmut]
source_paths = ["src"]
only_mutate = ["src/cxr/{module}.py"]
pytest_add_cli_args_test_selection = ["{tests}"]
also_copy = ["tests"]
use_git_change_detection = false
"""
# Minimal counterexamples are not needed to detect a mutant.
NO_SHRINKING = """
import hypothesis
hypothesis.settings.register_profile(
    "mutants", hypothesis.settings(), phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate]
)
hypothesis.settings.load_profile("mutants")
"""


def measure() -> list[Figure]:
    figures = []
    for module in MODULES:
        print(f"mutation: {module}", file=sys.stderr)
        start = time.perf_counter()
        counts = count(PROJECT, module)
        figures.append(as_figure(module, counts, time.perf_counter() - start))
    return figures


def as_figure(module: str, counts: dict[str, int], seconds: float) -> Figure:
    """Count mutants with a timeout as killed, and those that no test reaches as not killed."""
    return Figure(
        what=f"mutation of src/cxr/{module}.py",
        criterion="its tests fail or time out",
        trials=counts["total"],
        passed=counts["killed"] + counts["timeout"],
        min_fraction=MIN_KILLED,
        note=f"mutmut {version('mutmut')}, {tests_of(module)}; {counts['timeout']} timed out; "
        f"{seconds:.0f} s",
    )


def tests_of(module: str) -> str:
    """Test file of a module; the tests mirror the package."""
    path = Path(module)
    return (Path("tests") / path.parent / f"test_{path.name}.py").as_posix()


def count(project: Path, module: str) -> dict[str, int]:
    """Count mutants of a module: total, killed, timeout, survived, no_tests and others.

    Surviving mutants are printed to standard error.

    Args:
        project: folder with src, tests and pyproject.toml; not modified.
        module: path in the package without suffix, such as `data/splits`.

    Raises:
        CxrError: the tests fail without mutation, or the time limit is exceeded.
    """
    with TemporaryDirectory() as name:
        copy = Path(name)
        for folder in ("src", "tests"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(project / folder, copy / folder, ignore=ignored)
        shutil.copy(project / "pyproject.toml", copy)
        _append(copy / "pyproject.toml", SETTINGS.format(module=module, tests=tests_of(module)))
        _append(copy / "tests" / "conftest.py", NO_SHRINKING)
        _mutmut(copy, "run", "--max-children", str(os.cpu_count()))
        for line in _mutmut(copy, "results").splitlines():  # "    name: survived"
            print(_mutmut(copy, "show", line.split(":")[0].strip()), file=sys.stderr)
        _mutmut(copy, "export-cicd-stats")
        counts: dict[str, int] = json.loads(
            (copy / "mutants" / "mutmut-cicd-stats.json").read_text(encoding="utf-8")
        )
        return counts


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def _mutmut(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "mutmut", *arguments],
            cwd=folder,
            env=os.environ | {"TMPDIR": str(folder)},  # files of mutants are removed with the copy
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CxrError(f"mutmut took more than {LIMIT_SECONDS} s; is the machine busy?") from error
    if done.returncode:
        raise CxrError(f"mutmut {arguments[0]} failed:\n{done.stdout[-2000:]}")
    return done.stdout
