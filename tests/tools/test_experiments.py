"""Summary over seeds and record of DVC experiments."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cxr import paths
from cxr.common.files import write_json
from cxr.common.names import VARIANTS
from cxr.errors import CxrError
from cxr.evaluation import metrics
from cxr.evaluation.results import Evaluation
from cxr.reporting.document import with_table
from cxr.tools import experiments
from cxr.tools.experiments import (
    COLUMNS,
    experiment_refs,
    experiment_table,
    failures,
    last_commit,
    read_record,
    record,
    summary,
    table,
)
from cxr.tools.project_copy import PROJECT, environment, set_params
from tests.support import results


def run(
    name: str, seed: int, shift: float = 0.0, of: Collection[str] = ("transfer",), **more: Any
) -> dict[str, Any]:
    """A run as in `read_experiments`; `shift` is added to the metrics of some variants."""
    found = {"name": name, "commit": "1234567", "state": None, "changed": "", "seed": float(seed)}
    found["typ"] = "branch_base"
    for number, variant in enumerate(VARIANTS):
        for split in ("val", "test", "tuning"):
            for metric in experiments.METRICS:
                value = 0.5 + number / 10 + (shift if variant in of else 0)
                found[f"{variant}.{split}.{metric}"] = value
                found[f"{variant}.operating_point.{split}.{metric}"] = value - 0.01
        found[f"{variant}.operating_point.threshold"] = 0.25
    return found | more


def evaluation_of(run: dict[str, Any]) -> Evaluation:
    """Content of metrics/evaluation.json with the metrics of a run."""
    has_no_threshold = re.compile(r"operating_point\.\w+\.roc_auc$")
    values = {key: value for key, value in run.items() if "." in key}
    return results.evaluation({k: v for k, v in values.items() if not has_no_threshold.search(k)})


def test_table_has_a_row_per_experiment_and_variant() -> None:
    rows = table([run("main", 1), run("other", 2, 0.1, changed="image.input_size=128")])
    assert list(rows.columns) == COLUMNS
    assert rows["variant"].tolist() == [*VARIANTS, *VARIANTS]
    last = rows[rows["variant"] == "transfer"].iloc[-1]
    assert (last["experiment"], last["changed"], last["seed"]) == (
        "other",
        "image.input_size=128",
        2,
    )
    assert last["test_recall"] == pytest.approx(0.8)
    assert last["test_recall_at_threshold"] == pytest.approx(0.79)


@pytest.mark.parametrize("state", ["Failed", "Queued", "Running"])
def test_runs_without_own_metrics_have_no_rows(state: str) -> None:
    """DVC shows unfinished ones with the metrics of the commit that they started from."""
    without = {"name": "x", "commit": "1", "changed": "", "seed": 1.0, "state": None}
    assert table([run("broken", 1, state=state), without]).empty


def test_summary_has_mean_and_standard_deviation_over_seeds() -> None:
    runs = [run(f"seed{n}", n, shift) for n, shift in ((1, 0.0), (2, 0.1), (3, 0.2))]
    runs.append(run("size", 1, 0.1, changed="image.input_size=128"))
    runs.append(run("other code", 1, commit="7654321"))
    found = summary(table(runs)).set_index("variant")[["commit", "changed", "seeds", "test_recall"]]
    assert found.loc["transfer"].to_numpy().tolist() == [
        ["1234567", "as committed", 3, "0.800 ± 0.100"],
        ["1234567", "image.input_size=128", 1, "0.800"],
        ["7654321", "as committed", 1, "0.700"],
    ]
    assert found.loc["baseline", "test_recall"].tolist() == ["0.500 ± 0.000", "0.500", "0.500"]


def test_the_same_seed_counts_once() -> None:
    """An experiment with the committed seed repeats the committed run."""
    found = summary(table([run("main", 1), run("again", 1, 0.1)]))
    assert found["seeds"].tolist() == [1] * len(VARIANTS)
    # The experiment ran with the code of that commit; the committed metrics may be older.
    assert found.set_index("variant").loc["transfer", "test_recall"] == "0.800"


def test_record_adds_and_replaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "experiments.csv"
    pd.DataFrame(columns=COLUMNS).to_csv(path, index=False)
    page = tmp_path / "experiments.md"
    page.write_text("above\n<!-- table -->\nold\n<!-- end of table -->\nbelow\n")
    kept = {name: [f"refs/exps/12/{'0' * 38}/{name}"] for name in ("a", "b", "nonsense")}
    monkeypatch.setattr(experiments, "experiment_refs", lambda: kept)
    monkeypatch.setattr(
        experiments, "read_experiments", lambda commits: [run("a", 1), run("b", 1, 0.1)]
    )
    record(["a"], path)
    record(["b"], path)
    monkeypatch.setattr(experiments, "read_experiments", lambda commits: [run("a", 2, 0.05)])
    record(["a"], path)
    found = pd.read_csv(path)
    assert found["experiment"].tolist() == ["b"] * len(VARIANTS) + ["a"] * len(VARIANTS)
    assert found["seed"].tolist() == [1] * len(VARIANTS) + [2] * len(VARIANTS)
    assert found.set_index(["experiment", "variant"]).loc[("a", "transfer"), "test_recall"] == 0.75
    text = page.read_text()
    assert text.startswith("above\n<!-- table -->\n\n| experiment ")
    assert text.endswith("|\n\n<!-- end of table -->\nbelow\n")
    assert "old" not in text
    assert len(re.findall(r"^\| [ab] ", text, re.MULTILINE)) == 2 * len(VARIANTS)
    before = path.read_bytes()
    with pytest.raises(CxrError, match="no finished experiment nonsense"):
        record(["nonsense"], path)
    assert path.read_bytes() == before


class History:
    """A git and DVC repository with experiments that were not run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copy(PROJECT / paths.PARAMS, folder)
        (folder / "dvc.yaml").write_text("params: [params.yaml]\nmetrics: [metrics/summary.json]\n")
        for name in ("docs", "metrics"):
            (folder / name).mkdir()
        pd.DataFrame(columns=COLUMNS).to_csv(folder / paths.EXPERIMENTS, index=False)
        page = folder / paths.EXPERIMENTS.with_suffix(".md")
        page.write_text("<!-- table --><!-- end of table -->")
        self.git("init --quiet --initial-branch=main")
        subprocess.run(["dvc", "init", "--quiet"], cwd=folder, env=environment(), check=True)
        self.start = self.commit(0.0)

    def git(self, command: str) -> str:
        identity = ["-c", "user.name=tests", "-c", "user.email=tests@example.org"]
        command = ["git", *identity, *command.split()]
        return subprocess.run(
            command, cwd=self.folder, check=True, text=True, capture_output=True
        ).stdout.strip()

    def commit(self, shift: float, of: Collection[str] = ("transfer",)) -> str:
        found = evaluation_of(run("", 1, shift, of))
        found.write(self.folder / paths.EVALUATION)
        write_json(self.folder / paths.SUMMARY, metrics.summary(found))
        self.git("add .")
        self.git("commit --quiet --allow-empty --message=results")
        return self.git("rev-parse HEAD")

    def dvc(self, command: str, **variables: str) -> str:
        done = subprocess.run(
            ["dvc", *command.split()],
            cwd=self.folder,
            env=environment() | variables,
            check=True,
            text=True,
            capture_output=True,
        )
        return done.stdout

    def experiment(
        self, name: str, shift: float, of: Collection[str] = ("transfer",), **changed: object
    ) -> str:
        """An experiment as DVC stores it: a commit on top of the last one, on no branch."""
        start = self.git("rev-parse HEAD")
        reference = f"refs/exps/{start[:2]}/{start[2:]}/{name}"
        set_params(self.folder / paths.PARAMS, changed)
        self.git(f"update-ref {reference} {self.commit(shift, of)}")
        self.git(f"reset --quiet --hard {start}")
        return reference


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> History:
    monkeypatch.chdir(tmp_path)
    return History(tmp_path)


