"""Mutation testing: how many small changes to a module, one at a time, make its own tests fail.

By mutmut, on a copy of the project in a temporary folder. It changes what stands in functions:
operators, numbers, texts, arguments; constants of the module stay as they are.
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
LEAST = 0.85  # the rest is changes that no result depends on, as those to the words of an error
LIMIT_SECONDS = 900  # for one module, several times what it takes on 2 cores

SETTINGS = """
[tool.mutmut]
source_paths = ["src"]
only_mutate = ["src/cxr/{module}.py"]
pytest_add_cli_args_test_selection = ["{tests}"]
also_copy = ["reliability", "tests"]
use_git_change_detection = false
"""
# A counterexample that tells a mutant from the code need not be made small.
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
        found = count(PROJECT, module)
        figures.append(as_figure(module, found, time.perf_counter() - start))
    return figures


def as_figure(module: str, found: dict[str, int], seconds: float) -> Figure:
    """A mutant that never ends is as good as killed; one that no test reaches is not."""
    return Figure(
        what=f"one change to src/cxr/{module}.py",
        right="its tests fail, or never end",
        tried=found["total"],
        held=found["killed"] + found["timeout"],
        least=LEAST,
        note=f"mutmut {version('mutmut')}, {tests_of(module)}; {found['timeout']} never ended; "
        f"{seconds:.0f} s",
    )


def tests_of(module: str) -> str:
    """The file of a module's tests, which mirror the package."""
    path = Path(module)
    return (Path("tests") / path.parent / f"test_{path.name}.py").as_posix()


def count(project: Path, module: str) -> dict[str, int]:
    """Numbers of mutants of a module: total, killed, timeout, survived, no_tests and others.

    Those that no test tells from the code are printed to standard error.

    Args:
        project: holds src, tests, reliability and pyproject.toml; it is not changed.
        module: path in the package without suffix, as `data/splits`.

    Raises:
        CxrError: the tests fail on the code as it is, or all takes too long.
    """
    with TemporaryDirectory() as name:
        copy = Path(name)
        for folder in ("src", "tests", "reliability"):  # tests/conftest.py imports the last
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(project / folder, copy / folder, ignore=ignored)
        shutil.copy(project / "pyproject.toml", copy)
        _append(copy / "pyproject.toml", SETTINGS.format(module=module, tests=tests_of(module)))
        _append(copy / "tests" / "conftest.py", NO_SHRINKING)
        _mutmut(copy, "run", "--max-children", str(os.cpu_count()))
        for line in _mutmut(copy, "results").splitlines():  # "    name: survived"
            print(_mutmut(copy, "show", line.split(":")[0].strip()), file=sys.stderr)
        _mutmut(copy, "export-cicd-stats")
        counted: dict[str, int] = json.loads(
            (copy / "mutants" / "mutmut-cicd-stats.json").read_text(encoding="utf-8")
        )
        return counted


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def _mutmut(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "mutmut", *arguments],
            cwd=folder,
            env=os.environ | {"TMPDIR": str(folder)},  # what a mutant leaves goes with the copy
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
