"""How images of another place differ from those that the networks were chosen on, and whether that
is enough not to trust the answers there.

Nothing here needs to know who is ill there. The reference is validation, images held out from
training: training images themselves lie nearer to the components that were fitted on them.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr.common.names import LABELS
from cxr.errors import CxrError
from cxr.export.ood import FALSE_POSITIVE_RATE

FILE = "reference.csv"  # beside the exported networks
# The shape of the file is among them: it decides how much of the chest the square image shows.
DISTRIBUTIONS = ("aspect_ratio", "grey", "contrast", "distance")
COLUMNS = ("patient", "label", "shorter_side", *DISTRIBUTIONS)  # and one for each variant

MIN_IMAGES = 30  # images; of fewer nothing is said
CHANCE = 0.01  # share of folders like the reference that may be marked
DRAWS = 2000
BOOTSTRAP_SEED = 1  # the same images give the same verdict
HALVES = 100  # of the reference, by which the share that is marked is measured
# From where on a difference matters, chosen on validation and stress validation: 0.15 is the
# largest step of 0.05 at which each condition is marked that costs 0.05 of recall or specificity.
FLOORS = {"warnings": 0.05, **dict.fromkeys(DISTRIBUTIONS, 0.15), "called": 0.1}

SIGNIFICANT = "do not trust without re-evaluation"
NO_DRIFT = "no difference found that matters"
TOO_FEW = f"too few images to tell, fewer than {MIN_IMAGES}"
RULE = (
    f"Of at least {MIN_IMAGES} images: {SIGNIFICANT} where the share with a warning is higher than "
    f"{FALSE_POSITIVE_RATE:.0%} by more than {FLOORS['warnings']:g}, the share called PNEUMONIA "
    f"differs by more than {FLOORS['called']:g}, or the distribution of width / height, mean grey, "
    f"contrast or distance from the training images by more than {FLOORS['grey']:g} (D of "
    "Kolmogorov and Smirnov); each also by more than chance, which alone marks about "
    f"{CHANCE:.0%} of folders like the reference."
)

Numbers = NDArray[np.float64]
DriftResult = dict[str, Any]


def reference_table(
    index: pd.DataFrame,
    images: NDArray[np.uint8],
    distances: Numbers,
    probabilities: pd.DataFrame,
) -> pd.DataFrame:
    """What is kept of images to compare others with; it names no file and no patient.

    Args:
        index: of a split: patient, label, width and height (pixels), and for images of another
            shape than their file aspect_ratio; all text.
        images: uint8 (N, S, S), as the networks see them.
        distances: (N,) from the training images, as `familiarity.distances` gives them.
        probabilities: of PNEUMONIA, a column for each variant; N rows in the same order.

    Returns:
        a row for each image: `patient` (a number without meaning), `label`, `shorter_side` (pixels)
        and `aspect_ratio` (width / height), what `exposure` gives, `distance`, and the columns of
        `probabilities`.
    """
    sides = index[["width", "height"]].astype(int)
    found = pd.DataFrame(
        {
            "patient": pd.factorize(index["patient"])[0],
            "label": index["label"],
            "shorter_side": sides.min(axis=1),
            "aspect_ratio": index.get("aspect_ratio", sides["width"] / sides["height"]),
        }
    ).astype({"aspect_ratio": np.float64})
    exposures = pd.DataFrame([exposure(image) for image in images])
    found[[*exposures]] = exposures.to_numpy()
    found["distance"] = distances
    found[[*probabilities]] = probabilities.to_numpy()
    return found


def exposure(image: NDArray[np.uint8]) -> dict[str, float]:
    """Of an image as the networks see it the mean, `grey`, and the standard deviation, `contrast`,
    both 0 to 255.
    """
    return {"grey": float(image.mean()), "contrast": float(image.std())}


def read_reference(folder: Path, variant: str) -> pd.DataFrame:
    """What `reference` gave, from the folder of exported networks; the probability of the variant
    is the column `probability`.

    Raises:
        CxrError: it is missing or damaged.
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


