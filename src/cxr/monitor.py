"""Images of folders against the reference of `drift`: measured, and told as a page and as JSON.

Of files, folders and patients nothing is told but numbers of them.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cxr import charts, drift
from cxr.document import Chart, Document, Section, Table
from cxr.drift import Comparison
from cxr.errors import CxrError
from cxr.files import replacing, write_json
from cxr.inference.radiograph import Radiograph
from cxr.predicting import Answer, Predictor, read_batches
from cxr.progress import track
from cxr.scores import predictive_values

PAGE, JSON = "index.html", "drift.json"
NAMES = {
    "warnings": "images with a warning",
    "shorter_side": "shorter side (pixels)",
    "aspect_ratio": "width / height",
    "grey": "mean grey",
    "contrast": "contrast",
    "distance": "distance from the training images",
    "called": "called PNEUMONIA",
    "probability": "probability of PNEUMONIA",
}
SPREAD = {"5 %": 0.05, "median": 0.5, "95 %": 0.95}
KNOWN, HERE = "#56B4E9", "#D55E00"  # Okabe and Ito (2008): also for colour-blind readers
BINS = 30

AFTER = {
    drift.NO_TRUST: "Before the answers are used, label some of these images and compute recall "
    "and specificity on them: they may be others here. A difference does not show that they are.",
    drift.NOTHING: "This does not show that the answers are right here: recall and specificity can "
    "fall without any of these differences. Only labelled images tell.",
    drift.TOO_FEW: "So nothing is said of these images, also not that all is well.",
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


def _row(predictor: Predictor, one: Radiograph, answer: Answer) -> dict[str, Any]:
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
) -> Comparison:
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


def write(into: Path, found: Comparison, reference: pd.DataFrame, here: pd.DataFrame) -> None:
    """Write PAGE and JSON to a folder, each whole or not at all; the rest of the folder stays."""
    text = document(found, reference, here).to_html()
    with replacing(into / PAGE) as part:
        part.write_text(text, encoding="utf-8")
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


def document(found: Comparison, reference: pd.DataFrame, here: pd.DataFrame) -> Document:
    """The whole page; arguments as those of `write`."""
    return Document(
        "Drift: other images against validation",
        [
            _verdict(found),
            _tests(found),
            _prevalence(found),
            _files(found),
            _distributions(found, reference, here),
        ],
    )


def told(found: Comparison) -> str:
    """The verdict and what led to it, in one line."""
    named = ", ".join(NAMES[name] for name in found["marked"])
    return found["verdict"] + (f": {named}" if named else "")


def table(found: Comparison) -> pd.DataFrame:
    """The tests as text, a row each."""
    return pd.DataFrame(
        {
            "test": NAMES[name],
            "found": "yes" if name in found["marked"] else "no",
            "difference": f"{of['difference']:.3f}",
            "matters above": f"{drift.limit(of):.3f}",
            **{side: f"{of[side]:.3g}" for side in ("reference", "here")},
        }
        for name, of in found["tests"].items()
    )


def _verdict(found: Comparison) -> Section:
    verdict = told(found)
    return Section(
        "Verdict",
        [
            f"**{verdict[0].upper()}{verdict[1:]}.** {AFTER[found['verdict']]}",
            f"{found['images']} images were compared with validation by the variant "
            f"{found['variant']}; {found['unreadable']} files could not be read, and "
            f"{found['skipped']} files or folders were skipped.",
            f"The rule: {found['rule']}",
        ],
    )


def _tests(found: Comparison) -> Section:
    return Section(
        "Tests",
        [
            Table(table(found)),
            "For warnings and calls the shares of the images and their difference; for the others "
            "medians, and the largest distance between both cumulated distributions (D). For "
            "these the reference is weighted to as many ill images as are estimated here, so that "
            "more or fewer ill patients are not taken for another machine. Grey values are 0 to "
            "255 in the image that the networks see; contrast is their standard deviation.",
        ],
    )


def _prevalence(found: Comparison) -> Section:
    called = found["tests"]["called"]
    rows = {
        "called PNEUMONIA": called,
        "ill, here estimated": found["prevalence"],
        "precision, here estimated": found["precision"],
    }
    values = pd.DataFrame(
        {"share": name, **{key: _or_unknown(of[key]) for key in ("reference", "here")}}
        for name, of in rows.items()
    )
    return Section(
        "Predicted prevalence",
        [
            Table(values),
            f"How many are ill here is estimated with the recall ({found['recall']:.3f}) and "
            f"specificity ({found['specificity']:.3f}) of the reference (Rogan and Gladen 1978), "
            "and so is the precision: of those called PNEUMONIA, the share who are ill. Another "
            "share of ill patients alone changes neither recall nor specificity, but precision, "
            "and the confidence of each answer, which holds for the share in the reference.",
        ],
    )


def _or_unknown(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.3f}"


def _files(found: Comparison) -> Section:
    sizes = pd.DataFrame(
        {
            "size": NAMES[name],
            **{
                f"{side}: {quantile}": f"{value:.4g}"
                for side in ("reference", "here")
                for quantile, value in of[side].items()
            },
            "outside of training": f"{of['outside']:.1%}",
        }
        for name, of in found["sizes"].items()
    )
    blocks: list[str | Table] = [
        Table(sizes),
        "All images are brought to one size, so the shorter side has no part in the rule; images "
        "smaller than what the networks see have a warning.",
    ]
    if shares := found["warnings"]:
        rows = {"warning": list(shares), "images": [f"{share:.1%}" for share in shares.values()]}
        blocks.append(Table(pd.DataFrame(rows)))
    else:
        blocks.append("No image has a warning.")
    return Section("Sizes and warnings", [*blocks])


def _distributions(found: Comparison, reference: pd.DataFrame, here: pd.DataFrame) -> Section:
    share = found["prevalence"]["here"]
    ill = (reference["label"] == "PNEUMONIA").to_numpy()
    weights = drift.weights_to(ill, ill.mean() if share is None else share)
    as_it_is = np.ones(len(ill))
    of = {name: weights if name in drift.DISTRIBUTIONS else as_it_is for name in NAMES}
    return Section(
        "Distributions",
        [
            "Shares of the images; the reference filled, the images here as a line. Shorter side "
            "and probability are those of the reference as it is, the others weighted as above.",
            [
                _chart(NAMES[name], reference[name], here[name], of[name])
                for name in NAMES
                if name in here and name in reference
            ],
        ],
    )


def _chart(title: str, known: pd.Series, here: pd.Series, weights: NDArray[np.float64]) -> Chart:
    medians = f"median {known.median():.3g} in the reference and {here.median():.3g} here"
    return Chart(title, histogram(known, here, weights), f"{title}: {medians}")


def histogram(known: pd.Series, here: pd.Series, weights: NDArray[np.float64]) -> str:
    """SVG text: how both are distributed, as shares.

    The axis holds 99.8 % of the images; those beyond it count in the first and the last bin.
    """
    low, high = pd.concat([known, here]).quantile([0.001, 0.999])
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)

    def share(values: pd.Series, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        clipped = np.clip(values, low, high)
        return np.histogram(clipped, edges, weights=weights / weights.sum())[0]

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.stairs(share(known, weights), edges, fill=True, color=KNOWN, label="reference")
        axes.stairs(share(here, np.ones(len(here))), edges, color=HERE, linewidth=1.8, label="here")
        axes.set_ylabel("share of the images")
        figure.legend(loc="outside upper right", ncols=2)

    return charts.draw(paint, (4.4, 2.8))
