import re
import shlex
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import pytest

from cxr import cli, paths
from cxr.augment.stress_test import CONDITIONS
from cxr.common.names import VARIANTS
from cxr.errors import CxrError
from cxr.evaluation.results import Evaluation, Guards
from cxr.params import flat, read_params
from cxr.tools import demo, project_copy
from tests.support import results
from tests.support.results import changed


def test_a_copy_has_the_files_that_the_pipeline_needs_and_no_results(tmp_path: Path) -> None:
    project_copy.copy_project(tmp_path)
    for stage in project_copy.stages(tmp_path).values():
        assert all((tmp_path / dep).exists() for dep in stage["deps"] if dep.endswith(".py"))
    for result in ("dvc.lock", "metrics", "plots", "data", "models", ".git"):
        assert not (tmp_path / result).exists()
    assert not list(tmp_path.rglob("__pycache__"))


def test_settings_are_valid_and_keep_other_parameters(tmp_path: Path) -> None:
    project_copy.copy_project(tmp_path)
    project_copy.set_params(tmp_path / "params.yaml", demo.SETTINGS)
    params = read_params(tmp_path / "params.yaml")
    assert params.data.source == "phantom"
    committed = read_params(project_copy.PROJECT / "params.yaml")
    assert params.model.epochs == demo.SETTINGS["model.epochs"]
    assert params.model.kernel_size == committed.model.kernel_size
    assert "# pixels" in (tmp_path / "params.yaml").read_text()


def test_an_unknown_setting_is_refused(tmp_path: Path) -> None:
    project_copy.copy_project(tmp_path)
    with pytest.raises(KeyError):
        project_copy.set_params(tmp_path / "params.yaml", {"model.epoch": 3})


def evaluation(test: dict[str, float], stress: dict[str, float]) -> Evaluation:
    """With the ROC AUC of each variant on test, and of each condition for all variants."""
    conditions = {
        name: {"roc_auc": value, "recall": 0.5, "specificity": 0.5}
        for name, value in stress.items()
    }
    values: dict[str, Any] = {}
    for variant, auc in test.items():
        values |= {f"{variant}.test.roc_auc": auc, f"{variant}.val.roc_auc": 0.99}
        values |= {f"{variant}.stress": conditions}
    return results.evaluation(values)


def guards(**aucs: float) -> Guards:
    return Guards(leaks={}, single_feature_auc=aucs)


def test_comparison_is_at_the_operating_point() -> None:
    rates = {"recall": 0.9, "precision": 0.8, "accuracy": 0.7}
    found = changed(
        evaluation(dict.fromkeys(VARIANTS, 0.6), {}),
        {f"{v}.operating_point.test.{name}": r for v in VARIANTS for name, r in rates.items()},
    )
    table = demo.comparison(found)
    assert list(table.index) == list(VARIANTS)
    for _, row in table.iterrows():
        assert row.to_dict() == rates | {"ROC AUC": 0.6}


def test_the_finding_is_computed_from_the_results() -> None:
    test = dict(zip(VARIANTS, (0.5, 0.6, 0.7, 0.8, 0.9), strict=True))
    metrics = evaluation(test, {"dark": 0.8, "borders": 0.4})
    text = demo.shortcut_finding(metrics, guards(width=0.51, edges_top_right=0.97))
    for words in (
        "0.99 on validation and 0.50 to 0.90 on test",
        "black borders cover the edges (borders): 0.40",
        "training images is edges_top_right: AUC 0.97,\nabove the limit",
    ):
        assert words in text
    harmless = demo.shortcut_finding(metrics, guards(width=0.51))
    assert "training images is width: AUC 0.51,\nwithin the limit" in harmless


def test_every_stress_condition_is_described() -> None:
    assert demo.CHANGES.keys() == CONDITIONS.keys()


def test_shortcut_changes_one_setting(tmp_path: Path) -> None:
    plain, device = (
        flat(p=read_params(prepared(tmp_path / str(shortcut), shortcut) / "params.yaml"))
        for shortcut in (False, True)
    )
    assert set(device.items() - plain.items()) == {("p.data.phantom.shortcut", "device")}


def test_the_demo_replaces_an_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/old").touch()
    assert not (prepared(tmp_path / "demo") / "old").exists()


def test_a_failed_command_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(CxrError, match="`false` failed in "):
        demo.run(tmp_path, "false")


