"""The whole pipeline under DVC, on phantoms in a temporary repository."""

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
    *(f"predict@{variant}" for variant in TRAINED),
    *("ood", "evaluate", "export", "intervals", "dataset_shift", "report"),
}
AFTER_PREDICTION = {"evaluate", "export", "intervals", "report"}


@pytest.fixture
def restored(finished: Project) -> Iterator[Project]:
    """The finished project, with its committed state restored afterwards."""
    yield finished
    finished.run("git checkout --quiet . && dvc checkout --quiet")


def test_one_command_runs_every_stage(finished: Project) -> None:
    assert set(finished.ran_at_first) == ALL
    metrics = json.loads((finished.folder / "metrics/evaluation.json").read_text())
    assert {*VARIANTS, "majority"} == set(metrics)
    counts = json.loads((finished.folder / "metrics/data.json").read_text())
    for variant in VARIANTS:
        assert metrics[variant]["test"]["n"] == counts["test"]["images"]


def test_without_changes_no_stage_runs(finished: Project) -> None:
    started = time.monotonic()
    assert finished.repro() == []
    assert time.monotonic() - started < 15  # about 2 s on an idle machine
    assert "up to date" in finished.run("dvc status")
    assert finished.run("git status --porcelain") == ""


def test_changed_parameters_rerun_only_their_dependents(restored: Project) -> None:
    """Those of the head retrain it on the features that exist."""
    params = restored.folder / "params.yaml"
    before = params.read_text()
    project_copy.set_params(params, {"transfer.epochs": 2, "transfer.dense_units": 16})
    assert set(restored.repro()) == {"train_transfer", "predict@transfer"} | AFTER_PREDICTION
    history = (restored.folder / "plots/history/transfer.csv").read_text().splitlines()
    assert history[0] == "epoch,loss,accuracy,val_loss,val_accuracy,seconds,kept"
    assert len(history) == 3
    assert "transfer.epochs" in restored.run("dvc params diff --md")
    assert "| t.auc " in restored.run("dvc metrics diff --all --md")
    # With the previous values, the run cache has the results: no training.
    params.write_text(before)
    assert restored.repro() == ["report"]


def test_repeated_training_is_bit_identical(restored: Project) -> None:
    """Without test images, too: training that read them would fail."""
    models = {p.name: p.read_bytes() for p in (restored.folder / "models").glob("*.keras")}
    assert set(models) == {f"{variant}.keras" for variant in TRAINED}
    repro = "dvc repro --force --single-item"
    restored.run(f"{repro} extract_features extract_activations stress")
    with no_test_images(restored):
        restored.run(" ".join([repro, *(f"train_{variant}" for variant in TRAINED)]))
    for name, content in models.items():
        assert (restored.folder / "models" / name).read_bytes() == content
    # The histories differ in their seconds, which the report shows.
    assert set(restored.repro()) <= {"report"}


@contextmanager
def no_test_images(project: Project) -> Iterator[None]:
    """Hide the test images and their features and activations."""
    names = ("arrays/test", "features/test.npy", "activations/test.npy")
    hidden = [project.folder / "data" / name for name in names]
    for path in hidden:
        path.rename(path.with_name("hidden"))
    try:
        yield
    finally:
        for path in hidden:
            path.with_name("hidden").rename(path)


def test_models_load_without_the_package(finished: Project, tmp_path: Path) -> None:
    models = sorted((finished.folder / "models").glob("*.keras"))
    assert len(models) == len(TRAINED)
    program = "import keras, sys; [keras.saving.load_model(path) for path in sys.argv[1:]]"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-c", program, *models], cwd=tmp_path, env=environment, check=True
    )


def test_queued_experiment_runs_the_code_at_queueing(restored: Project) -> None:
    """Code of the workspace that breaks after queueing does not affect the experiment."""
    restored.run("dvc exp run --queue --name quick -S model.epochs=2 train_baseline")
    training = restored.folder / "src/cxr/training/trainer.py"
    code = training.read_text()
    training.write_text("raise RuntimeError('code of the workspace')\n")
    output = restored.run("dvc exp run --run-all", check=False)
    assert "code of the workspace" not in output
    training.write_text(code)
    assert restored.run("git status --porcelain") == ""
    lines = restored.run("COLUMNS=160 dvc exp show --only-changed --no-pager").splitlines()
    assert max(map(len, lines)) <= 160
    assert "model.epochs" in lines[1]  # DVC omits the columns of hashes after it
    assert any("quick" in line for line in lines)
    restored.run("dvc exp apply quick")
    history = (restored.folder / "plots/history/baseline.csv").read_text().splitlines()
    assert len(history) == 3
    restored.run("dvc exp remove --all-commits")


def test_dvc_metrics_are_at_most_30_numbers(finished: Project) -> None:
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
    # Result files are outputs of the type plots only so that the run cache has them.
    assert '[id^="metrics_"] { display: none; }' in page
    empty = set(re.findall(r'id = "(metrics_\w+)_json">\s*<script.*>\s*var spec = {};', page))
    files = {path.stem for path in (finished.folder / "metrics").glob("*.json")} - {"summary"}
    assert empty == {f"metrics_{name}" for name in files}
    finished.run("dvc plots diff --quiet HEAD workspace")


def test_invalid_parameters_are_an_error_that_names_them(restored: Project) -> None:
    invalid = {
        "model.epochs": "twenty",
        "image.input_size": 100_000,
        "split.val_fraction": float("nan"),
    }
    project_copy.set_params(restored.folder / "params.yaml", invalid)
    output = restored.run("dvc repro", check=False)
    assert all(f"{key}: " in output for key in invalid)
    assert "Traceback" not in output


def test_existing_images_are_used_and_not_changed(tmp_path: Path, phantoms: Path) -> None:
    project = Project(tmp_path)
    project_copy.set_params(project.folder / "params.yaml", {"data.source": "kaggle"})
    shutil.copytree(phantoms, project.folder / "data/raw/kaggle")
    images = {p.relative_to(phantoms): p.read_bytes() for p in phantoms.rglob("*.jpeg")}
    for _ in range(2):
        project.run("dvc repro --force --single-item fetch")
        folder = project.folder / "data/raw/kaggle"
        assert {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*.jpeg")} == images
    text_file = project.folder / "data/raw/kaggle/train/NORMAL/IM-9999-0001.jpeg"
    text_file.write_text("no image")
    empty_file = project.folder / "data/raw/kaggle/train/PNEUMONIA/person9999_virus_1.jpeg"
    empty_file.write_bytes(b"")
    output = project.run("dvc repro fetch", check=False)
    assert "IM-9999-0001.jpeg" in output
    assert "person9999_virus_1.jpeg" in output
    assert "Traceback" not in output
