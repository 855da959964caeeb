"""Compute 95 % CIs of the metrics of all variants and of their differences."""

import pandas as pd

from cxr import paths
from cxr.common.names import EVALUATED, TUNING
from cxr.errors import run_stage
from cxr.evaluation.bootstrap import bootstrap_intervals
from cxr.evaluation.results import Evaluation, Intervals
from cxr.params import read_params


def main() -> None:
    params = read_params()
    predictions = pd.read_csv(paths.PREDICTIONS)
    thresholds = Evaluation.read().thresholds
    settings = (thresholds, params.evaluate.prevalence, params.evaluate.n_bootstrap)
    splits = {split: predictions[predictions["split"] == split] for split in EVALUATED}
    tuning = predictions[predictions["split"].isin(TUNING)]
    Intervals(
        **{split: bootstrap_intervals(rows, *settings) for split, rows in splits.items()},
        # The thresholds were chosen on it.
        tuning=bootstrap_intervals(tuning, *settings, params.evaluate.min_recall),
    ).write()


if __name__ == "__main__":
    run_stage(main)
