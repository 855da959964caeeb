"""Two commands at the same moment: right results, or one clear refusal by DVC."""

import json
import time

import pytest
from conftest import Project

pytestmark = pytest.mark.slow
REFUSALS = ("is busy, it is being blocked by", "Unable to acquire lock")


@pytest.fixture(scope="module")
def project(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the finished project with its results, without other tests' experiments."""
    copy = finished.copy(tmp_path_factory.mktemp("two") / "project")
    copy.run("dvc queue remove --all && dvc exp remove --all-commits")
    return copy


def at_once(project: Project, *commands: str) -> list[tuple[int, str]]:
    """Exit code and output of commands that were started together."""
    logs = [project.folder.with_name(f"log-{number}") for number in range(len(commands))]
    started = [project.start(*pair) for pair in zip(commands, logs, strict=True)]
    return [(process.wait(), log.read_text()) for process, log in zip(started, logs, strict=True)]


def resamples_of_experiments(project: Project) -> list[int]:
    shown = json.loads(project.run("dvc exp show --json --no-pager 2>/dev/null"))
    experiments = [e for rev in shown for e in rev.get("experiments") or []]
    params = [e["revs"][0]["data"]["params"]["params.yaml"]["data"] for e in experiments]
    return sorted(p["evaluate"]["resamples"] for p in params)


def test_two_repros_at_once(project: Project) -> None:
    before = project.contents(["metrics", "reports"])
    command = "dvc repro --force --single-item intervals"
    ends = at_once(project, command, command)
    assert any(code == 0 for code, _ in ends)
    for code, said in ends:
        assert code == 0 or sum(said.count(refusal) for refusal in REFUSALS) == 1, said
        assert "Traceback" not in said
    assert project.repro() == []
    assert project.contents(["metrics", "reports"]) == before


def test_two_experiments_side_by_side(project: Project) -> None:
    """Each in a folder of its own, with the result of its parameters."""
    commands = [f"dvc exp run --temp -S evaluate.resamples={n}" for n in (101, 102)]
    ends = at_once(project, *commands)
    for code, said in ends:
        assert code == 0 or sum(said.count(refusal) for refusal in REFUSALS) == 1, said
    ran = [n for n, (code, _) in zip((101, 102), ends, strict=True) if code == 0]
    assert ran
    assert resamples_of_experiments(project) == ran
    assert project.run("git status --porcelain") == ""
    project.run("dvc exp remove --all-commits")


def test_a_full_queue(project: Project) -> None:
    for number in (103, 104, 105):
        project.run(f"dvc exp run --queue -S evaluate.resamples={number}")
    project.run("dvc queue start --jobs 2")
    try:
        while any(state in project.run("dvc queue status") for state in ("Queued", "Running")):
            time.sleep(1)
        assert project.run("dvc queue status").count("Success") == 3
        assert resamples_of_experiments(project) == [103, 104, 105]
        assert project.run("git status --porcelain") == ""
    finally:
        project.run("dvc queue stop --kill")
