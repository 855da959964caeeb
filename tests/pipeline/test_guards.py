"""The checks for leakage and shortcuts in the pipeline."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from cxr.common.files import remove
from cxr.tools import project_copy
from tests.support.project import Project

pytestmark = pytest.mark.slow
DUPLICATE = "train/NORMAL/a-copy.jpeg"


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished project, results included."""
    return finished.copy(tmp_path / "project")


def preprocess(project: Project, **settings: str) -> str:
    """Preprocess the verified images; returns the output."""
    project_copy.set_params(
        project.folder / "params.yaml", {f"data.{k}": v for k, v in settings.items()}
    )
    for output in project.outputs()["preprocess"]:
        remove(project.folder / output)
    return project.run("python -m stages.preprocess", check=False)


def paths_of(project: Project, split: str) -> set[str]:
    return set(pd.read_csv(project.folder / f"data/arrays/{split}/index.csv")["path"])


def guards(project: Project) -> dict[str, dict[str, float]]:
    content: dict[str, dict[str, float]] = json.loads(
        (project.folder / "metrics/guards.json").read_text(encoding="utf-8")
    )
    return content


def test_a_duplicate_of_a_test_image_in_training(project: Project) -> None:
    raw = project.folder / "data/raw/phantom"
    original = sorted((raw / "test/NORMAL").iterdir())[0]
    shutil.copy(original, raw / DUPLICATE)
    project.run("python -m stages.fetch")
    output = preprocess(project, on_leak="error")
    assert output.count("error: ") == 1
    assert f"{DUPLICATE} (train): identical with test/NORMAL/{original.name} (test)" in output
    assert not (project.folder / "data/arrays/train").exists()
    assert "WARNING" in preprocess(project, on_leak="warn")
    assert DUPLICATE in paths_of(project, "train")
    assert guards(project)["leaks"]["identical"] == 1
    with_duplicate = pd.read_csv(project.folder / "plots/classes.csv")["images"].sum()
    preprocess(project, on_leak="drop")
    assert DUPLICATE not in paths_of(project, "train")
    assert f"test/NORMAL/{original.name}" in paths_of(project, "test")
    assert guards(project)["leaks"] == {
        **{"patient": 0, "identical": 1, "near_identical": 0, "label_conflict": 0, "dropped": 1}
    }
    assert pd.read_csv(project.folder / "plots/classes.csv")["images"].sum() == with_duplicate - 1


def test_a_brighter_class_in_training_is_a_shortcut(project: Project) -> None:
    for file in (project.folder / "data/raw/phantom/train/PNEUMONIA").iterdir():
        with Image.open(file) as image:
            brighter = image.point(lambda level: level // 4 + 191)
        file.unlink()  # may be hard-linked to DVC's cache
        brighter.save(file, quality=95)
    project.run("python -m stages.fetch")
    output = preprocess(project, on_shortcut="error")
    assert output.count("error: ") == 1
    assert "  mean_brightness: " in output
    assert "  mean_brightness: " in preprocess(project, on_shortcut="warn")
    assert guards(project)["single_feature_auc"]["mean_brightness"] > 0.9
