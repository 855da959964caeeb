"""Write what prediction needs, and nothing of Keras, to one folder: networks and settings."""

import json

import pandas as pd

from cxr import exporting, paths, reproducible
from cxr.arrays import open_rows, open_split
from cxr.errors import run_stage
from cxr.files import replacing, write_json
from cxr.labels import SPLITS
from cxr.params import read_params


def main() -> None:
    params = read_params()
    reproducible.make_deterministic(0)
    train, val = open_split(paths.ARRAYS / "train"), open_split(paths.ARRAYS / "val")
    rows = {name: open_rows(paths.features(name)) for name in SPLITS}
    evaluation = json.loads(paths.EVALUATION.read_text())
    predictions = pd.read_csv(paths.PREDICTIONS)
    loss = params.export.int8_recall_loss
    with replacing(paths.EXPORTED) as folder:
        folder.mkdir()
        metrics = exporting.export_variants(folder, train, val, evaluation, loss)
        metrics["features"] = exporting.export_features(folder, val, rows["val"])
        known = exporting.export_familiarity(folder, rows)
        found = exporting.settings(params.image, evaluation, predictions, train.index, known)
        write_json(folder / "settings.json", found)
    write_json(paths.EXPORT, metrics | {"false_alarms": known["false_alarms"]})


if __name__ == "__main__":
    run_stage(main)
