"""Put 95 % intervals on the metrics of every variant and on the differences between them."""

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
    of = {split: predictions["split"] == split for split in EVALUATED}
    chosen_on = predictions[predictions["split"].isin(TUNING)]
    found = {
        **{split: bootstrap_intervals(predictions[of[split]], points, *evaluate) for split in of},
        # There the operating points were chosen.
        "selection": bootstrap_intervals(chosen_on, points, *evaluate, params.evaluate.min_recall),
    }
    write_json(paths.INTERVALS, found)


if __name__ == "__main__":
    run_stage(main)
