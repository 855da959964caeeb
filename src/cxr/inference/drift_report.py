"""Features of new images compared with the reference of `drift`, as a page and as JSON.

Neither holds names of files, folders or patients, only their numbers.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr.common.files import replacing, write_json
from cxr.errors import CxrError
from cxr.evaluation.metrics import predictive_values
from cxr.export import drift
from cxr.export.drift import DriftResult
from cxr.inference.predict import ImagePrediction, Predictor, read_batches
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


def measure(predictor: Predictor, files: Iterable[Path]) -> tuple[pd.DataFrame, list[str]]:
    """What is compared, of each file that can be read.

    Returns:
        a row for each image: `shorter_side` (pixels) and `aspect_ratio` (width / height) of the
        file, what `drift.exposure` gives, `distance`, `probability`, `warnings` (tuple of text) and
        `warned`, whether there are any; and the errors of the files that cannot be read.
    """
    rows: list[dict[str, Any]] = []
    errors: list[str] = []
    for batch in read_batches(predictor, track(files, "measure")):
        errors += [found for _, found in batch if isinstance(found, str)]
        if good := [found for _, found in batch if isinstance(found, Radiograph)]:
            rows += map(lambda *pair: _row(predictor, *pair), good, predictor.answers(good))
    return pd.DataFrame(rows), errors


def _row(predictor: Predictor, one: Radiograph, answer: ImagePrediction) -> dict[str, Any]:
    return {
        "shorter_side": min(one.width, one.height),
        "aspect_ratio": one.width / one.height,
        **drift.exposure(predictor.prepared(one)),
        "distance": answer.unfamiliarity * predictor.limit,
        "probability": answer.probability,
        "warnings": answer.warnings,
        "warned": bool(answer.warnings),
    }


def summary(
    predictor: Predictor,
    reference: pd.DataFrame,
    here: pd.DataFrame,
    unreadable: int,
    skipped: int,
) -> DriftResult:
    """All that drift.json holds.

    Args:
        predictor: that measured.
        reference: as `drift.read_reference` gives it.
        here: rows of `measure`, one or more.
        unreadable: number of files without a row.
        skipped: number of files and folders that were not read.

    Returns:
        `variant`; what `drift.compare` gives; `unreadable`; `skipped`; `precision`: of the
        `reference`, and `here` for the share of ill images that is estimated, where recall and
        specificity hold (null where it cannot be); `sizes`: of `shorter_side` and `aspect_ratio`
        some quantiles of the `reference` and `here`, and the share of images `outside` the range of
        the training files; `warnings`: the share of images with each, the most frequent first.
    """
    compared = drift.compare(reference, here, predictor.threshold)
    rates = compared["recall"], compared["specificity"]
    return {
        "variant": predictor.variant,
        **compared,
        "unreadable": unreadable,
        "skipped": skipped,
        "precision": {
            name: None if share is None else float(predictive_values(*rates, share)["ppv"])
            for name, share in compared["prevalence"].items()
        },
        "sizes": {
            name: {
                "reference": _spread(reference[name]),
                "here": _spread(here[name]),
                "outside": float((~here[name].between(*known)).mean()),
            }
            for name, known in predictor.trained_on.items()
        },
        "warnings": (here["warnings"].explode().value_counts() / len(here)).to_dict(),
    }


def _spread(values: pd.Series) -> dict[str, float]:
    return {name: float(values.quantile(at)) for name, at in SPREAD.items()}


def write(into: Path, found: DriftResult, reference: pd.DataFrame, here: pd.DataFrame) -> None:
    """Write PAGE and JSON to a folder, each whole or not at all; the rest of the folder stays."""
    with replacing(into / PAGE) as part:
        part.write_text(document(found, reference, here).to_html(), encoding="utf-8")
    write_json(into / JSON, found)


def check_replaceable(folder: Path) -> None:
    """See that PAGE in a folder, if there is one, is that of an earlier comparison.

    Raises:
        CxrError: it is not.
    """
    if (folder / PAGE).exists() and not (folder / JSON).exists():
        raise CxrError(
            f"{folder / PAGE} is another page, which would be lost; name another folder with --into"
        )


def document(found: DriftResult, reference: pd.DataFrame, here: pd.DataFrame) -> Document:
    """The whole page; arguments as those of `write`."""
    values = {
        **found,
        "verdict": verdict_text(found),
        "advice": ADVICE[found["verdict"]],
        "tables": {
            "tests": table(found),
            "sizes": _sizes(found),
            "warnings": pd.DataFrame(
                {"warning": name, "images": percent(share)}
                for name, share in found["warnings"].items()
            ),
        },
        "distributions": _distributions(found, reference, here),
    }
    return Document("drift.md.j2", values)


def verdict_text(found: DriftResult) -> str:
    """The verdict and what led to it, in one line."""
    named = ", ".join(NAMES[name] for name in found["flagged"])
    return found["verdict"] + (f" ({named})" if named else "")


def table(found: DriftResult) -> pd.DataFrame:
    """The tests as text, a row each."""
    return pd.DataFrame(
        {
            "test": NAMES[name],
            "found": "yes" if name in found["flagged"] else "no",
            "difference": f"{of['difference']:.3f}",
            "matters above": f"{drift.drift_limit(of):.3f}",
            **{side: f"{of[side]:.3g}" for side in ("reference", "here")},
        }
        for name, of in found["tests"].items()
    )


def _sizes(found: DriftResult) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "size": NAMES[name],
            **{
                f"{side}: {quantile}": f"{value:.4g}"
                for side in ("reference", "here")
                for quantile, value in of[side].items()
            },
            "outside of training": percent(of["outside"]),
        }
        for name, of in found["sizes"].items()
    )


def _distributions(found: DriftResult, reference: pd.DataFrame, here: pd.DataFrame) -> list[Figure]:
    """A histogram of each measured number; those of `drift.DISTRIBUTIONS` have the reference
    weighted to the prevalence that is estimated here.
    """
    prevalence = found["prevalence"]["here"]
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
