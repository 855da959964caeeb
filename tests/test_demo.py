import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from cxr import demo
from cxr.params import read_params
from cxr.variants import VARIANTS


def test_copy_holds_what_the_pipeline_needs_and_no_results(tmp_path: Path) -> None:
    demo.copy_project(tmp_path)
    deps = YAML(typ="safe").load(tmp_path / "dvc.yaml")["stages"]
    for stage in deps.values():
        assert all((tmp_path / dep).exists() for dep in stage["deps"] if dep.endswith(".py"))
    for result in ("dvc.lock", "metrics", "plots", "data", "models", ".git"):
        assert not (tmp_path / result).exists()
    assert not list(tmp_path.rglob("__pycache__"))


def test_settings_are_valid_and_leave_the_rest(tmp_path: Path) -> None:
    demo.copy_project(tmp_path)
    demo.set_params(tmp_path / "params.yaml", demo.SETTINGS)
    params = read_params(tmp_path / "params.yaml")
    assert params.data.source == "phantom"
    assert params.model.epochs == demo.SETTINGS["model.epochs"]
    assert params.model.filters == read_params(demo.PROJECT / "params.yaml").model.filters
    assert "# pixels" in (tmp_path / "params.yaml").read_text()


def test_unknown_setting_is_refused(tmp_path: Path) -> None:
    demo.copy_project(tmp_path)
    with pytest.raises(KeyError):
        demo.set_params(tmp_path / "params.yaml", {"model.epoch": 3})


def test_comparison_has_a_row_per_variant() -> None:
    metrics = dict.fromkeys(["recall", "precision", "accuracy", "specificity", "roc_auc"], 0.5)
    evaluation = {name: {"test": metrics | {"n": 4}} for name in ("baseline", "transfer")}
    table = demo.comparison({**evaluation, "majority": {"test": {"accuracy": 0.6}}})
    assert list(table.index) == ["baseline", "transfer"]
    assert list(table) == list(metrics)


@pytest.mark.slow
def test_demo_runs_from_an_unpacked_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """No .git beside it, and the workspace's own files stay as they are."""
    monkeypatch.setattr(demo, "FOLDER", tmp_path / "demo")
    quick = {"data.phantom.patients": 60, "data.phantom.short_side": 48, "image.size": 32}
    quick |= {"model.epochs": 1, "transfer.epochs": 1, "finetune.epochs": 1, "finetune.side": 32}
    monkeypatch.setattr(demo, "SETTINGS", demo.SETTINGS | quick)
    before = (demo.PROJECT / "params.yaml").read_bytes()
    demo.main()
    output = capfd.readouterr().out
    assert "transfer" in output
    assert "not medical data" in output
    assert (tmp_path / "demo/dvc_plots/index.html").exists()
    metrics = json.loads((tmp_path / "demo/metrics/evaluation.json").read_text())
    assert set(metrics) == {*VARIANTS, "majority"}
    assert (tmp_path / "demo/.dvc/tmp/site-cache/repo").is_dir()
    assert (demo.PROJECT / "params.yaml").read_bytes() == before
