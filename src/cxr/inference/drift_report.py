"""Drift report: features of new images compared with the reference, as a page and as JSON.

Neither contains names of files, folders or patients.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr.common.files import replacing, write_json
from cxr.errors import CxrError
from cxr.evaluation.metrics import predictive_values
from cxr.evaluation.results import Record
from cxr.export import drift
from cxr.export.drift import Comparison, InBoth
from cxr.inference.predict import Predictor, predict
from cxr.inference.radiograph import Radiograph
from cxr.progress import track
from cxr.reporting import charts
from cxr.reporting.document import Document, Figure, percent

PAGE, JSON = "index.html", "drift.json"
NAMES = {
    "warnings": "images with a warning",
    "shorter_side": "shorter side (pixels)",
    "aspect_ratio": "width / height",
    "gray": "mean gray",
    "contrast": "contrast",
    "distance": "distance from the training images",
    "predicted_positive": "predicted PNEUMONIA",
    "probability": "probability of PNEUMONIA",
}
SPREAD = {"5 %": 0.05, "median": 0.5, "95 %": 0.95}

ADVICE = {
    drift.SIGNIFICANT: "Before using the predictions, label some of these images and compute "
    "recall and specificity on them: they may be different here. A difference does not prove that.",
    drift.NO_DRIFT: "This does not show that the predictions are correct here: recall and "
    "specificity can drop without any of these differences. Only labeled images can show it.",
    drift.TOO_FEW: "So no conclusion is possible, neither drift nor its absence.",
}


class SizeSummary(Record):
    """A size of the files: quantiles, and the fraction of images outside the training range."""

    reference: dict[str, float]
    here: dict[str, float]
    outside: float


class DriftResult(Comparison):
    """Content of drift.json.

    Attributes:
        unreadable: number of unreadable files.
        skipped: number of files and folders that were not read.
        precision: `here` at the estimated prevalence, if recall and specificity hold.
        sizes: of `shorter_side` and `aspect_ratio`.
        warnings: fraction of images with each warning, the most frequent first.
    """

    variant: str
    unreadable: int
    skipped: int
    precision: InBoth
    sizes: dict[str, SizeSummary]
    warnings: dict[str, float]


class Measurement:
    """Gives the features of each radiograph, with those of its prediction."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.read = predictor.read

    def predict_batch(self, radiographs: list[Radiograph]) -> list[dict[str, Any]]:
        predictions = self.predictor.predict_batch(radiographs)
        return [
            {
                "shorter_side": min(one.width, one.height),
                "aspect_ratio": one.width / one.height,
                **drift.exposure(self.predictor.preprocess(one)),
                "distance": prediction.ood_score * self.predictor.settings.ood.threshold,
                "probability": prediction.probability,
                "warnings": prediction.warnings,
                "warned": bool(prediction.warnings),
            }
            for one, prediction in zip(radiographs, predictions, strict=True)
        ]


def measure(predictor: Predictor, files: Iterable[Path]) -> tuple[pd.DataFrame, list[str]]:
    """Features of each readable file.

    Returns:
        a row for each image: `shorter_side` (pixels) and `aspect_ratio` (width / height) of the
        file, `drift.exposure`, `distance`, `probability`, `warnings` (tuple of text) and `warned`,
        whether there are any; and the errors of the unreadable files.
    """
    found = [one for _, one in predict(Measurement(predictor), track(files, "measure"))]
    rows = [one for one in found if not isinstance(one, str)]
    return pd.DataFrame(rows), [one for one in found if isinstance(one, str)]


