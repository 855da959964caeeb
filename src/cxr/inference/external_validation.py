"""External validation: every exported variant on the labelled images of any folder.

Metrics, curves and intervals come from the functions of the pipeline. Thresholds are those that
were chosen on the pipeline's own validation, so nothing is chosen on the new images.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr.common.files import write_csv, write_json
from cxr.common.names import LABELS, TRAINED, VARIANTS
from cxr.compute.runtimes import open_network
from cxr.errors import CxrError
from cxr.evaluation import metrics
from cxr.evaluation.bootstrap import bootstrap_intervals
from cxr.evaluation.calibration import mean_of_calibrated
from cxr.evaluation.results import (
    Accuracy,
    ExternalMetrics,
    ExternalVariantMetrics,
    RatesAtThreshold,
    SplitIntervals,
)
from cxr.inference.labeled_folder import LabeledImages
from cxr.inference.predict import Predictor, damaged_error, predict
from cxr.inference.radiograph import Radiograph
from cxr.params import EvaluateParams
from cxr.progress import track

METRICS = Path("metrics.json")
# All that an evaluation's folder may hold: one that holds anything else is not replaced.
OUTPUTS = {
    *("index.html", "report.md", str(METRICS), "intervals.json", "predictions.csv"),
    *("left_out.csv", "plots"),
}


class AllVariants:
    """Every trained variant of an exported folder, each network run once for an image.

    Args:
        folder: that the stage `export` wrote.

    Raises:
        CxrError: it is not complete, damaged, or of another version.
    """

    def __init__(self, folder: Path) -> None:
        self.predictor = Predictor(folder)
        self.read = self.predictor.read
        settings = self.predictor.settings
        try:
            self.evaluate = EvaluateParams(**settings["evaluate"])
            self.thresholds = {v: settings["variants"][v]["threshold"] for v in VARIANTS}
            self.members: dict[str, dict[str, float]] = settings["variants"]["ensemble"]["members"]
        except (KeyError, TypeError, ValueError) as error:
            raise damaged_error(folder) from error
        opened = self.predictor.networks
        self.networks = {
            name: opened.get(name) or open_network(folder / f"{name}.xml") for name in TRAINED
        }

    def answers(self, radiographs: list[Radiograph]) -> list[dict[str, Any]]:
        """Of each the probability of every trained variant, and `warnings`."""
        images = self.predictor.stacked(radiographs)
        table = pd.DataFrame(
            {name: run(images)[:, 0].astype(np.float64) for name, run in self.networks.items()}
        )
        unfamiliarities = self.predictor.unfamiliarities(images)
        table["warnings"] = [
            tuple(self.predictor.warnings(*pair))
            for pair in zip(radiographs, unfamiliarities, strict=True)
        ]
        return table.to_dict("records")


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    Attributes:
        source: the folder's images.
        recommended: variant, chosen on the pipeline's own validation.
        evaluate: parameters of the pipeline's evaluation, with the prevalence that was asked for.
        false_alarms: share of the pipeline's own images, by split, that are called unfamiliar.
        images: the readable ones: columns file, patient, label, a probability for each of
            `VARIANTS`, warnings (tuple of sentences), and split, which is `test` everywhere: they
            are to these networks what the pipeline's test is.
        left_out: columns file, reason; what the classes' folders hold besides: images that could
            not be read, then files that are no images.
        unreadable: number of images that could not be read.
        metrics: content of metrics.json.
        intervals: content of intervals.json.
    """

    source: LabeledImages
    recommended: str
    evaluate: EvaluateParams
    false_alarms: Mapping[str, float]
    images: pd.DataFrame
    left_out: pd.DataFrame
    unreadable: int
    metrics: ExternalMetrics
    intervals: SplitIntervals


