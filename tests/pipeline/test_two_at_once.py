"""Concurrent DVC commands give correct results or one clear error of DVC."""

import json
import re

import pytest

from cxr.common.names import VARIANTS
from cxr.tools import project_copy
from tests.support.project import QUICK, Project, wait_for_queue

pytestmark = pytest.mark.slow
REFUSALS = ("is busy, it is being blocked by", "Unable to acquire lock")


@pytest.fixture(scope="module")
def project(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the finished project, without the experiments of other tests."""
    copy = finished.copy(tmp_path_factory.mktemp("two") / "project")
    copy.run("dvc queue remove --all && dvc exp remove --all-commits")
    return copy


def run_concurrently(project: Project, *commands: str) -> list[tuple[int, str]]:
    """Exit codes and outputs of commands that were started together."""
    logs = [project.folder.with_name(f"log-{number}") for number in range(len(commands))]
    started = [project.start(*pair) for pair in zip(commands, logs, strict=True)]
    return [(process.wait(), log.read_text()) for process, log in zip(started, logs, strict=True)]


@pytest.fixture(scope="module")
def sequential(project: Project) -> dict[int, str]:
    """Commits of the results of one `dvc repro` at a time, by `evaluate.n_bootstrap`.

    Only of the stage intervals, as in the tests below: later stages take a minute each time.
    """
    commits = {}
    for n_bootstrap in (101, 102):
        project_copy.set_params(
            project.folder / "params.yaml", {"evaluate.n_bootstrap": n_bootstrap}
        )
        assert project.repro("intervals") == ["intervals"]
        commits[n_bootstrap] = project.run("git stash create").strip()
    project.run("git checkout --quiet . && dvc checkout --quiet")
    return commits


def experiments(project: Project) -> dict[int, str]:
    """Commits of the experiments, by `evaluate.n_bootstrap`."""
    revisions = json.loads(project.run("dvc exp show --json --no-pager 2>/dev/null"))
    heads = [e["revs"][0] for rev in revisions for e in rev.get("experiments") or []]
    found = {
        head["data"]["params"]["params.yaml"]["data"]["evaluate"]["n_bootstrap"]: head["rev"]
        for head in heads
    }
    assert len(found) == len(heads)
    return found


def differing(project: Project, one: str, other: str) -> list[str]:
    """Files that differ between two commits: git has the intervals, and dvc.lock the parameters and
    the hashes of all other results.
    """
    files = "-- . :!params.yaml"  # DVC wraps its lines differently
    return project.run(f"git diff --name-only {one} {other} {files}").split()


def test_two_concurrent_repros(project: Project) -> None:
    before = project.contents(["metrics", "reports"])
    command = "dvc repro --force --single-item intervals"
    results = run_concurrently(project, command, command)
    assert any(code == 0 for code, _ in results)
    for code, output in results:
        assert code == 0 or sum(output.count(refusal) for refusal in REFUSALS) == 1, output
        assert "Traceback" not in output
    assert project.repro() == []
    assert project.contents(["metrics", "reports"]) == before


def test_two_concurrent_experiments(project: Project, sequential: dict[int, str]) -> None:
    """Each runs in its own folder and has the results of its parameters."""
    commands = [f"dvc exp run --temp -S evaluate.n_bootstrap={n} intervals" for n in sequential]
    results = run_concurrently(project, *commands)
    for code, output in results:
        assert code == 0 or sum(output.count(refusal) for refusal in REFUSALS) == 1, output
    ran = {n for n, (code, _) in zip(sequential, results, strict=True) if code == 0}
    found = experiments(project)
    assert ran == set(found) != set()
    for n_bootstrap, commit in found.items():
        assert differing(project, commit, sequential[n_bootstrap]) == []
    assert project.run("git status --porcelain") == ""
    project.run("dvc exp remove --all-commits")


def test_queue_continues_after_a_failure(project: Project, sequential: dict[int, str]) -> None:
    """The summary gives the reason for the failure."""
    project.run("dvc exp run --queue --name broken -S model.epochs=0 intervals")
    for n_bootstrap in sequential:
        project.run(f"dvc exp run --queue -S evaluate.n_bootstrap={n_bootstrap} intervals")
    project.run("dvc queue start --jobs 2")
    try:
        status = wait_for_queue(project)
        assert status.count("Success") == len(sequential)
        assert re.search(r"broken .*Failed", status)
        found = experiments(project)
        assert set(found) == {*sequential, QUICK["evaluate.n_bootstrap"]}  # the last failed
        for n_bootstrap, commit in sequential.items():
            assert differing(project, found[n_bootstrap], commit) == []
        printed = project.run("PYTHONPATH=src python -m cxr.tools.experiments summary")
        for n_bootstrap in sequential:
            row = rf" evaluate\.n_bootstrap={n_bootstrap} +(\w+) +1 "  # one seed
            assert re.findall(row, printed) == list(VARIANTS)
        assert re.search(r"broken \(model\.epochs=0, seed 1\): error: params\.yaml", printed)
        assert "model.epochs: " in printed
        assert project.run("git status --porcelain") == ""
    finally:
        project.run("dvc queue stop --kill")


def test_results_depend_on_the_parameter(project: Project, sequential: dict[int, str]) -> None:
    """Otherwise the tests above would compare equal results."""
    assert "metrics/intervals.json" in differing(project, sequential[101], sequential[102])
