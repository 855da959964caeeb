"""The whole pipeline on generated radiographs, in a folder of its own: `make demo`.

Neither images nor results are medical: they show that everything runs, not how good it is.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
from ruamel.yaml import YAML

from cxr import paths
from cxr.files import remove

PROJECT = Path(__file__).resolve().parents[2]
FOLDER = PROJECT / "demo"
PIPELINE = (
    *("dvc.yaml", "params.yaml", ".dvcignore", ".dvc/config", ".dvc/plots", "stages", "src"),
    "docs/experiments.csv",
    "docs/other_acquisition.txt",
    "docs/patients.csv",
)

# Small enough for minutes on two cores, large enough for the networks to learn something.
SETTINGS = {
    "data.source": "phantom",
    "data.phantom.patients": 240,
    "split.val_fraction": 0.2,
    "image.size": 96,
    "model.epochs": 10,
    "model.batch_size": 16,
    "augment.rotation": 0.02,
    # Random features of VGG16 tell something, but need many steps; larger ones kill the head.
    "transfer.backbone": "vgg16",
    "transfer.weights": "none",
    "transfer.learning_rate": 0.002,
    "transfer.batch_size": 16,
    "transfer.epochs": 40,
    "finetune.side": 96,
    "finetune.from_layer": "last_stage",
    "finetune.copies": 1,
    "finetune.epochs": 6,
}


def copy_project(target: Path) -> None:
    """Copy what the pipeline needs to run into an empty folder `target`."""
    for name in PIPELINE:
        source = PROJECT / name
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target / name)


def set_params(path: Path, settings: dict[str, object]) -> None:
    """Change keys of a params.yaml, named with dots, that it already has; comments stay."""
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
    """Variables for commands that find `dvc` and `python` beside the Python that runs now."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return os.environ | {"PATH": path}


def comparison(evaluation: dict[str, dict[str, dict[str, float]]]) -> pd.DataFrame:
    """Test metrics at threshold 0.5, one row per variant."""
    columns = ["recall", "precision", "accuracy", "specificity", "roc_auc"]
    variants = [name for name in evaluation if name != "majority"]
    return pd.DataFrame({name: evaluation[name]["test"] for name in variants}).T[columns]


def main() -> None:
    remove(FOLDER)
    copy_project(FOLDER)
    set_params(FOLDER / paths.PARAMS, SETTINGS)
    inside = environment() | {"DVC_SITE_CACHE_DIR": str(FOLDER / ".dvc/tmp/site-cache")}
    for command in ("dvc config core.no_scm true", "dvc repro", "dvc plots show --quiet"):
        finished = subprocess.run(command.split(), cwd=FOLDER, env=inside, check=False)
        if finished.returncode:
            sys.exit(f"error: `{command}` failed in {FOLDER}")
    evaluation = json.loads((FOLDER / paths.EVALUATION).read_text(encoding="utf-8"))
    print("\nTest results on generated radiographs (not medical data; the backbone of")
    print("transfer and finetuned has random weights, as ImageNet's would be a download):\n")
    print(comparison(evaluation).round(3).to_string())
    print(f"\nReport: {(FOLDER / paths.REPORT_PAGE).as_uri()}")
    print(f"Plots: {(FOLDER / 'dvc_plots' / 'index.html').as_uri()}")
    print("Next: put the real images in place and type `make repro` (see README.md).")


if __name__ == "__main__":
    main()
