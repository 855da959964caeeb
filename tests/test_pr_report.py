"""The comment on a pull request, on commits of a temporary repository; and who posts it."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import Project

from cxr import demo
from cxr.demo import PROJECT
from cxr.pr_report import MARKER, _changed

COMMAND = "PYTHONPATH=src python -m cxr.pr_report --base"
SCRIPT = PROJECT / ".github/pr_report.sh"


@pytest.fixture(scope="module")
def branch(finished: Project) -> Iterator[Project]:
    """The finished project with another head trained, uncommitted."""
    demo.set_params(finished.folder / "params.yaml", {"transfer.learning_rate": 0.1})
    finished.repro()
    yield finished
    finished.run("git checkout --quiet .")
    finished.run("dvc checkout --quiet")


def sections(text: str) -> dict[str, str]:
    parts = text.split("\n### ")
    return {part.split("\n", 1)[0]: part.split("\n", 1)[1] for part in parts[1:]}


@pytest.mark.slow
def test_equal_sides(finished: Project) -> None:
    text = finished.run(f"{COMMAND} HEAD")
    assert text.startswith(f"{MARKER}\n\n## Results against `HEAD`\n")
    assert "On `HEAD` the recommendation is the same." in text
    found = sections(text)
    assert "None: the parameters are those of `HEAD`." in found["Parameters that differ"]
    assert "None: the metrics are those of `HEAD`." in found["All metrics that differ"]
    assert "Is the difference real?" not in found
    assert "(=)" in text
    assert "(+" not in found["Test at 0.5, in brackets the change from `HEAD`"]


@pytest.mark.slow
def test_a_changed_parameter(branch: Project) -> None:
    text = branch.run(f"{COMMAND} main")
    found = sections(text)
    assert "transfer.learning_rate" in found["Parameters that differ"]
    assert "transfer.test" in found["All metrics that differ"]
    assert "baseline.test" not in found["All metrics that differ"]
    headline = found["Test at 0.5, in brackets the change from `main`"]
    now = json.loads((branch.folder / "metrics/evaluation.json").read_text())
    old = json.loads(branch.run("git show main:metrics/evaluation.json"))
    values = [side["transfer"]["test"]["recall"] for side in (now, old)]
    assert values[0] != values[1]
    assert f"{values[0]:.3f} ({values[0] - values[1]:+.3f})" in headline
    rows = [line for line in found["Is the difference real?"].splitlines() if "| transfer" in line]
    assert len(rows) == 2  # at 0.5 on validation and on test; the operating point is the same
    assert f"{values[0] - values[1]:+.3f} (" in rows[1]
    assert "| baseline" not in found["Is the difference real?"]  # it is what it was


@pytest.mark.slow
def test_predictions_of_one_side_are_not_at_hand(branch: Project) -> None:
    cache = branch.folder / ".dvc/cache"
    cache.rename(branch.folder / ".dvc/elsewhere")
    try:
        text = branch.run(f"{COMMAND} main")
    finally:
        (branch.folder / ".dvc/elsewhere").rename(cache)
    told = sections(text)["Is the difference real?"]
    assert "need the predictions of both sides: `dvc pull data/predictions.csv`" in told
    assert "transfer.learning_rate" in text


@pytest.mark.slow
def test_other_images_are_not_paired(branch: Project) -> None:
    predictions = branch.folder / "data/predictions.csv"
    table = pd.read_csv(predictions)
    predictions.rename(predictions.with_suffix(".kept"))
    try:
        table[table["path"] != table["path"].iloc[-1]].to_csv(predictions, index=False)
        told = sections(branch.run(f"{COMMAND} main"))["Is the difference real?"]
    finally:
        predictions.with_suffix(".kept").replace(predictions)
    assert "The test images are not the same on both sides" in told
    assert "The validation images" not in told


@pytest.mark.slow
def test_new_metrics(finished: Project) -> None:
    """The first commit has no metrics at all."""
    text = finished.run(f"{COMMAND} main~1")
    assert "`main~1` has no metrics of every variant to compare with" in text
    assert "(new)" in text
    assert "Is the difference real?" not in text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["evaluation.json", "intervals.json"])
def test_missing_metrics(finished: Project, name: str) -> None:
    (finished.folder / "metrics" / name).unlink()
    try:
        text = finished.run(f"{COMMAND} main")
    finally:
        finished.run("git checkout --quiet .")
    assert f"`metrics/{name}` is missing here; run `dvc repro`" in text


@pytest.mark.slow
def test_mistakes_are_told(finished: Project) -> None:
    text = finished.run(f"{COMMAND} nowhere", check=False)
    assert "error: nowhere is no commit here; bring it with `git fetch origin nowhere`" in text
    (finished.folder / "metrics/evaluation.json").write_text("<<<<<<< HEAD")
    try:
        text = finished.run(f"{COMMAND} main", check=False)
    finally:
        finished.run("git checkout --quiet .")
    assert "error: metrics/evaluation.json cannot be read" in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("now", "before", "shown"),
    [
        (0.5, 0.5, "0.500 (=)"),
        (0.75, 0.5, "0.750 (+0.250)"),
        (0.5, 0.75, "0.500 (-0.250)"),
        (0.5001, 0.5, "0.500 (=)"),  # never a sign before 0
        (0.5, None, "0.500 (new)"),
        (None, 0.5, "missing (was 0.500)"),
        (None, None, "missing"),
    ],
)
def test_change_of_a_metric(now: float | None, before: float | None, shown: str) -> None:
    assert _changed(now, before) == shown


COMMENTS = [
    {"id": 1, "user": {"type": "User"}, "body": f"{MARKER} copied by somebody"},
    {"id": 2, "user": {"type": "Bot"}, "body": "another report"},
    {"id": 77, "user": {"type": "Bot"}, "body": f"{MARKER}\n\nof yesterday"},
    {"id": 78, "user": {"type": "Bot"}, "body": f"{MARKER}\n\nof today"},
]


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq reads the list of comments")
@pytest.mark.parametrize(("comments", "method"), [(COMMENTS[:2], "POST"), (COMMENTS, "PATCH")])
def test_one_comment_is_made_or_updated(
    tmp_path: Path, comments: list[dict[str, Any]], method: str
) -> None:
    """With a stand-in for GitHub's client, which notes what it is asked to send."""
    (tmp_path / "comments.json").write_text(json.dumps(comments))
    (tmp_path / "gh").write_text(
        f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\n'
        f'case "$*" in *--method*) cat "${{6#body=@}}" >{tmp_path}/sent;;\n'
        f'*) jq -r "$5" {tmp_path}/comments.json;; esac\n'
    )
    (tmp_path / "gh").chmod(0o755)
    report = tmp_path / "report.md"
    report.write_text(f"{MARKER}\nthe report\n")
    variables = {
        **{"PULL_REQUEST": "5", "GITHUB_REPOSITORY": "a/b"},
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
    }
    subprocess.run([SCRIPT, report], env=os.environ | variables, check=True)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert "--paginate repos/a/b/issues/5/comments" in asked[0]
    target = "comments/77" if method == "PATCH" else "5/comments"
    assert asked[1] == f"api --method {method} repos/a/b/issues/{target} --field body=@{report}"
    assert (tmp_path / "sent").read_text() == report.read_text()


