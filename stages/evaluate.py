"""Predict with every variant; compute metrics on validation, stress-test set and test."""

from cxr import paths
from cxr.common.files import write_csv, write_json
from cxr.errors import run_stage
from cxr.evaluation import ensemble
from cxr.evaluation.metrics import confusions, curves, summary
from cxr.evaluation.predictions import evaluate, predict_all
from cxr.params import read_params


def main() -> None:
    params = read_params()
    members = params.evaluate.ensemble
    predictions = predict_all()
    scales = ensemble.fit_scales(predictions, members)
    predictions["ensemble"] = ensemble.mean_of_calibrated(predictions, scales)
    metrics = evaluate(predictions, params.evaluate.min_recall, params.evaluate.prevalence)
    metrics["ensemble"]["scales"] = scales
    write_csv(paths.PREDICTIONS, predictions)
    write_json(paths.EVALUATION, metrics)
    write_json(paths.SUMMARY, summary(metrics))
    test = predictions[predictions["split"] == "test"]
    write_csv(paths.PLOTS / "confusion.csv", confusions(test, metrics))
    for name, table in curves(test).items():
        write_csv(paths.PLOTS / f"{name}.csv", table)


if __name__ == "__main__":
    run_stage(main)
