"""Compute the metrics of every variant on validation, stress-test set and test."""

import pandas as pd

from cxr import paths
from cxr.common.files import write_csv, write_json
from cxr.errors import run_stage
from cxr.evaluation import ensemble
from cxr.evaluation.calibration import mean_of_calibrated
from cxr.evaluation.groups import accuracy_by_group
from cxr.evaluation.metrics import confusions, curves, summary
from cxr.evaluation.predictions import evaluate, merge
from cxr.params import read_params


def main() -> None:
    params = read_params()
    members = params.evaluate.ensemble
    predictions = merge()
    scales = ensemble.fit_scales(predictions, members)
    probabilities = {name: predictions[name].to_numpy() for name in members}
    predictions["ensemble"] = mean_of_calibrated(probabilities, scales)
    evaluation = evaluate(
        predictions, params.evaluate.min_recall, params.evaluate.prevalence, scales
    )
    write_csv(paths.PREDICTIONS, predictions)
    evaluation.write()
    write_json(paths.SUMMARY, summary(evaluation))
    test = predictions[predictions["split"] == "test"]
    write_csv(paths.PLOTS / "confusion.csv", confusions(test, evaluation.thresholds))
    groups = pd.read_csv(paths.SUBGROUPS, dtype=str, keep_default_na=False)
    write_csv(paths.GROUPS, accuracy_by_group(predictions, groups, evaluation.thresholds))
    for name, table in curves(test).items():
        write_csv(paths.PLOTS / f"{name}.csv", table)


if __name__ == "__main__":
    run_stage(main)
