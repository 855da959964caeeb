"""Two commands at the same moment: right results, or one clear refusal by DVC."""

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
    """A copy of the finished project with its results, without other tests' experiments."""
    copy = finished.copy(tmp_path_factory.mktemp("two") / "project")
    copy.run("dvc queue remove --all && dvc exp remove --all-commits")
    return copy


def at_once(project: Project, *commands: str) -> list[tuple[int, str]]:
    """Exit code and output of commands that were started together."""
    logs = [project.folder.with_name(f"log-{number}") for number in range(len(commands))]
    started = [project.start(*pair) for pair in zip(commands, logs, strict=True)]
    return [(process.wait(), log.read_text()) for process, log in zip(started, logs, strict=True)]


@pytest.fixture(scope="module")
def undisturbed(project: Project) -> dict[int, str]:
    """A commit of what `dvc repro` alone gives, by `evaluate.n_bootstrap`.

    Here and below of the stage intervals alone: what comes after it takes a minute each time.
    """
    commits = {}
    for resamples in (101, 102, 103):
        project_copy.set_params(project.folder / "params.yaml", {"evaluate.n_bootstrap": resamples})
        assert project.repro("intervals") == ["intervals"]
        commits[resamples] = project.run("git stash create").strip()
    project.run("git checkout --quiet . && dvc checkout --quiet")
    return commits


def experiments(project: Project) -> dict[int, str]:
    """Commits of the experiments, by `evaluate.n_bootstrap`."""
    shown = json.loads(project.run("dvc exp show --json --no-pager 2>/dev/null"))
    heads = [e["revs"][0] for rev in shown for e in rev.get("experiments") or []]
    found = {
        head["data"]["params"]["params.yaml"]["data"]["evaluate"]["n_bootstrap"]: head["rev"]
        for head in heads
    }
    assert len(found) == len(heads)
    return found


def differing(project: Project, one: str, other: str) -> list[str]:
    """Files that two commits have otherwise: intervals are in git, and dvc.lock has the parameters
    and the hashes of all other results.
    """
    written = "-- . :!params.yaml"  # whose lines DVC breaks elsewhere
    return project.run(f"git diff --name-only {one} {other} {written}").split()


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


def test_two_experiments_side_by_side(project: Project, undisturbed: dict[int, str]) -> None:
    """Each in a folder of its own, with the results of its parameters."""
    commands = [f"dvc exp run --temp -S evaluate.n_bootstrap={n} intervals" for n in (101, 102)]
    ends = at_once(project, *commands)
    for code, said in ends:
        assert code == 0 or sum(said.count(refusal) for refusal in REFUSALS) == 1, said
    ran = {n for n, (code, _) in zip((101, 102), ends, strict=True) if code == 0}
    found = experiments(project)
    assert ran == set(found) != set()
    for resamples, commit in found.items():
        assert differing(project, commit, undisturbed[resamples]) == []
    assert project.run("git status --porcelain") == ""
    project.run("dvc exp remove --all-commits")


def test_a_full_queue(project: Project, undisturbed: dict[int, str]) -> None:
    """It runs unattended past a failure, whose reason the summary gives."""
    project.run("dvc exp run --queue --name broken -S model.epochs=0 intervals")
    for resamples in undisturbed:
        project.run(f"dvc exp run --queue -S evaluate.n_bootstrap={resamples} intervals")
    project.run("dvc queue start --jobs 2")
    try:
        status = wait_for_queue(project)
        assert status.count("Success") == 3
        assert re.search(r"broken .*Failed", status)
        found = experiments(project)
        assert set(found) == {*undisturbed, QUICK["evaluate.n_bootstrap"]}  # the last one is broken
        for resamples, commit in undisturbed.items():
            assert differing(project, found[resamples], commit) == []
        printed = project.run("PYTHONPATH=src python -m cxr.tools.experiments summary")
        for resamples in undisturbed:
            row = rf" evaluate\.resamples={resamples} +(\w+) +1 "  # of one seed
            assert re.findall(row, printed) == list(VARIANTS)
        assert "broken (model.epochs=0, seed 1): error: params.yaml has 1 invalid value" in printed
        assert "model.epochs: Input should be greater than or equal to 1 (got 0)" in printed
        assert project.run("git status --porcelain") == ""
    finally:
        project.run("dvc queue stop --kill")


def test_the_results_hang_on_the_parameter(project: Project, undisturbed: dict[int, str]) -> None:
    """Else the tests above would compare nothing."""
    assert "metrics/intervals.json" in differing(project, undisturbed[101], undisturbed[102])
