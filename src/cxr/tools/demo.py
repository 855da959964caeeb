"""Run the whole pipeline on synthetic radiographs, in a folder of its own: `make demo`.

The images are not medical: the demo shows that the pipeline runs; its scores mean nothing.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import pandas as pd

from cxr import paths
from cxr.common.files import remove
from cxr.common.names import EVALUATED, VARIANTS
from cxr.data.shortcuts import MAX_AUC
from cxr.errors import CxrError, run_stage
from cxr.evaluation.results import Evaluation, Guards
from cxr.params import read_params
from cxr.tools.project_copy import PROJECT, copy_project, environment, set_params

FOLDER = PROJECT / "demo"

# Takes three minutes on two cores, with enough images for every network to learn.
SETTINGS: dict[str, object] = {
    "data.source": "phantom",
    "data.phantom.patients": 360,
    "data.phantom.short_side": 96,
    "split.val_fraction": 0.2,
    "image.input_size": 64,
    "model.filters": [8, 16, 32, 64],
    "model.batch_norm": True,
    "model.pooling": "avg",
    "model.conv_dropout": 0.0,
    "model.dense_dropout": 0.2,
    "model.learning_rate": 0.004,
    "model.schedule": "cosine",
    "model.batch_size": 16,
    "model.epochs": 11,
    "augment.rotation": 0.02,
    "transfer.backbone": "tiny",
    "transfer.weights": "phantom",
    "transfer.learning_rate": 0.003,
    "transfer.epochs": 20,
    "finetune.input_size": 64,
    "finetune.n_augmentations": 2,
    "finetune.learning_rate": 0.003,
    "finetune.epochs": 18,
    "evaluate.min_recall": 0.9,
}
COMMANDS = ("dvc config core.no_scm true", "dvc repro", "dvc plots show --quiet")
# Effect of each condition of `stress_test.CONDITIONS`.
CHANGES = {
    "borders": "black borders cover the edges",
    "markers": "markers and text are overlaid",
    "equalized": "gray values are equalized",
    "dark": "images are darker",
    "bright": "images are brighter",
    "other_machine": "images mimic another scanner",
    "smaller": "the body is smaller in the image",
    "larger": "the body is larger in the image",
    "low_quality": "images lose detail",
    "other_shape": "the classes swap aspect ratios",
}


def comparison(evaluation: Evaluation) -> pd.DataFrame:
    """Test metrics, one row per variant: recall, precision and accuracy at the operating point, and
    ROC AUC.
    """
    rates = ["recall", "precision", "accuracy"]
    rows = {
        variant: [*found.operating_point.test.select(rates).values(), found.test.roc_auc]
        for variant, found in evaluation.variants.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=[*rates, "ROC AUC"])


def shortcut_finding(evaluation: Evaluation, guards: Guards) -> str:
    """Effect of a shortcut on the results, in sentences."""
    variants = [evaluation.variants[variant] for variant in VARIANTS]
    val, test = ([getattr(of, split).roc_auc for of in variants] for split in EVALUATED)
    stress = {
        condition: [of.stress[condition].roc_auc for of in variants]
        for condition in variants[0].stress
    }
    worst = min(stress, key=lambda condition: mean(stress[condition]))
    number, auc = max(guards.single_feature_auc.items(), key=lambda item: item[1])
    return (
        f"ROC AUC is {_range(val)} on validation and {_range(test)} on test.\n"
        "The stress test, made of validation images alone, finds the largest drop if\n"
        f"{CHANGES.get(worst, worst)} ({worst}): {_range(stress[worst])}.\n"
        f"The strongest shortcut feature of the training images is {number}: AUC {auc:.2f},\n"
        f"{'above' if auc > MAX_AUC else 'within'} the limit of the shortcut check, {MAX_AUC}."
    )


def _range(values: list[float]) -> str:
    """Lowest to highest, or one number if they round to the same."""
    return " to ".join(dict.fromkeys(f"{value:.2f}" for value in (min(values), max(values))))


def last_screen(folder: Path, shortcut: bool) -> str:
    """Summary of a finished run in `folder`, for the terminal."""
    settings = read_params(folder / paths.PARAMS)
    data = json.loads((folder / paths.DATA_METRICS).read_text(encoding="utf-8"))
    evaluation = Evaluation.read(folder / paths.EVALUATION)
    guards = Guards.read(folder / paths.GUARDS)
    text = (
        f"The whole pipeline ran on {data['images']} synthetic images (not medical data); the\n"
        f"backbone of transfer and finetuned is `{settings.transfer.backbone}`, trained on other "
        "synthetic images.\n"
    )
    if shortcut:
        text += (
            "One scanner, with its own marker, tone and borders, imaged all positive patients\n"
            "of training and validation, and half of each class in test.\n\n"
            f"{shortcut_finding(evaluation, guards)}\n"
        )
    pages = [folder / paths.REPORT_PAGE, folder / "dvc_plots" / "index.html"]
    return "\n".join(
        [
            text,
            "Results on test, at each variant's operating point:\n",
            comparison(evaluation).round(3).to_string(),
            "\nOpen:",
            *(f"  {page.as_uri()}" for page in pages),
            f"\nTry next, in {PROJECT}:",
            *(f"  {command}" for command in next_commands(folder, shortcut)),
        ]
    )


def next_commands(folder: Path, shortcut: bool) -> list[str]:
    """Commands that work in the project root after the demo."""
    cxr, models = (
        _relative(Path(sys.executable).with_name("cxr")),
        _relative(folder / paths.EXPORTED),
    )
    images = _relative(folder / paths.raw("phantom") / "test")
    return [
        f"{cxr} predict {images} --models {models}",
        f"{cxr} serve --models {models}",
        "make demo" if shortcut else "make demo-shortcut",
    ]


def _relative(path: Path) -> str:
    """The path relative to the project root, if it is inside."""
    return str(path.relative_to(PROJECT) if path.is_relative_to(PROJECT) else path)


def prepare(folder: Path, shortcut: bool) -> None:
    """Replace `folder` by a copy of the project with the settings of the demo."""
    remove(folder)
    copy_project(folder)
    device = {"data.phantom.shortcut": "device"} if shortcut else {}
    set_params(folder / paths.PARAMS, SETTINGS | device)


def run(folder: Path, command: str) -> None:
    """Run a command in a prepared folder.

    Raises:
        CxrError: the command failed.
    """
    inside = environment() | {"DVC_SITE_CACHE_DIR": str(folder / ".dvc/tmp/site-cache")}
    if subprocess.run(command.split(), cwd=folder, env=inside, check=False).returncode:
        raise CxrError(f"`{command}` failed in {folder}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m cxr.tools.demo", description=__doc__)
    parser.add_argument(
        "--shortcut", action="store_true", help="with a scanner that reveals the label"
    )
    shortcut = parser.parse_args(arguments).shortcut
    folder = FOLDER.with_name(f"{FOLDER.name}-shortcut") if shortcut else FOLDER
    prepare(folder, shortcut)
    for command in COMMANDS:
        run(folder, command)
    print(f"\n{last_screen(folder, shortcut)}")


if __name__ == "__main__":
    run_stage(main)
