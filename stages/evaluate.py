"""Score every variant on validation, stress validation and test."""

from cxr import comparison, ensemble, evaluation, paths
from cxr.errors import run_stage
from cxr.files import write_csv, write_json
from cxr.params import read_params


def main() -> None:
    params = read_params()
    members = params.evaluate.ensemble
    predictions = evaluation.predict_all()
    scales = ensemble.fit_scales(predictions, members)
    predictions["ensemble"] = ensemble.mean_of_calibrated(predictions, scales)
    metrics = evaluation.evaluate(
        predictions, params.evaluate.min_recall, params.evaluate.prevalence
    )
    metrics["ensemble"]["scales"] = scales
    write_csv(paths.PREDICTIONS, predictions)
    write_json(paths.EVALUATION, metrics)
    write_json(paths.SUMMARY, comparison.summary(metrics))
    test = predictions[predictions["split"] == "test"]
    write_csv(paths.PLOTS / "confusion.csv", comparison.confusions(test, metrics))
    for name, table in comparison.curves(test).items():
        write_csv(paths.PLOTS / f"{name}.csv", table)


if __name__ == "__main__":
    run_stage(main)
