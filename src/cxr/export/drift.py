"""Drift detection without labels: images of another site compared with the validation set.

Training images are no reference: they are closer to the components that were fitted on them.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr.common.names import LABELS
from cxr.errors import CxrError
from cxr.evaluation.results import Record
from cxr.prediction.ood import FALSE_POSITIVE_RATE

FILE = "reference.csv"  # in the folder of exported networks
# The aspect ratio of the file decides how much of the chest the square image shows.
DISTRIBUTIONS = ("aspect_ratio", "gray", "contrast", "distance")
COLUMNS = ("patient", "label", "shorter_side", *DISTRIBUTIONS)  # and one for each variant

MIN_IMAGES = 30  # no verdict on fewer
CHANCE = 0.01  # fraction of folders like the reference that may be flagged
N_RESAMPLES = 2000
BOOTSTRAP_SEED = 1  # the same images give the same verdict
N_HALVES = 100  # random halves of the reference that estimate the false-positive rate
# Tolerances, chosen on the tuning set: 0.15 is the largest multiple of 0.05 with which each
# stress-test condition that costs 0.05 of recall or specificity is flagged.
FLOORS = {"warnings": 0.05, **dict.fromkeys(DISTRIBUTIONS, 0.15), "predicted_positive": 0.1}

SIGNIFICANT = "significant drift: re-evaluate before use"
NO_DRIFT = "no significant drift"
TOO_FEW = f"too few images: at least {MIN_IMAGES} are needed"
RULE = (
    f"With at least {MIN_IMAGES} images, drift is significant if the fraction of images with a "
    f"warning exceeds {FALSE_POSITIVE_RATE:.0%} by more than {FLOORS['warnings']:g}, the fraction "
    f"of positive predictions differs by more than {FLOORS['predicted_positive']:g}, or the "
    "distribution of width / height, mean gray, contrast or distance from the training images "
    f"differs by more than {FLOORS['gray']:g} (Kolmogorov-Smirnov D). Each difference must also "
    f"exceed chance, which flags about {CHANCE:.0%} of folders like the reference."
)

Numbers = NDArray[np.float64]


class DriftTest(Record):
    """One feature: fractions of the images with a warning or predicted positive, or medians.

    Attributes:
        floor: the difference has to exceed both this and `chance`.
    """

    reference: float
    here: float
    difference: float
    floor: float
    chance: float

    @property
    def limit(self) -> float:
        """The difference has to exceed it."""
        return max(self.floor, self.chance)


class InBoth(Record):
    """A value in the reference and in the new images; None where it cannot be estimated."""

    reference: float | None
    here: float | None


class Comparison(Record):
    """New images compared with the reference.

    Attributes:
        verdict: SIGNIFICANT, NO_DRIFT or TOO_FEW.
        flagged: names of the tests that led to it.
        images: how many are new.
        tests: of `warnings`, `predicted_positive` and each of DISTRIBUTIONS.
        recall: in the reference, as `specificity`.
        prevalence: `here` is that of `estimated_prevalence`.
    """

    verdict: str
    flagged: list[str]
    rule: str
    images: int
    tests: dict[str, DriftTest]
    recall: float
    specificity: float
    prevalence: InBoth


def reference_table(
    index: pd.DataFrame,
    images: NDArray[np.uint8],
    distances: Numbers,
    probabilities: pd.DataFrame,
) -> pd.DataFrame:
    """Features of images as a reference for later comparisons; it names no file and no patient.

    Args:
        index: of a split, all text: patient, label, width and height of the file (pixels), and
            aspect_ratio where an image has another shape than its file.
        images: uint8 (N, S, S), as the networks see them.
        distances: (N,) from the training images, as `ood.distances` gives them.
        probabilities: of PNEUMONIA, a column for each variant; N rows in the same order.

    Returns:
        a row for each image: `patient` (a meaningless number), `label`, `shorter_side` (pixels)
        and `aspect_ratio` (width / height), the result of `exposure`, `distance`, and the columns
        of `probabilities`.
    """
    sides = index[["width", "height"]].astype(int)
    table = pd.DataFrame(
        {
            "patient": pd.factorize(index["patient"])[0],
            "label": index["label"],
            "shorter_side": sides.min(axis=1),
            "aspect_ratio": index.get("aspect_ratio", sides["width"] / sides["height"]),
        }
    ).astype({"aspect_ratio": np.float64})
    exposures = pd.DataFrame([exposure(image) for image in images])
    table[[*exposures]] = exposures.to_numpy()
    table["distance"] = distances
    table[[*probabilities]] = probabilities.to_numpy()
    return table


def exposure(image: NDArray[np.uint8]) -> dict[str, float]:
    """Mean (`gray`) and standard deviation (`contrast`) of an image as the networks see it, both 0
    to 255.
    """
    return {"gray": float(image.mean()), "contrast": float(image.std())}


def read_reference(folder: Path, variant: str) -> pd.DataFrame:
    """Read the table of `reference_table` from the folder of exported networks, with the variant's
    probability as the column `probability`.

    Raises:
        CxrError: the file is missing or damaged.
    """
    file = folder / FILE
    try:
        table = pd.read_csv(file)[[*COLUMNS, variant]].rename(columns={variant: "probability"})
        numbers = table.drop(columns="label").to_numpy(np.float64)
        if not np.isfinite(numbers).all() or set(table["label"]) != set(LABELS):
            raise ValueError("numbers or labels are missing")
    except (OSError, ValueError, KeyError) as error:
        raise CxrError(f"{file} cannot be used: run `dvc repro export` ({error})") from error
    return table


def compare(reference: pd.DataFrame, current: pd.DataFrame, threshold: float) -> Comparison:
    """Compare images with the reference and apply `RULE`.

    Another prevalence changes every feature that depends on the disease. So that it is not
    mistaken for another scanner, distributions are compared with those of the reference weighted
    to the prevalence that the predictions indicate.

    Args:
        reference: as `read_reference` gives it: both labels.
        current: a row for each image, one or more: DISTRIBUTIONS, `probability`, and `warned`,
            whether it has a warning.
        threshold: probability from which the prediction is PNEUMONIA.
    """
    positive = (reference["label"] == "PNEUMONIA").to_numpy()
    predicted = (reference["probability"] >= threshold).to_numpy()
    predicted_rate = float(predicted.mean())
    current_rate = float((current["probability"] >= threshold).mean())
    warned = float(current["warned"].mean())
    recall, specificity = float(predicted[positive].mean()), float(1 - predicted[~positive].mean())
    prevalence = estimated_prevalence(current_rate, recall, specificity)
    weights = weights_for(positive, positive.mean() if prevalence is None else prevalence)
    chance = chance_limits(reference, weights, predicted, len(current))
    differences = {
        "warnings": (FALSE_POSITIVE_RATE, warned, warned - FALSE_POSITIVE_RATE),
        **{
            name: _medians_and_ks(reference[name], current[name], weights) for name in DISTRIBUTIONS
        },
        "predicted_positive": (predicted_rate, current_rate, abs(current_rate - predicted_rate)),
    }
    tests = {
        name: DriftTest(
            reference=known,
            here=here,
            difference=difference,
            floor=FLOORS[name],
            chance=chance[name],
        )
        for name, (known, here, difference) in differences.items()
    }
    enough = len(current) >= MIN_IMAGES
    flagged = [name for name, test in tests.items() if enough and test.difference > test.limit]
    return Comparison(
        verdict=SIGNIFICANT if flagged else NO_DRIFT if enough else TOO_FEW,
        flagged=flagged,
        rule=RULE,
        images=len(current),
        tests=tests,
        recall=recall,
        specificity=specificity,
        prevalence=InBoth(reference=positive.mean(), here=prevalence),
    )


def estimated_prevalence(
    predicted_positive: float, recall: float, specificity: float
) -> float | None:
    """Prevalence, 0 to 1, from the fraction of positive predictions (Rogan and Gladen 1978,
    10.1093/oxfordjournals.aje.a112510); None where predictions are no better than chance.
    """
    if recall + specificity <= 1:
        return None
    return float(np.clip((predicted_positive + specificity - 1) / (recall + specificity - 1), 0, 1))


def weights_for(positive: NDArray[np.bool_], prevalence: float) -> Numbers:
    """Weights (N,) of images that give this prevalence; both classes have to be present."""
    return np.where(
        positive, prevalence / positive.mean(), (1 - prevalence) / (1 - positive.mean())
    )


def chance_limits(
    reference: pd.DataFrame, weights: Numbers, predicted: NDArray[np.bool_], count: int
) -> dict[str, float]:
    """Limit of the difference in each of `compare`'s tests, between the reference and `count`
    images like it, that chance exceeds with probability CHANCE / number of tests (Bonferroni).

    Both are resampled from the reference by patient, with replacement, because images of one
    patient are similar; `count` images are those of as many patients as in the reference. So the
    limits hold for few images, and for more than the reference has.

    Args:
        reference: as `compare` takes it.
        weights: of its images (N,), with which distributions are compared.
        predicted: bool (N,), which of its images are predicted PNEUMONIA.
        count: 1 or more.
    """
    patient, names = pd.factorize(reference["patient"])
    images = np.bincount(patient)
    rng = np.random.default_rng(BOOTSTRAP_SEED)

    def resample(count: int, probabilities: Numbers) -> NDArray[np.int64]:
        """How often each image is in each resample, (N_RESAMPLES, N), of about `count` images;
        patients have these probabilities.
        """
        patients = max(1, round(count / float(probabilities @ images)))
        return rng.multinomial(patients, probabilities, size=N_RESAMPLES)[:, patient]

    uniform = np.full(len(names), 1 / len(names))
    by_patient = np.bincount(patient, weights) / images
    reference_counts, current_counts = resample(len(patient), uniform), resample(count, uniform)
    weighted_counts = resample(count, by_patient / by_patient.sum())
    patients = max(1, round(count / images.mean()))
    differences = {
        # By the nominal rate, not the observed one: the reference may have no warning.
        "warnings": rng.binomial(patients, FALSE_POSITIVE_RATE, N_RESAMPLES) / patients
        - FALSE_POSITIVE_RATE,
        **{
            name: ks(reference[name].to_numpy(), reference_counts * weights, weighted_counts)
            for name in DISTRIBUTIONS
        },
        "predicted_positive": np.abs(
            _fraction(reference_counts, predicted) - _fraction(current_counts, predicted)
        ),
    }
    level = 1 - CHANCE / len(differences)
    return {name: float(np.quantile(values, level)) for name, values in differences.items()}


def ks(values: Numbers, first: NDArray[Any], second: NDArray[Any]) -> Numbers:
    """Kolmogorov-Smirnov D (B,), 0 to 1: the largest distance between two weighted cumulative
    distributions. SciPy's takes no weights.

    Args:
        values: (N,) of all images.
        first: weights (B, N) of the images in one distribution, 0 or more.
        second: weights (B, N) in the other.
    """
    order = np.argsort(values)
    last = np.append(np.diff(values[order]) > 0, True)  # of equal values
    one, other = (_cumulative(weights[:, order])[:, last] for weights in (first, second))
    return np.abs(one - other).max(axis=1)


def false_positive_rate(reference: pd.DataFrame, threshold: float) -> float | None:
    """Fraction of random halves of the reference, by patient, that the rule flags with the other
    half as reference; None where halves are too small.

    Args:
        reference: as `compare` takes it, with `warned`.
        threshold: as `compare` takes it.
    """
    patients = reference["patient"].unique()
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    flagged = []
    for _ in range(N_HALVES):
        is_first = reference["patient"].isin(rng.permutation(patients)[: len(patients) // 2])
        first, second = reference[is_first], reference[~is_first]
        if first["label"].nunique() == len(LABELS) and len(second) >= MIN_IMAGES:
            flagged.append(compare(first, second, threshold).verdict == SIGNIFICANT)
    return float(np.mean(flagged)) if flagged else None


def _medians_and_ks(
    reference: pd.Series, current: pd.Series, weights: Numbers
) -> tuple[float, float, float]:
    first, second = np.zeros((2, 1, len(reference) + len(current)))
    first[0, : len(reference)] = weights
    second[0, len(reference) :] = 1
    median = np.quantile(reference, 0.5, weights=weights, method="inverted_cdf")
    distance = ks(np.concatenate([reference, current]), first, second)[0]
    return float(median), float(current.median()), float(distance)


def _cumulative(weights: NDArray[Any]) -> Numbers:
    sums = np.cumsum(weights, axis=1, dtype=np.float64)
    return sums / np.maximum(sums[:, -1:], np.finfo(float).tiny)


def _fraction(counts: NDArray[np.int64], predicted: NDArray[np.bool_]) -> Numbers:
    return counts @ predicted / counts.sum(axis=1)