def summary(
    predictor: Predictor,
    reference: pd.DataFrame,
    here: pd.DataFrame,
    unreadable: int,
    skipped: int,
) -> DriftResult:
    """Compare images with the reference.

    Args:
        predictor: the predictor used by `measure`.
        reference: from `drift.read_reference`.
        here: rows of `measure`, at least one.
        unreadable: number of unreadable files.
        skipped: number of files and folders that were not read.
    """
    compared = drift.compare(reference, here, predictor.threshold)
    rates = compared.recall, compared.specificity
    return DriftResult(
        **dict(compared),
        variant=predictor.variant,
        unreadable=unreadable,
        skipped=skipped,
        precision=InBoth(
            **{
                images: None if prevalence is None else predictive_values(*rates, prevalence)["ppv"]
                for images, prevalence in compared.prevalence
            }
        ),
        sizes={
            name: SizeSummary(
                reference=_spread(reference[name]),
                here=_spread(here[name]),
                outside=(~here[name].between(*known)).mean(),
            )
            for name, known in predictor.settings.trained_on
        },
        warnings=(here["warnings"].explode().value_counts() / len(here)).to_dict(),
    )


def _spread(values: pd.Series) -> dict[str, float]:
    return {name: float(values.quantile(at)) for name, at in SPREAD.items()}


def write(into: Path, found: DriftResult, reference: pd.DataFrame, here: pd.DataFrame) -> None:
    """Write PAGE and JSON to a folder, each atomically; other files there are kept."""
    with replacing(into / PAGE) as part:
        part.write_text(document(found, reference, here).to_html(), encoding="utf-8")
    write_json(into / JSON, {"variant": found.variant, **found.model_dump()})


def check_replaceable(folder: Path) -> None:
    """Check that PAGE in a folder, if there is one, is an earlier drift report.

    Raises:
        CxrError: it is another page.
    """
    if (folder / PAGE).exists() and not (folder / JSON).exists():
        raise CxrError(
            f"{folder / PAGE} is not a drift report and would be lost; set another --into"
        )


def document(found: DriftResult, reference: pd.DataFrame, here: pd.DataFrame) -> Document:
    """The page; arguments as in `write`."""
    values = {
        **dict(found),
        "verdict": verdict_text(found),
        "advice": ADVICE[found.verdict],
        "tables": {
            "tests": table(found),
            "sizes": _sizes(found),
            "warnings": pd.DataFrame(
                {"warning": name, "images": percent(fraction)}
                for name, fraction in found.warnings.items()
            ),
        },
        "distributions": _distributions(found, reference, here),
    }
    return Document("drift.md.j2", values)


def verdict_text(found: DriftResult) -> str:
    """The verdict and the significant tests, in one line."""
    flagged = ", ".join(NAMES[name] for name in found.flagged)
    return found.verdict + (f" ({flagged})" if flagged else "")


def table(found: DriftResult) -> pd.DataFrame:
    """A row of text for each test."""
    return pd.DataFrame(
        {
            "test": NAMES[name],
            "drift": "yes" if name in found.flagged else "no",
            "difference": f"{of.difference:.3f}",
            "limit": f"{of.limit:.3f}",
            "reference": f"{of.reference:.3g}",
            "here": f"{of.here:.3g}",
        }
        for name, of in found.tests.items()
    )


def _sizes(found: DriftResult) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "size": NAMES[name],
            **{
                f"{images}: {quantile}": f"{value:.4g}"
                for images in ("reference", "here")
                for quantile, value in getattr(of, images).items()
            },
            "outside of training": percent(of.outside),
        }
        for name, of in found.sizes.items()
    )


def _distributions(found: DriftResult, reference: pd.DataFrame, here: pd.DataFrame) -> list[Figure]:
    """A histogram of each feature; for `drift.DISTRIBUTIONS` the reference is weighted to the
    prevalence estimated here.
    """
    prevalence = found.prevalence.here
    positive = (reference["label"] == "PNEUMONIA").to_numpy()
    weights = drift.weights_for(positive, positive.mean() if prevalence is None else prevalence)
    figures: list[Figure] = []
    for name, title in NAMES.items():
        if name in here and name in reference:
            known, new = reference[name], here[name]
            of = weights if name in drift.DISTRIBUTIONS else np.ones(len(known))
            medians = f"median {known.median():.3g} in the reference and {new.median():.3g} here"
            figures.append((title, charts.compared(known, of, new), f"{title}: {medians}"))
    return figures
