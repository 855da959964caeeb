"""External validation: every exported variant on the labeled images of any folder.

Metrics, curves and intervals are computed by the functions of the pipeline. Thresholds are those
chosen on its tuning set, so nothing is chosen on the new images.
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
    OtherVersionError,
    RatesAtThreshold,
    SplitIntervals,
)
from cxr.export.settings import FILE, Settings
from cxr.inference.labeled_folder import LabeledImages
from cxr.inference.predict import Predictor, predict
from cxr.inference.radiograph import Radiograph
from cxr.progress import track

METRICS = Path("metrics.json")
# All files of an evaluation: a folder with any other file is not replaced.
OUTPUTS = {
    *("index.html", "report.md", str(METRICS), "intervals.json", "predictions.csv"),
    *("left_out.csv", "plots"),
}


class AllVariants:
    """All trained variants; each network runs once per image, also for the ensemble.

    Args:
        folder: exported models, as written by the stage `export`.

    Raises:
        CxrError: the folder is incomplete, damaged, or from a different version.
    """

    def __init__(self, folder: Path) -> None:
        self.predictor = Predictor(folder)
        self.read = self.predictor.read
        settings = self.predictor.settings
        if missing := [name for name in VARIANTS if name not in settings.variants]:
            raise OtherVersionError(
                f"{folder / FILE} has no variant {', '.join(missing)}; run `dvc repro export`"
            )
        opened = self.predictor.networks
        self.networks = {
            name: opened.get(name) or open_network(folder / f"{name}.xml") for name in TRAINED
        }

    def predict_batch(self, radiographs: list[Radiograph]) -> list[dict[str, Any]]:
        """For each radiograph the probability of every trained variant, and `warnings`."""
        images = self.predictor.preprocess_batch(radiographs)
        table = pd.DataFrame(
            {name: run(images)[:, 0].astype(np.float64) for name, run in self.networks.items()}
        )
        ood_scores = self.predictor.ood_scores(images)
        table["warnings"] = [
            tuple(self.predictor.warnings(*pair))
            for pair in zip(radiographs, ood_scores, strict=True)
        ]
        return table.to_dict("records")


@dataclass(frozen=True)
class Evaluation:
    """Result of an external validation.

    Attributes:
        source: images of the folder.
        settings: of the exported models, with the requested prevalence.
        images: readable images: columns file, patient, label, a probability for each of
            `VARIANTS`, warnings (tuple of sentences), and split, always `test`.
        left_out: columns file, reason; other files in the class folders: unreadable images, then
            files that are not images.
        unreadable: number of unreadable images.
        metrics: content of metrics.json.
        intervals: content of intervals.json.
    """

    source: LabeledImages
    settings: Settings
    images: pd.DataFrame
    left_out: pd.DataFrame
    unreadable: int
    metrics: ExternalMetrics
    intervals: SplitIntervals


def evaluate(
    networks: AllVariants, source: LabeledImages, prevalence: float | None = None
) -> Evaluation:
    """Predict the images with every variant and compute all metrics.

    Args:
        networks: the exported variants.
        source: the images.
        prevalence: fraction of positives for the predictive values; None: the pipeline's.

    Raises:
        CxrError: a class has no readable image.
    """
    settings = networks.predictor.settings
    if prevalence is not None:
        evaluate = settings.evaluate.model_copy(update={"prevalence": prevalence})
        settings = settings.model_copy(update={"evaluate": evaluate})
    prevalence = settings.evaluate.prevalence
    thresholds = {name: settings.variants[name].threshold for name in VARIANTS}
    images, unreadable = _predictions(networks, source)
    left_out = pd.concat([unreadable, source.skipped], ignore_index=True)
    counts = {
        "left_out": len(left_out),
        "unreadable": len(unreadable),
        "elsewhere": len(source.elsewhere),
        "copies": source.duplicates,
        "unknown_patients": source.unknown_patients,
        "prevalence": prevalence,
    }
    return Evaluation(
        source=source,
        settings=settings,
        images=images,
        left_out=left_out,
        unreadable=len(unreadable),
        metrics=ExternalMetrics(
            variants=measure(images, thresholds, prevalence),
            majority=Accuracy(accuracy=(images["label"] == "PNEUMONIA").mean()),
            data=_counts(images) | counts,
        ),
        intervals=bootstrap_intervals(
            images, thresholds, prevalence, settings.evaluate.n_bootstrap
        ),
    )


def _predictions(networks: AllVariants, source: LabeledImages) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Readable images with their predictions, and unreadable ones with the reasons."""
    paths = [source.folder / path for path in source.images["path"]]
    predictions = predict(networks, paths)
    found = [one for _, one in track(predictions, "evaluate", len(paths))]
    is_read = pd.Series([not isinstance(one, str) for one in found])
    listed = source.images[["file", "patient", "label"]]
    reasons = [
        one.removeprefix(f"{path}: ")
        for path, one in zip(paths, found, strict=True)
        if isinstance(one, str)
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
    table = pd.DataFrame([one for one in found if not isinstance(one, str)])
    scales = networks.predictor.settings.variants["ensemble"].members
    table["ensemble"] = mean_of_calibrated(
        {name: table[name].to_numpy() for name in scales}, scales
    )
    columns = [*VARIANTS, "warnings"]
    return images.assign(split="test").join(table[columns]), left_out[["file", "reason"]]


def measure(
    images: pd.DataFrame, thresholds: Mapping[str, float], prevalence: float
) -> dict[str, ExternalVariantMetrics]:
    """Metrics of each variant at 0.5 and at its operating point.

    Args:
        images: columns label and the probability of each variant.
        thresholds: threshold of each variant.
        prevalence: fraction of positives, 0 to 1.
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
    of_class = {label: _images_and_patients(images[images["label"] == label]) for label in LABELS}
    return _images_and_patients(images) | of_class


def _images_and_patients(images: pd.DataFrame) -> dict[str, int]:
    return {"images": len(images), "patients": images["patient"].nunique()}


def check_replaceable(folder: Path) -> None:
    """Check that a folder contains nothing but an earlier evaluation.

    Raises:
        CxrError: it contains other files.
    """
    if not folder.exists():
        return
    found = {file.name for file in folder.iterdir()} if folder.is_dir() else {folder.name}
    if found and not {str(METRICS)} <= found <= OUTPUTS:
        other = ", ".join(sorted(found - OUTPUTS)[:3] or sorted(found))
        raise CxrError(
            f"{folder} contains files that are not of an earlier evaluation ({other}) and would be "
            "lost; set another folder with --into"
        )


def write(found: Evaluation, folder: Path) -> None:
    """Write tables and metrics into an existing folder."""
    images = found.images.assign(warnings=found.images["warnings"].map("; ".join))
    write_csv(folder / "predictions.csv", images.drop(columns="split"))
    write_csv(folder / "left_out.csv", found.left_out)
    write_json(folder / METRICS, found.metrics.model_dump())
    write_json(folder / "intervals.json", found.intervals.model_dump())
    plots = folder / "plots"
    write_csv(plots / "confusion.csv", metrics.confusions(found.images, found.metrics.thresholds))
    for name, table in metrics.curves(found.images).items():
        write_csv(plots / f"{name}.csv", table)
