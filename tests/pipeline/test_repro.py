"""The real DAG under the real DVC, on generated radiographs in a temporary repository."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cxr.common.names import TRAINED, VARIANTS
from cxr.params import leaves
from cxr.tools import project_copy
from tests.support.project import Project

pytestmark = pytest.mark.slow

ALL = {
    *("fetch", "preprocess", "stress", "fetch_weights", "extract_features", "extract_activations"),
    *(f"train_{variant}" for variant in TRAINED),
    *("evaluate", "export", "intervals", "dataset_shift", "report"),
}
AFTER_TRAINING = {"evaluate", "export", "intervals", "dataset_shift", "report"}


def restore(project: Project) -> None:
    """Back to the committed state, files of DVC included."""
    project.run("git checkout --quiet .")
    project.run("dvc checkout --quiet")


def test_one_command_runs_every_stage(finished: Project) -> None:
    assert set(finished.ran_at_first) == ALL
    metrics = json.loads((finished.folder / "metrics/evaluation.json").read_text())
    assert {*VARIANTS, "majority"} == set(metrics)
    counts = json.loads((finished.folder / "metrics/data.json").read_text())
    for variant in VARIANTS:
        assert metrics[variant]["test"]["n"] == counts["test"]["images"]


def test_nothing_changed_runs_nothing_and_status_is_clean(finished: Project) -> None:
    started = time.monotonic()
    assert finished.repro() == []
    assert time.monotonic() - started < 15  # about 2 s on an idle machine
    assert "up to date" in finished.run("dvc status")
    assert finished.run("git status --porcelain") == ""


def test_a_changed_parameter_reruns_exactly_what_depends_on_it(finished: Project) -> None:
    params = finished.folder / "params.yaml"
    before = params.read_text()
    project_copy.set_params(params, {"model.epochs": 2})
    try:
        assert set(finished.repro()) == {"train_baseline", "train_augmented"} | AFTER_TRAINING
        history = (finished.folder / "plots/history/baseline.csv").read_text().splitlines()
        assert history[0] == "epoch,loss,accuracy,val_loss,val_accuracy,seconds,kept"
        assert len(history) == 3
        diff = finished.run("dvc params diff --md")
        assert "model.epochs" in diff
        assert "| b.auc " in finished.run("dvc metrics diff --all --md")
        # Back to the old value: the run cache has the old result, nothing is trained.
        params.write_text(before)
        assert finished.repro() == ["report"]
    finally:
        restore(finished)


def test_head_parameters_leave_the_features_alone(finished: Project) -> None:
    params = finished.folder / "params.yaml"
    before = params.read_text()
    project_copy.set_params(params, {"transfer.dense_units": 16})
    try:
        assert "extract_features" not in finished.run("dvc status")
        # The report names the parameter; a dry run does not know yet that the evaluation's input
        # will change.
        assert finished.repro("--dry") == ["train_transfer", "report"]
    finally:
        params.write_text(before)


def test_training_again_gives_the_same_bytes(finished: Project) -> None:
    """Also where there is no test image: training needs none, and one that tried would fail."""
    models = {p.name: p.read_bytes() for p in (finished.folder / "models").glob("*.keras")}
    assert set(models) == {f"{variant}.keras" for variant in TRAINED}
    again = "dvc repro --force --single-item"
    finished.run(f"{again} extract_features extract_activations stress")
    with no_test_images(finished):
        finished.run(" ".join([again, *(f"train_{variant}" for variant in TRAINED)]))
        code = finished.folder / "src/cxr/training/batches.py"
        before = code.read_text()
        code.write_text(before.replace('paths.ARRAYS / "val"', 'paths.ARRAYS / "test"'))
        said = finished.run("python -m stages.train_baseline", check=False)
        code.write_text(before)
    assert "data/arrays/test cannot be read" in said
    for name, content in models.items():
        assert (finished.folder / "models" / name).read_bytes() == content
    # The histories have other seconds, so the report that shows them is made again.
    assert set(finished.repro()) <= {"report"}
    restore(finished)


@contextmanager
def no_test_images(project: Project) -> Iterator[None]:
    """Neither they nor what was made of them is there meanwhile."""
    places = ("arrays/test", "features/test.npy", "activations/test.npy")
    hidden = [project.folder / "data" / place for place in places]
    for path in hidden:
        path.rename(path.with_name("hidden"))
    try:
        yield
    finally:
        for path in hidden:
            path.with_name("hidden").rename(path)


def test_models_load_without_code_of_this_project(finished: Project, tmp_path: Path) -> None:
    models = sorted((finished.folder / "models").glob("*.keras"))
    assert len(models) == len(TRAINED)
    program = "import keras, sys; [keras.saving.load_model(path) for path in sys.argv[1:]]"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-c", program, *models], cwd=tmp_path, env=environment, check=True
    )


def test_experiment_in_a_temporary_folder_runs_its_own_code(finished: Project) -> None:
    """The workspace's code is broken after queueing; the queued experiment must not notice."""
    before = finished.run("git status --porcelain")
    finished.run("dvc exp run --queue --name own -S model.epochs=2 train_baseline")
    training = finished.folder / "src/cxr/training/trainer.py"
    code = training.read_text()
    training.write_text("raise RuntimeError('code of the workspace')\n")
    try:
        output = finished.run("dvc exp run --run-all", check=False)
        assert "code of the workspace" not in output
    finally:
        training.write_text(code)
    shown = json.loads(finished.run("dvc exp show --json --no-pager 2>/dev/null"))
    experiments = [e for rev in shown for e in rev.get("experiments") or []]
    params = [e["revs"][0]["data"]["params"]["params.yaml"]["data"] for e in experiments]
    assert [p["model"]["epochs"] for p in params] == [2]
    assert finished.run("git status --porcelain") == before
    finished.run("dvc exp remove --all-commits")


