"""What the stage `export` writes: networks that run without Keras, and all that prediction needs.

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
from cxr.export.input_checks import failed_checks
from cxr.params import EvaluateParams, ImageParams

Metrics = dict[str, Any]

MAX_DIFFERENCE = 1e-4  # from Keras, of a probability, or as a share of the largest feature
COMPARED = 64  # images that a network's files are compared with Keras on
# What can go wrong with a radiograph on its way here; images uint8 (N, S, S) -> likewise.
ALTERATIONS: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    "upside down": lambda images: images[:, ::-1],
    "on its side": lambda images: np.rot90(images, axes=(1, 2)),
    "negative": lambda images: 255 - images,
    "rows in disorder": lambda images: np.random.default_rng(0).permutation(images, axis=1),
}


def export_variants(folder: Path, val: Split) -> Metrics:
    """Write the network of each trained variant.

    Args:
        folder: to write into.
        val: validation images, some of which the files are compared with Keras on.

    Returns:
        for each variant what `export_compared` gives.

    Raises:
        CxrError: a model cannot be read, or a file gives something else than Keras.
    """
    images = val.images[evenly_spaced(len(val.images), COMPARED)]
    return {name: _export_variant(name, folder, images) for name in TRAINED}


def _export_variant(name: str, folder: Path, images: NDArray[np.uint8]) -> Metrics:
    model = load_model(paths.model(name))
    expected = run_all(model.predict_on_batch, images)
    return export_compared(model, folder / f"{name}.xml", images, expected)


def export_features(folder: Path, val: Split, features: NDArray[np.float32]) -> Metrics:
    """Write the frozen backbone, as the variant transfer has it before its head: images uint8
    (N, S, S, 1) -> features float32 (N, D).

    Args:
        folder: to write into.
        val: validation images, some of which the files are compared on.
        features: of these images (N, D), as stage extract_features computed them.

    Raises:
        CxrError: the files give other features.
    """
    whole = load_model(paths.model("transfer"))
    backbone = keras.Model(whole.input, whole.get_layer("pooling").output)
    rows = evenly_spaced(len(features), COMPARED)
    return export_compared(backbone, folder / "features.xml", val.images[rows], features[rows])


def export_compared(
    model: keras.Model, file: Path, images: NDArray[np.uint8], expected: NDArray[Any]
) -> Metrics:
    """Write a network's files and compare what they give with what is expected.

    Args:
        model: uint8 (N, S, S, 1) -> float32 (N, ...), N free; so are the files.
        file: `.xml` to write, with a `.bin` in the same folder.
        images: uint8 (N, S, S).
        expected: (N, ...).

    Returns:
        `difference`, the largest, as a share of the largest expected value where that is above 1;
        `bytes` of the files.

    Raises:
        CxrError: the difference is above `LARGEST_DIFFERENCE`.
    """
    import_openvino().save_model(convert(model), file, compress_to_fp16=False)
    difference = max_difference(expected, run_all(open_network(file), images))
    if not difference <= MAX_DIFFERENCE:  # nor NaN
        raise CxrError(
            f"{file.name} differs from Keras by {difference:.1g}, more than "
            f"{MAX_DIFFERENCE:g}: the versions of OpenVINO, Keras and TensorFlow do not fit "
            "together; install those of requirements/runtime.lock"
        )
    size = sum(part.stat().st_size for part in (file, file.with_suffix(".bin")))
    return {"difference": float(f"{difference:.1e}"), "bytes": size}


def max_difference(expected: NDArray[Any], found: NDArray[Any]) -> float:
    """Largest difference, as a share of the largest expected value where that is above 1."""
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))


def export_ood(folder: Path, features: Mapping[str, NDArray[np.float32]], val: Split) -> Metrics:
    """Write what images of training look like, for the warning about images that do not.

    Args:
        folder: to write into, with the files of `export_features`.
        features: (N, D) of the frozen backbone for `train`, `val` and `test`.
        val: images, which are altered to see whether that is noticed.

    Returns:
        `limit`, the distance above which an image is warned of, chosen on `val`; `false_alarms`:
        share of the images of `val` and `test` above it; `alarms`: that of images of `val` after
        each of `ALTERATIONS`.
    """
    reference = ood.fit(features["train"])
    ood.save(reference, folder / "familiar.npz")
    distances = {name: ood.distances(reference, features[name]) for name in ("val", "test")}
    limit = ood.ood_threshold(distances["val"])
    images = val.images[evenly_spaced(len(val.images), COMPARED)]
    run = open_network(folder / "features.xml")
    altered = {
        name: ood.distances(reference, run_all(run, alter(images)))
        for name, alter in ALTERATIONS.items()
    }
    return {
        "limit": limit,
        "false_alarms": {name: float((of > limit).mean()) for name, of in distances.items()},
        "alarms": {name: float((of > limit).mean()) for name, of in altered.items()},
    }


def export_reference(
    folder: Path,
    splits: Mapping[str, Split],
    features: Mapping[str, NDArray[np.float32]],
    predictions: pd.DataFrame,
    settings: Metrics,
) -> Metrics:
    """Write what `cxr drift` compares images with, and see what its rule marks.

    Args:
        folder: to write into, with the file of `export_familiarity`.
        splits: `val`, which is the reference, `stress` and `test`.
        features: (N, D) of the frozen backbone for these.
        predictions: as `evaluation.predict_all` gives them, rows in the order of the splits'.
        settings: what `settings` gives.

    Returns:
        by the recommended variant `false_alarms`: the share of random halves of validation that
        are marked by the other half; `marked`: of each condition of `stress` and of `test` the
        tests that mark it, with their differences. Nothing is chosen by it.
    """
    known = ood.load(folder / "familiar.npz")
    variant = settings["recommended"]
    threshold = settings["variants"][variant]["threshold"]
    tables = {}
    for name, split in splits.items():
        distances = ood.distances(known, features[name])
        rows = predictions.loc[predictions["split"] == name, list(VARIANTS)]
        tables[name] = drift.reference_table(split.index, split.images, distances, rows)
    write_csv(folder / drift.FILE, tables["val"])
    val, stress, test = (
        table.assign(probability=table[variant], warned=_warned(table, settings))
        for table in (tables[name] for name in ("val", "stress", "test"))
    )
    others = {**dict(iter(stress.groupby(splits["stress"].index["condition"]))), "test": test}
    marked = {}
    for name, other in others.items():
        found = drift.compare(val, other, threshold)
        marked[name] = {test: found["tests"][test]["difference"] for test in found["marked"]}
    return {"false_alarms": drift.false_alarms(val, threshold), "marked": marked}


def _warned(table: pd.DataFrame, settings: Metrics) -> pd.Series:
    """Which rows of a reference would have a warning: true or false for each.

    That of an image's colours is left out, as the arrays are grey.
    """
    failed = failed_checks(
        table["distance"] / settings["familiarity"]["limit"],
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
    known: Metrics,
) -> Metrics:
    """What prediction needs beside the networks, for settings.json.

    Args:
        image: how images are prepared.
        evaluate: how the pipeline evaluates.
        evaluation: metrics of all variants.
        predictions: as `evaluation.predict_all` gives them, with a column for each variant.
        train: index of the training images.
        known: what `export_familiarity` gives.

    Returns:
        `image`; `evaluate`; `recommended`; `variants`: of each the `threshold` of its operating
        point and the `scale` that calibrates its probability, of the ensemble also its `members`
        with their scales; `familiarity`; `trained_on`: least and most of the training files'
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
    seen = {"shorter_side": sides.min(axis=1), "aspect_ratio": sides["width"] / sides["height"]}
    return {
        "image": image.model_dump(),
        "evaluate": evaluate.model_dump(),
        "recommended": best_variant(evaluation),
        "variants": variants,
        "familiarity": known,
        "trained_on": {name: [of.min().item(), of.max().item()] for name, of in seen.items()},
    }