@pytest.mark.slow
def test_leftovers_of_an_interrupted_run_change_nothing(history: History) -> None:
    """DVC resolves HEAD to the commit of EXEC_BASELINE if there is one."""
    last = history.commit(0.1)
    reference = history.experiment("other", 0.2)
    before = summary(table(experiments.read_experiments(last_commit())))
    history.git(f"update-ref refs/exps/exec/EXEC_BASELINE {history.start}")
    history.git(f"update-ref refs/exps/exec/EXEC_BRANCH {history.start}")
    runs = experiments.read_experiments(last_commit())
    assert [(r["name"], r["commit"]) for r in runs] == [("main", last[:7]), ("other", last[:7])]
    assert summary(table(runs)).equals(before)
    assert experiment_refs() == {"other": [reference]}
    record(["other"])
    found = pd.read_csv(paths.EXPERIMENTS)
    assert found["experiment"].tolist() == ["other"] * len(VARIANTS)


@pytest.mark.slow
def test_a_damaged_evaluation_is_named(history: History) -> None:
    (history.folder / paths.EVALUATION).write_text("<<<<<<< HEAD")
    history.git("commit --quiet --all --message=damaged")
    with pytest.raises(CxrError, match=r"main:metrics/evaluation\.json cannot be read"):
        experiments.read_experiments(last_commit())