def evaluate(
    networks: AllVariants, source: LabeledImages, prevalence: float | None = None
) -> Evaluation:
    """Run every variant over the images and measure it.

    Args:
        networks: the exported variants.
        source: the images.
        prevalence: share of ill patients, for the predictive values; None: the pipeline's.

    Raises:
        CxrError: a class has no readable image.
    """
    asked = {} if prevalence is None else {"prevalence": prevalence}
    params = networks.evaluate.model_copy(update=asked)
    images, unreadable = _predictions(networks, source)
    left_out = pd.concat([unreadable, source.skipped], ignore_index=True)
    counts = {
        "left_out": len(left_out),
        "unreadable": len(unreadable),
        "elsewhere": len(source.elsewhere),
        "copies": source.copies,
        "unknown_patients": source.untold,
        "prevalence": params.prevalence,
    }
    return Evaluation(
        source=source,
        recommended=networks.predictor.variant,
        evaluate=params,
        false_alarms=networks.predictor.false_alarms,
        images=images,
        left_out=left_out,
        unreadable=len(unreadable),
        metrics=ExternalMetrics(
            variants=measure(images, networks.thresholds, params.prevalence),
            majority=Accuracy(accuracy=(images["label"] == "PNEUMONIA").mean()),
            data=_counts(images) | counts,
        ),
        intervals=bootstrap_intervals(
            images, networks.thresholds, params.prevalence, params.n_bootstrap
        ),
    )


def _predictions(networks: AllVariants, source: LabeledImages) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The readable images with their predictions, and the others with the reasons."""
    paths = [source.folder / path for path in source.images["path"]]
    answers = predict(networks, paths)
    found = [told for _, told in track(answers, "evaluate", len(paths))]
    is_read = pd.Series([not isinstance(told, str) for told in found])
    listed = source.images[["file", "patient", "label"]]
    reasons = [
        told.removeprefix(f"{path}: ")
        for path, told in zip(paths, found, strict=True)
        if isinstance(told, str)
    ]
    left_out = listed[~is_read].assign(reason=reasons).reset_index(drop=True)
    for label in LABELS:
        if not (listed["label"][is_read] == label).any():
            first = left_out[left_out["label"] == label].iloc[0]
            raise CxrError(
                f"no {label} image of {source.folder} can be read; "
                f"{first['file']}: {first['reason']}"
            )
    images = listed[is_read].reset_index(drop=True)
    table = pd.DataFrame([told for told in found if not isinstance(told, str)])
    table["ensemble"] = mean_of_calibrated(
        {name: table[name].to_numpy() for name in networks.members}, networks.members
    )
    columns = [*VARIANTS, "warnings"]
    return images.assign(split="test").join(table[columns]), left_out[["file", "reason"]]


def measure(
    images: pd.DataFrame, thresholds: Mapping[str, float], prevalence: float
) -> dict[str, ExternalVariantMetrics]:
    """Metrics of each variant at 0.5 and at its operating point.

    Args:
        images: columns label and the probability of each variant.
        thresholds: of each variant.
        prevalence: for the predictive values, 0 to 1.
    """
    result = {}
    for variant in VARIANTS:
        pair = metrics.labels_and_probabilities(images, variant)
        rates = metrics.operating_rates(*pair, thresholds[variant], prevalence)
        result[variant] = ExternalVariantMetrics(
            at_half=metrics.classification_metrics(*pair),
            operating_point=RatesAtThreshold(threshold=thresholds[variant], **dict(rates)),
        )
    return result


def _counts(images: pd.DataFrame) -> dict[str, Any]:
    labels = images["label"]
    return {
        "images": len(images),
        "patients": images["patient"].nunique(),
        **{
            label: {
                "images": int((labels == label).sum()),
                "patients": images["patient"][labels == label].nunique(),
            }
            for label in LABELS
        },
    }


def check_replaceable(folder: Path) -> None:
    """See that writing an evaluation to a folder replaces nothing but an earlier one.

    Raises:
        CxrError: something else is there.
    """
    if not folder.exists():
        return
    found = {file.name for file in folder.iterdir()} if folder.is_dir() else {folder.name}
    if found and not {str(METRICS)} <= found <= OUTPUTS:
        other = ", ".join(sorted(found - OUTPUTS)[:3] or sorted(found))
        raise CxrError(
            f"{folder} holds other things than an earlier evaluation ({other}), which would be "
            "lost; name another folder with --into"
        )


def write(found: Evaluation, folder: Path) -> None:
    """Write tables and numbers into an existing folder."""
    images = found.images.assign(warnings=found.images["warnings"].map("; ".join))
    write_csv(folder / "predictions.csv", images.drop(columns="split"))
    write_csv(folder / "left_out.csv", found.left_out)
    write_json(folder / METRICS, found.metrics.model_dump())
    write_json(folder / "intervals.json", found.intervals.model_dump())
    plots = folder / "plots"
    write_csv(plots / "confusion.csv", metrics.confusions(found.images, found.metrics.thresholds))
    for name, table in metrics.curves(found.images).items():
        write_csv(plots / f"{name}.csv", table)