def compare(reference: pd.DataFrame, here: pd.DataFrame, threshold: float) -> DriftResult:
    """What differs, and what follows from it by `RULE`.

    Another share of ill patients moves every number that shows the disease. So that this is not
    taken for another machine, distributions are compared with those of the reference weighted to
    as many ill images as the answers here speak for.

    Args:
        reference: as `read_reference` gives it: both labels.
        here: a row for each image, one or more: DISTRIBUTIONS, `probability`, and `warned`, whether
            there was a warning.
        threshold: probability from which an image is called PNEUMONIA.

    Returns:
        `verdict`: NO_TRUST, NOTHING or TOO_FEW; `marked`: names of the tests that led to it;
        `rule`; `images`: how many; `tests`: of `warnings` and `called` (shares of the images) and
        of each of DISTRIBUTIONS (medians) the `reference` and `here`, their `difference`, and the
        limits `floor` and `chance`, both of which it has to exceed; `recall` and `specificity` of
        the reference; `prevalence`: share of ill images in the `reference`, and `here` as
        `prevalence` estimates it.
    """
    ill = (reference["label"] == "PNEUMONIA").to_numpy()
    called = (reference["probability"] >= threshold).to_numpy()
    called_here = float((here["probability"] >= threshold).mean())
    warned = float(here["warned"].mean())
    recall, specificity = float(called[ill].mean()), float(1 - called[~ill].mean())
    share = prevalence(called_here, recall, specificity)
    weights = weights_to(ill, ill.mean() if share is None else share)
    chance = chance_limits(reference, weights, called, len(here))
    found = {
        "warnings": (FALSE_POSITIVE_RATE, warned, warned - FALSE_POSITIVE_RATE),
        **{name: _apart(reference[name], here[name], weights) for name in DISTRIBUTIONS},
        "called": (float(called.mean()), called_here, abs(called_here - float(called.mean()))),
    }
    tests = {
        name: {
            **dict(zip(("reference", "here", "difference"), values, strict=True)),
            "floor": FLOORS[name],
            "chance": chance[name],
        }
        for name, values in found.items()
    }
    enough = len(here) >= MIN_IMAGES
    marked = [name for name, of in tests.items() if enough and of["difference"] > drift_limit(of)]
    return {
        "verdict": SIGNIFICANT if marked else NO_DRIFT if enough else TOO_FEW,
        "marked": marked,
        "rule": RULE,
        "images": len(here),
        "tests": tests,
        "recall": recall,
        "specificity": specificity,
        "prevalence": {"reference": float(ill.mean()), "here": share},
    }


def drift_limit(test: dict[str, float]) -> float:
    """What the difference of one of `compare`'s tests has to exceed."""
    return max(test["floor"], test["chance"])


def prevalence(called: float, recall: float, specificity: float) -> float | None:
    """Share of ill images, 0 to 1, where the share `called` is called PNEUMONIA (Rogan and Gladen
    1978, 10.1093/oxfordjournals.aje.a112510); None where calls tell nothing.
    """
    if recall + specificity <= 1:
        return None
    return float(np.clip((called + specificity - 1) / (recall + specificity - 1), 0, 1))


def weights_to(ill: NDArray[np.bool_], share: float) -> Numbers:
    """Weights (N,) that make `share` of the images ill; there have to be ill ones and others."""
    return np.where(ill, share / ill.mean(), (1 - share) / (1 - ill.mean()))


