"""Counts of mutants: those of tested lines are killed, others are not."""

from pathlib import Path

import pytest

from cxr.errors import CxrError
from reliability.mutation import as_figure, count

CODE = """
def double(number):
    return number * 2


def untested(number):
    return number * 3
"""
TEST = """
from cxr.small import double


def test_double():
    assert double(5) == {doubled}
"""


def small(folder: Path, doubled: int) -> Path:
    """A project of two functions, one of which has a test."""
    for name, text in {
        "src/cxr/__init__.py": "",
        "reliability/__init__.py": "",
        "src/cxr/small.py": CODE,
        "tests/conftest.py": "",
        "tests/test_small.py": TEST.format(doubled=doubled),
        "pyproject.toml": '[tool.pytest.ini_options]\npythonpath = ["src"]\n',
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def contents(folder: Path) -> dict[Path, str]:
    return {path: path.read_text(encoding="utf-8") for path in folder.rglob("*.*")}


@pytest.mark.slow
def test_mutants_of_a_small_project(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(small(tmp_path, 10))
    counts = count(tmp_path, "small")
    assert counts["killed"] == counts["no_tests"] == counts["total"] / 2 > 0
    assert contents(tmp_path) == before
    surviving = capsys.readouterr().err
    assert "+    return number / 3" in surviving
    assert "number * 2" not in surviving


@pytest.mark.slow
def test_failing_tests_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(CxrError, match="mutmut"):
        count(small(tmp_path, 11), "small")


def test_mutant_with_timeout_counts_as_killed() -> None:
    counts = {"total": 20, "killed": 16, "timeout": 1, "survived": 2, "no_tests": 1}
    figure = as_figure("scores", counts, 61.2)
    assert (figure.trials, figure.passed, figure.reached) == (20, 17, True)
    assert not as_figure("scores", counts | {"timeout": 0}, 61.2).reached
    assert "tests/test_scores.py; 1 timed out; 61 s" in figure.note
