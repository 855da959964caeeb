"""Settings and drift reference of the folder that prediction needs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr.common.arrays import Split
from cxr.common.files import write_csv
from cxr.common.names import TUNING, VARIANTS
from cxr.evaluation import ensemble, metrics
from cxr.evaluation.results import Evaluation
from cxr.evaluation.selection import best_variant
from cxr.export import drift
from cxr.export.input_checks import failed_checks
from cxr.params import EvaluateParams, ImageParams
from cxr.prediction import ood

Metrics = dict[str, Any]


def export_reference(
    folder: Path,
    splits: Mapping[str, Split],
    features: Mapping[str, NDArray[np.float32]],
    predictions: pd.DataFrame,
    settings: Metrics,
) -> Metrics:
    """Write the reference of `cxr drift`, and apply its rule to the other splits.

    Args:
        folder: to write into, with the OOD detector.
        splits: `val`, which is the reference, `stress` and `test`.
        features: (N, D) of the frozen backbone for these.
        predictions: as `evaluation.predictions.merge` gives them, rows in the order of the splits'.
        settings: result of `settings`.

    Returns:
        with the predictions of the recommended variant, `false_positive_rate`: fraction of random
        halves of validation that the rule flags; `flagged`: for each condition of `stress` and for
        `test`, the tests that flag it, with their differences. Nothing is chosen by them.
    """
    ood_reference = ood.load(folder / ood.FILE)
    variant = settings["recommended"]
    threshold = settings["variants"][variant]["threshold"]
    tables = {}
    for name, split in splits.items():
        distances = ood.distances(ood_reference, features[name])
        rows = predictions.loc[predictions["split"] == name, list(VARIANTS)]
        tables[name] = drift.reference_table(split.index, split.images, distances, rows)
    write_csv(folder / drift.FILE, tables["val"])
    val, stress, test = (
        table.assign(probability=table[variant], warned=_warned(table, settings))
        for table in (tables[name] for name in ("val", "stress", "test"))
    )
    others = {**dict(iter(stress.groupby(splits["stress"].index["condition"]))), "test": test}
    flagged = {}
    for name, other in others.items():
        result = drift.compare(val, other, threshold)
        flagged[name] = {test: result["tests"][test]["difference"] for test in result["flagged"]}
    return {"false_positive_rate": drift.false_positive_rate(val, threshold), "flagged": flagged}


def _warned(table: pd.DataFrame, settings: Metrics) -> pd.Series:
    """Whether each image of a reference table would have a warning, except that about color: the
    arrays are gray.
    """
    failed = failed_checks(
        table["distance"] / settings["ood"]["threshold"],
        table["shorter_side"],
        table["aspect_ratio"],
        settings["image"]["input_size"],
        settings["trained_on"]["aspect_ratio"],
    )
    return pd.DataFrame(failed).any(axis=1)


def settings(
    image: ImageParams,
    evaluate: EvaluateParams,
    evaluation: Evaluation,
    predictions: pd.DataFrame,
    train: pd.DataFrame,
    ood_metrics: Metrics,
) -> Metrics:
    """Content of settings.json: everything that prediction needs besides the networks.

    Args:
        image: how images are prepared.
        evaluate: how the pipeline evaluates.
        evaluation: metrics of all variants.
        predictions: as `evaluation.predictions.merge` gives them, with a column for each variant.
        train: index of the training images.
        ood_metrics: result of `ood.measure`.

    Returns:
        `image`; `evaluate`; `recommended`; `variants`: for each the `threshold` of its operating
        point and the `scale` that calibrates its probability, for the ensemble also its `members`
        with their scales; `ood`; `trained_on`: minimum and maximum of the training files'
        `shorter_side` (pixels) and `aspect_ratio` (width / height).
    """
    variants: Metrics = {
        name: {
            "threshold": evaluation.thresholds[name],
            "scale": ensemble.fit_scale(*metrics.columns(predictions, TUNING, name)),
        }
        for name in VARIANTS
    }
    variants["ensemble"]["members"] = evaluation.variants["ensemble"].scales
    sides = train[["width", "height"]].astype(int)
    sizes = {"shorter_side": sides.min(axis=1), "aspect_ratio": sides["width"] / sides["height"]}
    return {
        "image": image.model_dump(),
        "evaluate": evaluate.model_dump(),
        "recommended": best_variant(evaluation),
        "variants": variants,
        "ood": ood_metrics,
        "trained_on": {
            name: [size.min().item(), size.max().item()] for name, size in sizes.items()
        },
    }