@pytest.mark.slow
def test_an_experiment_of_another_branch_is_recorded(history: History) -> None:
    history.git("switch --quiet --create other")
    other = history.commit(0.1)
    history.experiment("other", 0.2)  # the name of the branch
    history.git("switch --quiet main")
    history.commit(0.05)
    record(["other"])
    found = pd.read_csv(paths.EXPERIMENTS, dtype={"commit": str}).set_index("variant")
    assert found["commit"].tolist() == [other[:7]] * len(VARIANTS)
    assert found.loc["transfer", "test_recall"] == pytest.approx(0.9)
    with pytest.raises(CxrError, match="no finished experiment main"):  # a branch alone
        record(["main"])


@pytest.mark.slow
def test_a_name_of_several_experiments_is_refused(history: History) -> None:
    history.experiment("unlike", 0.3)
    old = history.experiment("same", 0.1)
    history.commit(0.05)
    new = history.experiment("same", 0.2)
    with pytest.raises(CxrError, match="same is the name of several") as caught:
        record(["same"])
    assert sorted(str(caught.value).split("\n  ")[1:]) == sorted([old, new])
    # The command in the message keeps both.
    rename = ["dvc", "exp", "rename", "--quiet", old, "older"]
    subprocess.run(rename, cwd=history.folder, env=environment(), check=True)
    record(["same", "older"])
    found = pd.read_csv(paths.EXPERIMENTS)
    assert set(found["experiment"]) == {"same", "older"}
    assert set(experiment_refs()) == {"same", "older", "unlike"}


@pytest.mark.slow
def test_tables_of_dvc_fit_into_160_columns(history: History) -> None:
    changed = ("baseline", "augmented")  # those that `model.epochs` changes
    for epochs in (10, 20, 30):
        setting = {"model.epochs": epochs}
        last = history.experiment(f"e{epochs}", 0.011 * epochs / 10, changed, **setting)
    shown = history.dvc("exp show --only-changed").splitlines()
    assert max(map(len, shown)) <= 160
    numbers = [f"{v[0]}.{name}" for v in changed for name in ("rec", "pre", "acc", "auc", "tun")]
    assert shown[1].split() == ["Experiment", "Created", *numbers, "model.epochs"]
    assert sorted(line.split()[-1] for line in shown[3:-1]) == ["10", "20", "30", "6", "6"]
    # Without the pager, DVC omits the columns that do not fit.
    assert history.dvc("exp show --only-changed --no-pager", COLUMNS="160").splitlines() == shown
    differing = history.dvc(f"metrics diff {history.git(f'rev-parse {last}')}").splitlines()
    assert [line.split()[1] for line in differing] == ["Metric", *sorted(numbers)]


