"""Run the whole pipeline on synthetic radiographs, in a folder of its own: `make demo`.

Neither images nor results are medical: they show that everything runs, not how good it is.
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

# Three minutes on two cores, and enough images for every network to learn what it should.
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
# What some conditions of `stress.CONDITIONS` do to images.
CHANGES = {
    "borders": "black borders cover the edges of every image",
    "markers": "markers and text are written on every image",
    "equalised": "the grey values of every image are equalized",
    "dark": "every image is darker",
    "bright": "every image is brighter",
    "other_machine": "every image is made to look as if from another device",
    "smaller": "every image is seen from farther",
    "larger": "every image is seen from nearer",
    "low_quality": "every image loses detail",
    "other_shape": "the classes swap their aspect ratios",
}


def comparison(evaluation: Evaluation) -> pd.DataFrame:
    """Test metrics, one row per variant: recall, precision and accuracy at its operating point, and
    ROC AUC.
    """
    rates = ["recall", "precision", "accuracy"]
    rows = {
        variant: [*found.operating_point.test.select(rates).values(), found.test.roc_auc]
        for variant, found in evaluation.variants.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=[*rates, "ROC AUC"])


def shortcut_finding(evaluation: Evaluation, guards: Guards) -> str:
    """What the results say of a shortcut, in sentences."""
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
        "The stress test, made of validation images alone, finds the largest loss where\n"
        f"{CHANGES.get(worst, worst)}: {_range(stress[worst])} ({worst}).\n"
        f"Of all plain numbers, {number} tells the label of training images best: {auc:.2f}\n"
        f"({'above' if auc > MAX_AUC else 'within'} the bound of the shortcut check, {MAX_AUC})."
    )


def _range(values: list[float]) -> str:
    """From the lowest to the highest, or one number where they are the same."""
    return " to ".join(dict.fromkeys(f"{value:.2f}" for value in (min(values), max(values))))


def last_screen(folder: Path, shortcut: bool) -> str:
    """What a finished run in `folder` has to say."""
    settings = read_params(folder / paths.PARAMS)
    data = json.loads((folder / paths.DATA_METRICS).read_text(encoding="utf-8"))
    evaluation = Evaluation.read(folder / paths.EVALUATION)
    guards = Guards.read(folder / paths.GUARDS)
    what = (
        f"The whole pipeline ran on {data['images']} synthetic images (not medical data); the\n"
        f"backbone of transfer and finetuned is `{settings.transfer.backbone}`, trained on other "
        "synthetic images.\n"
    )
    if shortcut:
        what += (
            "One scanner, with its own marker, tone and borders, imaged all patients with\n"
            "pneumonia in training and validation, and half of either class in test.\n\n"
            f"{shortcut_finding(evaluation, guards)}\n"
        )
    pages = [folder / paths.REPORT_PAGE, folder / "dvc_plots" / "index.html"]
    return "\n".join(
        [
            what,
            "Results on test, at each variant's operating point:\n",
            comparison(evaluation).round(3).to_string(),
            "\nOpen:",
            *(f"  {page.as_uri()}" for page in pages),
            f"\nTry next, in {PROJECT}:",
            *(f"  {command}" for command in next_commands(folder, shortcut)),
        ]
    )


def next_commands(folder: Path, shortcut: bool) -> list[str]:
    """Commands that work in the project's root after the demo ran."""
    cxr, models = _shown(Path(sys.executable).with_name("cxr")), _shown(folder / paths.EXPORTED)
    images = _shown(folder / paths.raw("phantom") / "test")
    return [
        f"{cxr} predict {images} --models {models}",
        f"{cxr} serve --models {models}",
        "make demo" if shortcut else "make demo-shortcut",
    ]


def _shown(path: Path) -> str:
    """Relative to the project's root, where it is within."""
    return str(path.relative_to(PROJECT) if path.is_relative_to(PROJECT) else path)


def prepare(folder: Path, shortcut: bool) -> None:
    """Copy the project into `folder`, in place of what is there, with the demo's settings."""
    remove(folder)
    copy_project(folder)
    device = {"data.phantom.shortcut": "device"} if shortcut else {}
    set_params(folder / paths.PARAMS, SETTINGS | device)


def run(folder: Path, command: str) -> None:
    """Run a command in a prepared folder.

    Raises:
        CxrError: it failed.
    """
    inside = environment() | {"DVC_SITE_CACHE_DIR": str(folder / ".dvc/tmp/site-cache")}
    if subprocess.run(command.split(), cwd=folder, env=inside, check=False).returncode:
        raise CxrError(f"`{command}` failed in {folder}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m cxr.tools.demo", description=__doc__)
    parser.add_argument(
        "--shortcut", action="store_true", help="with a scanner that gives the label away"
    )
    shortcut = parser.parse_args(arguments).shortcut
    folder = FOLDER.with_name(f"{FOLDER.name}-shortcut") if shortcut else FOLDER
    prepare(folder, shortcut)
    for command in COMMANDS:
        run(folder, command)
    print(f"\n{last_screen(folder, shortcut)}")


if __name__ == "__main__":
    run_stage(main)
