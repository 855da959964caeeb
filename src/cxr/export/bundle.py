"""Exported networks, OOD detector, drift reference and settings, for prediction without Keras.

Equal models give equal bytes.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr import paths
from cxr.common.arrays import Split, evenly_spaced
from cxr.common.files import write_csv
from cxr.common.names import TRAINED, TUNING, VARIANTS
from cxr.compute.conversion import convert
from cxr.compute.runtimes import import_openvino, open_network, run_all
from cxr.errors import CxrError
from cxr.evaluation import ensemble, metrics
from cxr.evaluation.predictions import load_model
from cxr.evaluation.results import Evaluation
from cxr.evaluation.selection import best_variant
from cxr.export import drift, ood
from cxr.export.settings import OodSettings, Settings, TrainingRange, VariantSettings
from cxr.params import EvaluateParams, ImageParams

Metrics = dict[str, Any]

MAX_DIFFERENCE = 1e-4  # from Keras: of a probability, or relative to the largest feature
COMPARED = 64  # validation images on which exported networks are compared with Keras
# Faults that the OOD detector should detect: images uint8 (N, S, S) -> uint8 (N, S, S).
ALTERATIONS: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    "upside down": lambda images: images[:, ::-1],
    "rotated 90 degrees": lambda images: np.rot90(images, axes=(1, 2)),
    "negative": lambda images: 255 - images,
    "shuffled rows": lambda images: np.random.default_rng(0).permutation(images, axis=1),
}


def export_variants(folder: Path, val: Split) -> Metrics:
    """Write the network of each trained variant.

    Args:
        folder: to write into.
        val: validation images, on some of which outputs are compared with Keras.

    Returns:
        for each variant the result of `export_compared`.

    Raises:
        CxrError: a model cannot be read, or outputs differ from Keras.
    """
    images = val.images[evenly_spaced(len(val.images), COMPARED)]
    found = {}
    for name in TRAINED:
        model = load_model(paths.model(name))
        expected = run_all(model.predict_on_batch, images)
        found[name] = export_compared(model, folder / f"{name}.xml", images, expected)
    return found


def export_features(folder: Path, val: Split, features: NDArray[np.float32]) -> Metrics:
    """Write the frozen backbone of the variant transfer, without the head: images uint8
    (N, S, S, 1) -> features float32 (N, D).

    Args:
        folder: to write into.
        val: validation images, on some of which features are compared.
        features: of these images (N, D), as stage extract_features computed them.

    Raises:
        CxrError: the exported network gives other features.
    """
    whole = load_model(paths.model("transfer"))
    backbone = keras.Model(whole.input, whole.get_layer("pooling").output)
    rows = evenly_spaced(len(features), COMPARED)
    return export_compared(backbone, folder / "features.xml", val.images[rows], features[rows])


def export_compared(
    model: keras.Model, file: Path, images: NDArray[np.uint8], expected: NDArray[Any]
) -> Metrics:
    """Write a network and compare its outputs with the expected ones.

    Args:
        model: uint8 (N, S, S, 1) -> float32 (N, ...) with free N, like the exported network.
        file: `.xml` to write, with a `.bin` in the same folder.
        images: uint8 (N, S, S).
        expected: (N, ...).

    Returns:
        `difference`, as `max_difference` gives it; `bytes` of the files.

    Raises:
        CxrError: the difference is above `MAX_DIFFERENCE`.
    """
    import_openvino().save_model(convert(model), file, compress_to_fp16=False)
    difference = max_difference(expected, run_all(open_network(file), images))
    if not difference <= MAX_DIFFERENCE:  # nor NaN
        raise CxrError(
            f"{file.name} differs from Keras by {difference:.1g}, more than "
            f"{MAX_DIFFERENCE:g}: the versions of OpenVINO, Keras and TensorFlow do not "
            "match; install those of requirements/runtime.lock"
        )
    size = sum(part.stat().st_size for part in (file, file.with_suffix(".bin")))
    return {"difference": float(f"{difference:.1e}"), "bytes": size}


def max_difference(expected: NDArray[Any], found: NDArray[Any]) -> float:
    """Largest difference, relative to the largest expected value where that is above 1."""
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))


def export_ood(
    folder: Path, features: Mapping[str, NDArray[np.float32]], val: Split
) -> OodSettings:
    """Write the reference of the OOD detector, fitted on the training images; its threshold is
    chosen on `val`.

    Args:
        folder: to write into, with the files of `export_features`.
        features: (N, D) of the frozen backbone for `train`, `val` and `test`.
        val: images, some of which are altered to measure the detection rate.
    """
    reference = ood.fit(features["train"])
    ood.save(reference, folder / "ood_reference.npz")
    scores = {name: ood.distances(reference, features[name]) for name in ("val", "test")}
    threshold = ood.ood_threshold(scores["val"])
    images = val.images[evenly_spaced(len(val.images), COMPARED)]
    run = open_network(folder / "features.xml")
    altered = {
        name: ood.distances(reference, run_all(run, alter(images)))
        for name, alter in ALTERATIONS.items()
    }
    return OodSettings(
        threshold=threshold,
        false_positive_rate=_fractions_above(threshold, scores),
        detection_rate=_fractions_above(threshold, altered),
    )


def _fractions_above(threshold: float, scores: Mapping[str, ood.Distances]) -> dict[str, float]:
    return {name: float((values > threshold).mean()) for name, values in scores.items()}


def export_reference(
    folder: Path,
    splits: Mapping[str, Split],
    features: Mapping[str, NDArray[np.float32]],
    predictions: pd.DataFrame,
    settings: Settings,
) -> Metrics:
    """Write the reference of `cxr drift`, and apply its rule to the other splits.

    Args:
        folder: to write into, with the file of `export_ood`.
        splits: `val`, which is the reference, `stress` and `test`.
        features: (N, D) of the frozen backbone for these.
        predictions: as `predictions.predict_all` gives them, rows in the order of the splits'.
        settings: from `prediction_settings`.

    Returns:
        with the predictions of the recommended variant, `false_positive_rate`: fraction of random
        halves of validation that the rule flags; `flagged`: for each condition of `stress` and for
        `test`, the tests that flag it, with their differences. Nothing is chosen by them.
    """
    ood_reference = ood.load(folder / "ood_reference.npz")
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
        predictions: as `evaluation.predict_all` gives them, with a column for each variant.
        train: index of the training images.
        ood_settings: result of `export_ood`.
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
