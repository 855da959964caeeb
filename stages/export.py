"""Write networks, settings and model card to one folder, for prediction without Keras."""

from pathlib import Path
from typing import Any

import pandas as pd

from cxr import paths
from cxr.common import determinism
from cxr.common.arrays import open_rows, open_split
from cxr.common.files import replacing, write_json
from cxr.common.names import SPLITS
from cxr.errors import run_stage
from cxr.evaluation.results import Evaluation
from cxr.export import bundle, model_card
from cxr.export.settings import FILE
from cxr.params import EvaluateParams, ImageParams, flat, read_params


def main() -> None:
    params = read_params()
    determinism.make_deterministic(0)
    run_settings = {
        "data.source": params.data.source,
        "split.val_fraction": params.split.val_fraction,
    }
    run_settings |= flat(evaluate=params.evaluate)
    with replacing(paths.EXPORTED) as folder:
        folder.mkdir()
        metrics = write_networks(folder, params.image, params.evaluate)
        card = model_card.card(model_card.read_inputs(run_settings, metrics))
        (folder / paths.CARD.name).write_text(card.to_markdown(), encoding="utf-8")
    write_json(paths.EXPORT, metrics)


def write_networks(folder: Path, image: ImageParams, evaluate: EvaluateParams) -> dict[str, Any]:
    """Write networks and settings; returns the content of metrics/export.json."""
    splits = {name: open_split(paths.ARRAYS / name) for name in (*SPLITS, "stress")}
    rows = {name: open_rows(paths.features(name)) for name in splits}
    train, val = splits["train"], splits["val"]
    evaluation = Evaluation.read()
    predictions = pd.read_csv(paths.PREDICTIONS)
    metrics = bundle.export_variants(folder, val)
    metrics["features"] = bundle.export_features(folder, val, rows["val"])
    ood = bundle.export_ood(folder, rows, val)
    metrics["ood"] = ood.model_dump()
    settings = bundle.prediction_settings(
        image, evaluate, evaluation, predictions, train.index, ood
    )
    settings.write(folder / FILE)
    others = {name: splits[name] for name in ("val", "stress", "test")}
    metrics["drift"] = bundle.export_reference(folder, others, rows, predictions, settings)
    return metrics


if __name__ == "__main__":
    run_stage(main)