def test_exp_run_temp_changes_one_parameter(finished: Project) -> None:
    output = finished.run("dvc exp run --temp --name quick -S model.epochs=2 train_baseline")
    assert "Ran experiment" in output
    finished.run("dvc exp show --no-pager --csv > shown.csv")
    table = (finished.folder / "shown.csv").read_text()
    (finished.folder / "shown.csv").unlink()
    assert "quick" in table
    shown = finished.run("COLUMNS=160 dvc exp show --only-changed --no-pager").splitlines()
    assert max(map(len, shown)) <= 160
    assert "model.epochs" in shown[1]  # what DVC leaves out are the columns of hashes behind it
    assert finished.run("git status --porcelain") == ""
    finished.run("dvc exp apply quick")
    history = (finished.folder / "plots/history/baseline.csv").read_text().splitlines()
    assert len(history) == 3
    restore(finished)
    finished.run("dvc exp remove --all-commits")


def test_metrics_of_dvc_are_few(finished: Project) -> None:
    found = json.loads(finished.run("dvc metrics show --json 2>/dev/null"))[""]["data"]
    assert list(found) == ["metrics/summary.json"]
    numbers = leaves(found["metrics/summary.json"]["data"])
    assert len(numbers) <= 30
    assert set(map(type, numbers.values())) == {float}
    assert len(finished.run("dvc metrics diff --all").splitlines()) == 1 + len(numbers)


def test_plots_page(finished: Project) -> None:
    finished.run("dvc plots show --quiet")
    page = (finished.folder / "dvc_plots/index.html").read_text()
    for title in ("Loss by epoch", "Accuracy by epoch", "ROC on test", "Confusion on test"):
        assert title in page
    # The JSON files of results are listed as plots only for the run cache.
    assert '[id^="metrics_"] { display: none; }' in page
    empty = set(re.findall(r'id = "(metrics_\w+)_json">\s*<script.*>\s*var spec = {};', page))
    files = {path.stem for path in (finished.folder / "metrics").glob("*.json")} - {"summary"}
    assert empty == {f"metrics_{name}" for name in files}
    finished.run("dvc plots diff --quiet HEAD workspace")


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("model.epochs", "twenty", "model.epochs: 'twenty'"),
        ("image.input_size", 100_000, "image.input_size: 100000"),
        ("split.val_fraction", float("nan"), "split.val_fraction"),
    ],
)
def test_wrong_parameter_stops_with_one_error(
    finished: Project, key: str, value: object, told: str
) -> None:
    project_copy.set_params(finished.folder / "params.yaml", {key: value})
    try:
        output = finished.run("dvc repro", check=False)
        assert told in output
        assert "Traceback" not in output
    finally:
        restore(finished)


def test_images_of_the_user_are_used_and_kept(tmp_path: Path, phantoms: Path) -> None:
    project = Project(tmp_path)
    project_copy.set_params(project.folder / "params.yaml", {"data.source": "kaggle"})
    shutil.copytree(phantoms, project.folder / "data/raw/kaggle")
    images = {p.relative_to(phantoms): p.read_bytes() for p in phantoms.rglob("*.jpeg")}
    for _ in range(2):
        project.run("dvc repro --force --single-item fetch")
        folder = project.folder / "data/raw/kaggle"
        assert {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*.jpeg")} == images
    bad = project.folder / "data/raw/kaggle/train/NORMAL/IM-9999-0001.jpeg"
    bad.write_text("no image")
    worse = project.folder / "data/raw/kaggle/train/PNEUMONIA/person9999_virus_1.jpeg"
    worse.write_bytes(b"")
    output = project.run("dvc repro fetch", check=False)
    assert "IM-9999-0001.jpeg" in output
    assert "person9999_virus_1.jpeg" in output
    assert "Traceback" not in output
