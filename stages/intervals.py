"""Compute 95 % CIs of the metrics of all variants and of their differences."""

import json

import pandas as pd

from cxr import paths
from cxr.common.files import write_json
from cxr.common.names import EVALUATED, TUNING
from cxr.errors import run_stage
from cxr.evaluation.bootstrap import bootstrap_intervals, thresholds
from cxr.params import read_params


def main() -> None:
    params = read_params()
    predictions = pd.read_csv(paths.PREDICTIONS)
    points = thresholds(json.loads(paths.EVALUATION.read_text()))
    evaluate = (params.evaluate.prevalence, params.evaluate.n_bootstrap)
    tables = {split: predictions[predictions["split"] == split] for split in EVALUATED}
    tuning = predictions[predictions["split"].isin(TUNING)]
    intervals = {
        **{split: bootstrap_intervals(tables[split], points, *evaluate) for split in tables},
        # The operating points were chosen here.
        "selection": bootstrap_intervals(tuning, points, *evaluate, params.evaluate.min_recall),
    }
    write_json(paths.INTERVALS, intervals)


if __name__ == "__main__":
    run_stage(main)
