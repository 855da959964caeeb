"""Copies of the project with other parameters, for the demo, benchmarks and tests."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from cxr.common.files import read_yaml

PROJECT = Path(__file__).resolve().parents[3]
PIPELINE = (
    *("dvc.yaml", "params.yaml", ".dvcignore", ".dvc/config", ".dvc/plots", "stages", "src"),
    "docs/experiments.csv",
    "docs/other_acquisition.txt",
    "docs/patients.csv",
)


def copy_project(target: Path) -> None:
    """Copy the files that the pipeline needs into an empty folder `target`."""
    for name in PIPELINE:
        source = PROJECT / name
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target / name)


def stages(project: Path) -> dict[str, Any]:
    """Definitions of the stages in dvc.yaml by name, in an order in which they can run; those of a
    `foreach` one by one.
    """
    found = {}
    for name, stage in read_yaml(project / "dvc.yaml")["stages"].items():
        for key, item in stage.get("foreach", {}).items():
            text = json.dumps(stage["do"]).replace("${key}", key).replace("${item}", item)
            found[f"{name}@{key}"] = json.loads(text)
        if "foreach" not in stage:
            found[name] = stage
    return found


def script(stage: str) -> list[str]:
    """Arguments of Python that run a stage, such as `predict@baseline`."""
    return ["-m", *f"stages.{stage}".split("@")]


def set_params(path: Path, settings: dict[str, object]) -> None:
    """Set existing keys of a params.yaml, named with dots; comments are kept."""
    yaml = YAML()
    content = yaml.load(path.read_text(encoding="utf-8"))
    for key, value in settings.items():
        *sections, name = key.split(".")
        section = content
        for part in sections:
            section = section[part]
        if name not in section:
            raise KeyError(key)
        section[name] = value
    yaml.dump(content, path)


def environment() -> dict[str, str]:
    """Environment in which `dvc` and `python` are those next to the running Python."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return os.environ | {"PATH": path}