def test_recorded_experiments_are_complete() -> None:
    rows = read_record(PROJECT / paths.EXPERIMENTS)
    assert list(rows.columns) == COLUMNS
    for _, found in rows.groupby("experiment"):
        # Older experiments lack newer variants.
        variants = found["variant"].tolist()
        assert variants == [variant for variant in VARIANTS if variant in variants]
        assert set(variants) >= {"baseline", "augmented", "transfer"}
    numbers = rows.drop(columns=["experiment", "commit", "changed", "seed", "variant"])
    known = numbers.fillna(0.5)  # older runs lack newer metrics
    assert ((known >= 0) & (known <= 1)).all(axis=None)
    always = numbers.filter(regex="^(val|test)_(?!(accuracy|specificity)_at)|^threshold")
    assert always.notna().all(axis=None)


def test_the_page_shows_the_record() -> None:
    page = (PROJECT / "docs/experiments.md").read_text(encoding="utf-8")
    rows = read_record(PROJECT / paths.EXPERIMENTS)
    assert with_table(page, "table", experiment_table(rows)) == page
    # Every command of the page that was run is recorded with its changed parameters.
    for name, changes in re.findall(r"exp run --temp -n (\w+) ((?:\\\n|.)*)", page):
        changed = set(re.findall(r"-S '?([^'\s]+)'?", changes))
        for known in rows.loc[rows["experiment"] == name, "changed"]:
            assert {c.replace("true", "True") for c in changed} == set(known.split())


def test_failed_runs_are_listed_with_their_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments, "_failure_reason", lambda name: f"error: {name} failed")
    runs = [run("good", 1), run("bad", 2, state="Failed", changed="image.input_size=1")]
    assert failures(runs) == ["bad (image.input_size=1, seed 2): error: bad failed"]


@pytest.mark.parametrize("state", ["no git", "no repository", "no commit"])
def test_without_a_commit_there_is_one_error(tmp_path: Path, state: str) -> None:
    path = os.environ["PATH"]
    if state == "no commit":
        subprocess.run(["git", "init", "--quiet", "."], cwd=tmp_path, check=True)
    if state == "no git":
        (tmp_path / "empty").mkdir()
        path = str(tmp_path / "empty")
    done = subprocess.run(
        [sys.executable, "-m", "cxr.tools.experiments", "summary"],
        cwd=tmp_path,
        env=os.environ
        | {"PATH": path, "PYTHONPATH": str(PROJECT / "src")}
        | {"GIT_CEILING_DIRECTORIES": str(tmp_path.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("\nerror: `git rev-parse HEAD` failed;")
    assert len(done.stderr.strip().splitlines()) == 1


STAGE = """\
stages:
  only:
    cmd: >-
      python -c "from cxr.errors import run_stage; from pathlib import Path;
      run_stage(lambda: Path('out').write_text(Path('params.yaml').read_text()))"
    params: [seed]
    outs: [out]
"""


@pytest.mark.slow
def test_a_shallow_clone_refuses_what_dvc_would_lose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC itself reports success, and the experiment is nowhere."""
    monkeypatch.setenv("PATH", environment()["PATH"])
    monkeypatch.setenv("PYTHONPATH", str(PROJECT / "src"))
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site-cache"))
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "tests")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "tests@example.org")

    def run(command: str, name: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command, shell=True, cwd=tmp_path / name, capture_output=True, text=True, check=False
        )

    (tmp_path / "whole").mkdir()
    (tmp_path / "whole/dvc.yaml").write_text(STAGE)
    (tmp_path / "whole/params.yaml").write_text("seed: 1\n")
    run("git init -q . && dvc init -q && git add -A && git commit -qm 1", "whole")
    run("git commit -q --allow-empty -m 2", "whole")
    run("git clone -q --depth 1 file://$PWD/../whole ../shallow", "whole")
    done = run("dvc exp run --temp --name lost -S seed=2", "shallow")
    assert done.returncode
    assert "error: this clone is shallow" in done.stdout + done.stderr
    assert experiments.is_shallow(tmp_path / "shallow")
    run("git fetch -q --unshallow", "shallow")
    assert not experiments.is_shallow(tmp_path / "shallow")
    done = run("dvc exp run --temp --name kept -S seed=2", "shallow")
    assert done.returncode == 0, done.stderr
    assert run("dvc exp list --name-only", "shallow").stdout.split() == ["kept"]
