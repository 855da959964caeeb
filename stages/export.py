"""Write networks, settings and model card to one folder, for prediction without Keras."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from cxr import paths
from cxr.common.arrays import open_rows, open_split
from cxr.common.files import replacing, write_json
from cxr.common.names import TRAINED
from cxr.errors import run_stage
from cxr.evaluation.results import Evaluation
from cxr.export import bundle, model_card
from cxr.export.settings import FILE, OodSettings
from cxr.params import EvaluateParams, ImageParams, flat, read_params


def main() -> None:
    params = read_params()
    run_settings = {
        "data.source": params.data.source,
        "split.val_fraction": params.split.val_fraction,
    }
    run_settings |= flat(evaluate=params.evaluate)
    with replacing(paths.EXPORTED) as folder:
        folder.mkdir()
        metrics = copy_networks(folder)
        metrics["drift"] = write_settings(folder, params.image, params.evaluate, metrics["ood"])
        card = model_card.card(model_card.read_inputs(run_settings, metrics))
        (folder / paths.CARD.name).write_text(card.to_markdown(), encoding="utf-8")
    write_json(paths.EXPORT, metrics)


def copy_networks(folder: Path) -> dict[str, Any]:
    """Copy the networks and the OOD detector; returns how they compare with Keras."""
    metrics: dict[str, Any] = {}
    for variant in TRAINED:
        metrics[variant] = copy_files(paths.network(variant).parent, folder)
    return metrics | copy_files(paths.OOD, folder)


def copy_files(source: Path, folder: Path) -> dict[str, Any]:
    """Copy all files but the comparison with Keras, whose content is returned."""
    for file in sorted(source.iterdir()):
        if file.name != paths.COMPARISON:
            shutil.copyfile(file, folder / file.name)
    return json.loads((source / paths.COMPARISON).read_text(encoding="utf-8"))


def write_settings(
    folder: Path, image: ImageParams, evaluate: EvaluateParams, ood: dict[str, Any]
) -> dict[str, Any]:
    """Write settings and drift reference; returns the metrics of drift detection."""
    splits = {name: open_split(paths.ARRAYS / name) for name in ("val", "stress", "test")}
    rows = {name: open_rows(paths.features(name)) for name in splits}
    train = open_split(paths.ARRAYS / "train").index
    predictions = pd.read_csv(paths.PREDICTIONS)
    settings = bundle.prediction_settings(
        image, evaluate, Evaluation.read(), predictions, train, OodSettings(**ood)
    )
    settings.write(folder / FILE)
    return bundle.export_reference(folder, splits, rows, predictions, settings)


if __name__ == "__main__":
    run_stage(main)
