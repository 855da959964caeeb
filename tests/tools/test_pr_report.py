"""Comment on a pull request, for commits of a temporary repository."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from cxr import paths
from cxr.common.names import VARIANTS
from cxr.errors import CxrError
from cxr.evaluation.results import Evaluation, Intervals, ResultFile
from cxr.tools import pr_report, project_copy
from cxr.tools.pr_report import (
    _headline,
    _paired,
    _read,
    _recommendation,
    _results,
    _stale,
    comment,
)
from cxr.tools.project_copy import PROJECT
from tests.support import results
from tests.support.project import Project

COMMAND = "PYTHONPATH=src python -m cxr.tools.pr_report --base"


@pytest.fixture(scope="module")
def branch(finished: Project) -> Iterator[Project]:
    """The finished project with another head, trained and evaluated but not committed."""
    project_copy.set_params(finished.folder / "params.yaml", {"transfer.learning_rate": 0.01})
    finished.repro("intervals")
    yield finished
    finished.run("git checkout --quiet .")
    finished.run("dvc checkout --quiet")


def comment_of(project: Project, base: str, tables: bool = True) -> str:
    """The comment, made in this process; without the tables of DVC, which take seconds each, if a
    test does not use them.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.folder)
        patch.setenv("PATH", project_copy.environment()["PATH"])
        if not tables:
            patch.setattr(pr_report, "_dvc_table", lambda *_: "")
        return comment(base)


def sections(text: str) -> dict[str, str]:
    parts = text.split("\n### ")
    return {part.split("\n", 1)[0]: part.split("\n", 1)[1] for part in parts[1:]}


@pytest.mark.slow
def test_no_differences(finished: Project) -> None:
    text = finished.run(f"{COMMAND} HEAD")
    assert text.startswith("## Results against `HEAD`\n")
    assert "On `HEAD` the recommendation is the same." in text
    found = sections(text)
    assert "None: the parameters are those of `HEAD`." in found["Parameters that differ"]
    assert "None: the metrics are those of `HEAD`." in found["Metrics that differ"]
    assert "Significance of the differences" not in found
    assert "(=)" in text
    assert "(+" not in found["Test at 0.5 (change from `HEAD`)"]


@pytest.mark.slow
def test_a_changed_parameter(branch: Project) -> None:
    found = sections(comment_of(branch, "main"))
    assert "transfer.learning_rate" in found["Parameters that differ"]
    assert "| Path | Param | `main` | here |\n" in found["Parameters that differ"]
    assert "| Path | Metric | `main` | here | Change |\n" in found["Metrics that differ"]
    assert re.search(r"\| metrics/summary.json +\| t.auc +\| ", found["Metrics that differ"])
    headline = found["Test at 0.5 (change from `main`)"]
    now = json.loads((branch.folder / "metrics/evaluation.json").read_text())
    old = json.loads(branch.run("git show main:metrics/evaluation.json"))
    values = [one["transfer"]["test"]["recall"] for one in (now, old)]
    assert values[0] != values[1]
    assert f"{values[0]:.3f} ({values[0] - values[1]:+.3f})" in headline
    paired = found["Significance of the differences"]
    _, on_test = re.findall(r"^\| transfer +\| 0\.5 .*", paired, re.MULTILINE)
    assert f"{values[0] - values[1]:+.3f} (" in on_test
    assert "| baseline" not in paired  # unchanged


@pytest.mark.slow
def test_missing_predictions_are_reported(branch: Project) -> None:
    cache = branch.folder / ".dvc/cache"
    cache.rename(branch.folder / ".dvc/elsewhere")
    try:
        text = comment_of(branch, "main")
    finally:
        (branch.folder / ".dvc/elsewhere").rename(cache)
    section = sections(text)["Significance of the differences"]
    assert "need the predictions of base and head: `dvc pull data/predictions.csv`" in section
    assert "transfer.learning_rate" in text


@pytest.mark.slow
def test_other_images_are_not_paired(branch: Project) -> None:
    predictions = branch.folder / "data/predictions.csv"
    table = pd.read_csv(predictions)
    predictions.rename(predictions.with_suffix(".kept"))
    try:
        table[table["path"] != table["path"].iloc[-1]].to_csv(predictions, index=False)
        section = sections(comment_of(branch, "main", tables=False))[
            "Significance of the differences"
        ]
    finally:
        predictions.with_suffix(".kept").replace(predictions)
    assert "The test images of base and head differ" in section
    assert "The validation images" not in section


