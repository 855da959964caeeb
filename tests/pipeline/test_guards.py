"""The guards of preprocess in the pipeline."""

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
COPY = "train/NORMAL/a-copy.jpeg"


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished project, results included."""
    return finished.copy(tmp_path / "project")


def preprocess(project: Project, **settings: str) -> str:
    """Preprocess the images as they were verified; what was said."""
    project_copy.set_params(
        project.folder / "params.yaml", {f"data.{k}": v for k, v in settings.items()}
    )
    for output in project.outputs()["preprocess"]:
        remove(project.folder / output)
    return project.run("python -m stages.preprocess", check=False)


def paths_of(project: Project, split: str) -> set[str]:
    return set(pd.read_csv(project.folder / f"data/arrays/{split}/index.csv")["path"])


def guards(project: Project) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = json.loads(
        (project.folder / "metrics/guards.json").read_text(encoding="utf-8")
    )
    return found


def test_a_copy_of_a_test_image_in_training(project: Project) -> None:
    raw = project.folder / "data/raw/phantom"
    original = sorted((raw / "test/NORMAL").iterdir())[0]
    shutil.copy(original, raw / COPY)
    project.run("python -m stages.fetch")
    said = preprocess(project, on_leak="error")
    assert said.count("error: ") == 1
    assert f"{COPY} (train): identical with test/NORMAL/{original.name} (test)" in said
    assert not (project.folder / "data/arrays/train").exists()
    assert "WARNING" in preprocess(project, on_leak="warn")
    assert COPY in paths_of(project, "train")
    assert guards(project)["leaks"]["identical"] == 1
    with_copy = pd.read_csv(project.folder / "plots/classes.csv")["images"].sum()
    preprocess(project, on_leak="drop")
    assert COPY not in paths_of(project, "train")
    assert f"test/NORMAL/{original.name}" in paths_of(project, "test")
    assert guards(project)["leaks"] == {
        **{"patient": 0, "identical": 1, "near_identical": 0, "label_conflict": 0, "dropped": 1}
    }
    assert pd.read_csv(project.folder / "plots/classes.csv")["images"].sum() == with_copy - 1


def test_a_brighter_class_in_training(project: Project) -> None:
    for file in (project.folder / "data/raw/phantom/train/PNEUMONIA").iterdir():
        with Image.open(file) as image:
            brighter = image.point(lambda level: level // 4 + 191)
        file.unlink()  # DVC's cache may hold the same file
        brighter.save(file, quality=95)
    project.run("python -m stages.fetch")
    said = preprocess(project, on_shortcut="error")
    assert said.count("error: ") == 1
    assert "  mean_brightness: " in said
    assert "  mean_brightness: " in preprocess(project, on_shortcut="warn")
    assert guards(project)["single_feature_auc"]["mean_brightness"] > 0.9
