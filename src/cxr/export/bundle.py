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
from cxr.export.settings import OodSettings, Settings, TrainingRange, VariantSettings
from cxr.params import EvaluateParams, ImageParams
from cxr.prediction import ood

Metrics = dict[str, Any]


def export_reference(
    folder: Path,
    splits: Mapping[str, Split],
    features: Mapping[str, NDArray[np.float32]],
    predictions: pd.DataFrame,
    settings: Settings,
) -> Metrics:
    """Write the reference of `cxr drift`, and apply its rule to the other splits.

    Args:
        folder: to write into, with the OOD detector.
        splits: `val`, which is the reference, `stress` and `test`.
        features: (N, D) of the frozen backbone for these.
        predictions: as `evaluation.predictions.merge` gives them, rows in the order of the splits'.
        settings: from `prediction_settings`.

    Returns:
        with the predictions of the recommended variant, `false_positive_rate`: fraction of random
        halves of validation that the rule flags; `flagged`: for each condition of `stress` and for
        `test`, the tests that flag it, with their differences. Nothing is chosen by them.
    """
    ood_reference = ood.load(folder / ood.FILE)
    variant = settings.recommended
    threshold = settings.variants[variant].threshold
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
        flagged[name] = {test: result.tests[test].difference for test in result.flagged}
    return {"false_positive_rate": drift.false_positive_rate(val, threshold), "flagged": flagged}


def _warned(table: pd.DataFrame, settings: Settings) -> pd.Series:
    """Whether each image of a reference table would have a warning, except that about color: the
    arrays are gray.
    """
    ood_score = table["distance"] / settings.ood.threshold
    failed = settings.failed_checks(ood_score, table["shorter_side"], table["aspect_ratio"])
    return pd.DataFrame(failed).any(axis=1)


def prediction_settings(
    image: ImageParams,
    evaluate: EvaluateParams,
    evaluation: Evaluation,
    predictions: pd.DataFrame,
    train: pd.DataFrame,
    ood_settings: OodSettings,
) -> Settings:
    """Content of settings.json.

    Args:
        image: how images are prepared.
        evaluate: how the pipeline evaluates.
        evaluation: metrics of all variants.
        predictions: as `evaluation.predictions.merge` gives them, with a column for each variant.
        train: index of the training images.
        ood_settings: result of `ood.measure`.
    """
    variants = {
        name: VariantSettings(
            threshold=evaluation.thresholds[name],
            scale=ensemble.fit_scale(*metrics.columns(predictions, TUNING, name)),
            members=evaluation.variants[name].scales,
        )
        for name in VARIANTS
    }
    sides = train[["width", "height"]].astype(int)
    shorter_side, aspect_ratio = sides.min(axis=1), sides["width"] / sides["height"]
    return Settings(
        image=image,
        evaluate=evaluate,
        recommended=best_variant(evaluation),
        variants=variants,
        ood=ood_settings,
        trained_on=TrainingRange(
            shorter_side=(shorter_side.min(), shorter_side.max()),
            aspect_ratio=(aspect_ratio.min(), aspect_ratio.max()),
        ),
    )