@pytest.mark.slow
def test_new_metrics(finished: Project) -> None:
    """The first commit has no metrics."""
    text = comment_of(finished, "main~1")
    assert "`metrics/evaluation.json` is missing on `main~1` or was produced by a differ" in text
    assert "at 0.5 (change" not in text
    assert "Significance of the differences" not in text


@pytest.mark.slow
def test_errors(finished: Project) -> None:
    text = finished.run(f"{COMMAND} nowhere", check=False)
    assert "error: nowhere is not a commit here; get it with `git fetch origin nowhere`" in text
    (finished.folder / "metrics/evaluation.json").write_text("<<<<<<< HEAD")
    try:
        text = finished.run(f"{COMMAND} main", check=False)
    finally:
        finished.run("git checkout --quiet .")
    assert "error: metrics/evaluation.json cannot be read" in text
    assert "Traceback" not in text


def stand_in(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def arguments_of(folder: Path, target: str, **variables: str) -> list[str]:
    """Arguments that a target of the Makefile passes to Python, run in `folder`."""
    shutil.copy(PROJECT / "Makefile", folder)
    (folder / ".venv/bin").mkdir(parents=True, exist_ok=True)
    stand_in(folder / ".venv/bin/python", 'for argument in "$@"; do echo "$argument"; done')
    (folder / "requirements").mkdir(exist_ok=True)
    for name in ("requirements/runtime.lock", "requirements/uv.lock", ".venv/runtime-installed"):
        (folder / name).touch()
    variables = {"PATH": os.environ["PATH"], **variables}
    command = ["make", "--silent", target]
    done = subprocess.run(command, env=variables, cwd=folder, check=True, stdout=subprocess.PIPE)
    return done.stdout.decode().splitlines()


@pytest.mark.parametrize(
    "name", ["$(touch${IFS}made)", "$(shell touch made)", "`touch made`", "a;touch made"]
)
def test_branch_names_are_not_executed(tmp_path: Path, name: str) -> None:
    assert arguments_of(tmp_path, "pr-report", BASE=name)[-1] == f"--base={name}"
    arguments_of(tmp_path, "record", EXP=name)
    assert not (tmp_path / "made").exists()


def test_arguments_of_make(tmp_path: Path) -> None:
    assert arguments_of(tmp_path, "pr-report")[-1] == "--base=main"
    assert arguments_of(tmp_path, "record", EXP="a b*")[-3:] == ["record", "a", "b*"]
    (tmp_path / "b1").touch()
    assert arguments_of(tmp_path, "record", EXP="a b*")[-1] == "b*"


LOCK = """\
stages:
  train: {params: {params.yaml: {seed: 1, model: {epochs: 6, filters: [4, 8]}}}}
  evaluate: {params: {params.yaml: {seed: 1, evaluate.min_recall: 0.98}}}
  fetch: {cmd: fetch}
"""
PARAMS = "seed: 1\nmodel:\n  epochs: 6\n  filters: [4, 8]\nevaluate:\n  min_recall: 0.98\n"


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with parameters and the lock file of a run that used them."""
    monkeypatch.chdir(tmp_path)
    paths.PARAMS.write_text(PARAMS)
    paths.LOCK.write_text(LOCK)
    paths.EVALUATION.parent.mkdir()
    return tmp_path


def test_results_of_the_same_parameters_give_no_warning(small: Path) -> None:
    assert _stale(None, "here") == ""
    paths.LOCK.unlink()  # nothing was run
    assert _stale(None, "here") == ""


@pytest.mark.parametrize(
    ("path", "old", "new", "keys"),
    [
        (paths.PARAMS, "epochs: 6", "epochs: 7", "`model.epochs`"),
        (paths.PARAMS, "[4, 8]", "[4]", "`model.filters`"),
        (paths.PARAMS, "epochs: 6", "steps: 6", "`model.epochs`, `model.steps`"),
        # Only one of the two stages ran with the seed of params.yaml.
        (paths.LOCK, "{seed: 1, model", "{seed: 2, model", "`seed`"),
        (paths.LOCK, "{seed: 1, eval", "{seed: 2, eval", "`seed`"),
    ],
)
def test_results_of_other_parameters_give_a_warning(
    small: Path, path: Path, old: str, new: str, keys: str
) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert f"here were made with other parameters** ({keys}): " in _stale(None, "here")


def test_stale_results_of_the_base_give_a_warning(small: Path) -> None:
    paths.PARAMS.write_text(PARAMS.replace("epochs: 6", "epochs: 7"))
    identity = "-c user.name=tests -c user.email=tests@example.org"
    command = f"git init -q && git add . && git {identity} commit -q -m stale"
    subprocess.run(command, shell=True, check=True)
    paths.PARAMS.write_text(PARAMS)
    assert "results on main were made with other" in _stale("HEAD", "on main")
    assert _stale(None, "here") == ""


@pytest.mark.parametrize("text", ["<<<<<<< HEAD", "[[1, 2]]", '"text"', "", "{"])
def test_files_that_hold_no_keys_are_refused(small: Path, text: str) -> None:
    paths.LOCK.write_text(text)
    with pytest.raises(CxrError, match=f"^{paths.LOCK} cannot be read"):
        _read(paths.LOCK, None)


def test_a_lock_file_of_another_structure_is_refused(small: Path) -> None:
    paths.LOCK.write_text("stages: [train]\n")
    with pytest.raises(CxrError, match=r"dvc\.lock is not a lock file of DVC"):
        _stale(None, "here")


@pytest.mark.parametrize("kind", [Evaluation, Intervals])
def test_results_of_another_version_are_no_results(small: Path, kind: type[ResultFile]) -> None:
    kind.path.write_text('{"baseline": {"selection": {}}}')
    assert _results(kind, None) is None
    kind.path.unlink()
    assert _results(kind, None) is None
    kind.path.write_text("<<<<<<< HEAD")
    with pytest.raises(CxrError, match=f"^{kind.path} cannot be read"):
        _results(kind, None)


def test_base_of_another_version_is_a_sentence_instead_of_tables(small: Path) -> None:
    now = results.evaluation()
    missing = "`metrics/intervals.json` is missing here or was produced by a different version"
    assert missing in _recommendation(now, None, "`main`")
    results.intervals().write()
    text = _recommendation(now, None, "`main`")
    assert "`metrics/evaluation.json` is missing on `main` or was produced by a different" in text
    assert "**baseline** is recommended" in text
    assert _headline(now, None, "test", "`main`") == _paired(now, None, "main", "1234567") == ""


def test_metrics_that_changed(small: Path) -> None:
    now = results.evaluation({"transfer.test.recall": 0.75})
    rows = _headline(now, results.evaluation(), "test", "`main`").splitlines()
    assert [row for row in rows if "0.750 (+0.250)" in row] == [
        row for row in rows if row.startswith("| transfer")
    ]
    assert sum("0.500 (=)" in row for row in rows) == len(VARIANTS)


def test_predictions_without_a_variant_are_not_paired(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictions = pd.DataFrame(
        {"path": ["a", "b"], "split": "val", "patient": "p", "label": ["NORMAL", "PNEUMONIA"]}
        | {variant: [0.1, 0.9] for variant in VARIANTS}
    )
    old = io.StringIO(predictions.drop(columns="transfer").to_csv(index=False))
    monkeypatch.setattr("dvc.api.open", lambda *_, **__: contextlib.nullcontext(old))
    shutil.copy(PROJECT / paths.PARAMS, paths.PARAMS)
    paths.PREDICTIONS.parent.mkdir()
    predictions.to_csv(paths.PREDICTIONS, index=False)
    now, before = results.evaluation({"transfer.test.recall": 0.75}), results.evaluation()
    text = _paired(now, before, "main", "1234567")
    assert text.endswith("produced by different versions ('transfer' is missing in one).")


@pytest.mark.slow
def test_the_warning_of_other_parameters_comes_first(finished: Project) -> None:
    params = finished.folder / "params.yaml"
    project_copy.set_params(params, {"transfer.learning_rate": 0.1, "evaluate.min_recall": 0.5})
    try:
        text = comment_of(finished, "HEAD", tables=False)
    finally:
        finished.run("git checkout --quiet .")
    warning, recommendation = text.split("\n\n")[1:3]
    assert warning.startswith("> **The results here were made with other parameters** (")
    assert "(`evaluate.min_recall`, `transfer.learning_rate`)" in warning
    assert "0.98" in recommendation  # of the recorded run