def test_git_ignores_the_folders_of_the_demos() -> None:
    command = ["git", "check-ignore", "demo/x", "demo-shortcut/x"]
    found = subprocess.run(
        command, cwd=project_copy.PROJECT, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == command[2:]


# --- a complete run ------------------------------------------------------------------------------


def prepared(folder: Path, shortcut: bool = False) -> Path:
    demo.prepare(folder, shortcut)
    return folder


def copied(folder: Path) -> dict[str, bytes]:
    """Files that the demo copied into a folder, without the configuration, which it changes."""
    copies = [folder / name for name in project_copy.PIPELINE if name != ".dvc/config"]
    files = [file for path in copies for file in (path.rglob("*") if path.is_dir() else [path])]
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in files
        if file.is_file() and file.suffix != ".pyc"
    }


def is_current(folder: Path, scratch: Path) -> bool:
    """Whether a folder has the complete run that `make demo` would produce now."""
    if not (folder / "dvc_plots/index.html").exists():
        return False
    if copied(folder) != copied(prepared(scratch)):
        return False
    inside = project_copy.environment() | {
        "DVC_SITE_CACHE_DIR": str(folder / ".dvc/tmp/site-cache")
    }
    status = subprocess.run(["dvc", "status", "--quiet"], cwd=folder, env=inside, check=False)
    return status.returncode == 0


@pytest.mark.parametrize(("change", "code"), [("", 0), ("src/cxr/new.py", 0), ("", 1)])
def test_only_a_complete_current_run_is_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, code: int
) -> None:
    folder = prepared(tmp_path / "demo")
    (folder / "dvc_plots").mkdir()
    (folder / "dvc_plots/index.html").touch()
    if change:
        (folder / change).touch()
    status = subprocess.CompletedProcess([], code)  # of `dvc status --quiet`
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: status)
    assert is_current(folder, tmp_path / "scratch") == (not change and code == 0)


@pytest.fixture(scope="module")
def finished_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of the demo: that of `make demo` if it is current."""
    scratch = tmp_path_factory.mktemp("demo")
    if is_current(demo.FOLDER, scratch / "current"):
        return demo.FOLDER
    before = (project_copy.PROJECT / "params.yaml").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "FOLDER", scratch / "demo")
        demo.main([])
    assert (project_copy.PROJECT / "params.yaml").read_bytes() == before
    return scratch / "demo"


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_learns(finished_demo: Path, variant: str) -> None:
    metrics = Evaluation.read(finished_demo / paths.EVALUATION)
    row = demo.comparison(metrics).loc[variant]
    assert row["ROC AUC"] >= 0.95
    assert row["accuracy"] >= 0.85


@pytest.mark.slow
def test_last_screen(finished_demo: Path) -> None:
    text = demo.last_screen(finished_demo, shortcut=False)
    assert "synthetic images (not medical data)" in text
    assert "`tiny`, trained on other synthetic images" in text
    pages = [Path(url2pathname(urlparse(uri).path)) for uri in re.findall(r"file://\S+", text)]
    assert [page.name for page in pages] == ["index.html"] * 2
    assert all(page.exists() for page in pages)
    for variant in VARIANTS:
        assert re.search(rf"^{variant} +([01]\.\d+ *){{4}}$", text, re.MULTILINE)
    assert len(text.splitlines()) < 24  # of a terminal


@pytest.mark.slow
def test_next_commands_work_as_typed(finished_demo: Path) -> None:
    predict, serve, make = demo.next_commands(finished_demo, shortcut=False)
    done = subprocess.run(
        predict, shell=True, cwd=project_copy.PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "PNEUMONIA" in done.stdout
    arguments = cli.parser().parse_args(shlex.split(serve)[1:])
    assert (project_copy.PROJECT / arguments.models / "settings.json").exists()
    for command in (make, demo.next_commands(finished_demo, shortcut=True)[2]):
        subprocess.run([*command.split(), "--dry-run"], cwd=project_copy.PROJECT, check=True)


@pytest.mark.slow
def test_the_demo_writes_only_into_its_folder(finished_demo: Path) -> None:
    """Its folder is not a git repository, and contains the cache of DVC."""
    assert not (finished_demo / ".git").exists()
    assert (finished_demo / ".dvc/tmp/site-cache/repo").is_dir()