def chance_limits(
    reference: pd.DataFrame, weights: Numbers, called: NDArray[np.bool_], count: int
) -> dict[str, float]:
    """The difference in each of `compare`'s tests that chance exceeds with the probability CHANCE
    / number of tests (Bonferroni), between the reference and `count` images like it.

    Both are drawn from the reference, by patient with replacement, as images of one patient are
    alike; `count` images are taken for those of as many patients as in the reference. So it holds
    for few images, and also for more than the reference has.

    Args:
        reference: as `compare` takes it.
        weights: of its images (N,), with which distributions are compared.
        called: bool (N,), which of its images are called PNEUMONIA.
        count: 1 or more.
    """
    patient, names = pd.factorize(reference["patient"])
    images = np.bincount(patient)
    rng = np.random.default_rng(BOOTSTRAP_SEED)

    def drawn(count: int, likely: Numbers) -> NDArray[np.int64]:
        """How often each image is drawn, (DRAWS, N), where patients are drawn with these chances,
        until there are about `count` images.
        """
        patients = max(1, round(count / float(likely @ images)))
        return rng.multinomial(patients, likely, size=DRAWS)[:, patient]

    even = np.full(len(names), 1 / len(names))
    by_patient = np.bincount(patient, weights) / images
    known, like_it = drawn(len(patient), even), drawn(count, even)
    weighted_like_it = drawn(count, by_patient / by_patient.sum())
    patients = max(1, round(count / images.mean()))
    differences = {
        # Their share is chosen, not seen: the reference may have none.
        "warnings": rng.binomial(patients, FALSE_POSITIVE_RATE, DRAWS) / patients
        - FALSE_POSITIVE_RATE,
        **{
            name: ks(reference[name].to_numpy(), known * weights, weighted_like_it)
            for name in DISTRIBUTIONS
        },
        "called": np.abs(_share(known, called) - _share(like_it, called)),
    }
    level = 1 - CHANCE / len(differences)
    return {name: float(np.quantile(of, level)) for name, of in differences.items()}


def ks(values: Numbers, some: NDArray[Any], others: NDArray[Any]) -> Numbers:
    """D of Kolmogorov and Smirnov (B,), 0 to 1: the largest distance between two cumulated
    distributions. SciPy's takes no weights.

    Args:
        values: (N,) of all images.
        some: weights (B, N) of the images in one distribution, 0 or more.
        others: likewise in the other.
    """
    order = np.argsort(values)
    last = np.append(np.diff(values[order]) > 0, True)  # of equal values
    first, second = (_cumulated(weights[:, order])[:, last] for weights in (some, others))
    return np.abs(first - second).max(axis=1)


def false_alarms(reference: pd.DataFrame, threshold: float) -> float | None:
    """Share of random halves of the reference, by patient, that the rule marks if the other half is
    the reference; None where halves are too small.

    Args:
        reference: as `compare` takes it, with `warned`.
        threshold: likewise.
    """
    patients = reference["patient"].unique()
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    found = []
    for _ in range(HALVES):
        is_first = reference["patient"].isin(rng.permutation(patients)[: len(patients) // 2])
        first, second = reference[is_first], reference[~is_first]
        if first["label"].nunique() == len(LABELS) and len(second) >= MIN_IMAGES:
            found.append(compare(first, second, threshold)["verdict"] == SIGNIFICANT)
    return float(np.mean(found)) if found else None


def _apart(known: pd.Series, here: pd.Series, weights: Numbers) -> tuple[float, float, float]:
    """Both medians, and D."""
    some, others = np.zeros((2, 1, len(known) + len(here)))
    some[0, : len(known)] = weights
    others[0, len(known) :] = 1
    middle = np.quantile(known, 0.5, weights=weights, method="inverted_cdf")
    distance = ks(np.concatenate([known, here]), some, others)[0]
    return float(middle), float(here.median()), float(distance)


def _cumulated(weights: NDArray[Any]) -> Numbers:
    sums = np.cumsum(weights, axis=1, dtype=np.float64)
    return sums / np.maximum(sums[:, -1:], np.finfo(float).tiny)


def _share(draws: NDArray[np.int64], called: NDArray[np.bool_]) -> Numbers:
    return draws @ called / draws.sum(axis=1)