@pytest.mark.parametrize("name", ["$(touch made)", "`touch made`", "a; touch made"])
def test_the_name_of_a_branch_is_no_command(tmp_path: Path, name: str) -> None:
    """With a stand-in for Python that notes its arguments."""
    (tmp_path / "python").write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/arguments\n')
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "installed").touch()
    makefile = (PROJECT / "Makefile").read_text().replace("export PATH :=", "export IGNORED :=")
    (tmp_path / "Makefile").write_text(makefile.replace("requirements.lock\n", "\n", 1))
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    command = ["make", "pr-report", f"VENV={tmp_path}"]
    subprocess.run(command, env=os.environ | {"BASE": name, "PATH": path}, cwd=tmp_path, check=True)
    assert (tmp_path / "arguments").read_text() == f"-m cxr.pr_report --base {name}\n"
    assert not (tmp_path / "made").exists()


@pytest.mark.slow
def test_results_of_other_parameters_are_told_first(finished: Project) -> None:
    params = finished.folder / "params.yaml"
    demo.set_params(params, {"transfer.learning_rate": 0.1, "evaluate.min_recall": 0.5})
    try:
        text = finished.run(f"{COMMAND} HEAD")
    finally:
        finished.run("git checkout --quiet .")
    warning, recommendation = text.split("\n\n")[2:4]
    assert warning.startswith("> **The results here were made with other parameters** (")
    assert "`transfer.learning_rate`, `evaluate.min_recall`" in warning
    assert "0.98" in recommendation  # what the recorded run was made for
