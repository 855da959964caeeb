"""Put 95 % intervals on the metrics of every variant and on the differences between them."""

import json

import pandas as pd

from cxr import paths
from cxr.errors import run_stage
from cxr.files import write_json
from cxr.intervals import intervals, thresholds
from cxr.params import read_params
from cxr.variants import EVALUATED


def main() -> None:
    params = read_params()
    predictions = pd.read_csv(paths.PREDICTIONS)
    points = thresholds(json.loads(paths.EVALUATION.read_text()))
    prevalence, resamples = params.evaluate.prevalence, params.evaluate.resamples
    found = {
        split: intervals(predictions[predictions["split"] == split], points, prevalence, resamples)
        for split in EVALUATED
    }
    write_json(paths.INTERVALS, found)


if __name__ == "__main__":
    run_stage(main)
