"""Output of `cxr predict`: text, CSV or JSON, and heatmaps."""

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, count
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import imageio.v3 as iio

from cxr.common.files import replacing
from cxr.data.dataset_folder import printable
from cxr.data.images import ImageError
from cxr.errors import extra
from cxr.inference.predict import (
    HEATMAP_SUFFIX,
    SUFFIXES,
    Prediction,
    Predictor,
    error_message,
    predict,
)

Row: TypeAlias = dict[str, Any]  # with the keys COLUMNS
WriteHeatmap: TypeAlias = Callable[[Path], Path]

COLUMNS = (
    *("file", "probability", "decision", "confidence", "ood_score", "warnings"),
    *("picture", "error"),
)
INDENT = " " * 36  # of lines below a prediction


def rows(
    predictor: Predictor, files: Iterable[Path], write_heatmap: WriteHeatmap | None = None
) -> Iterator[Row]:
    """Predict files one batch at a time.

    Yields:
        for each file in order: `file`, its printable path; the fields of its prediction and
        `picture`, the printable path of its heatmap, if one is written; or `error` alone. Other
        values are None, and `warnings` is then empty.
    """
    for file, found in predict(predictor, files):
        yield _row(file, found, write_heatmap)


def _row(file: Path, found: Prediction | str, write_heatmap: WriteHeatmap | None) -> Row:
    row: Row = dict.fromkeys(COLUMNS) | {"file": _printable(file), "warnings": ()}
    if isinstance(found, str):
        return row | {"error": found}
    try:
        picture = _printable(write_heatmap(file)) if write_heatmap else None
    except ImageError as error:  # the heatmap reads the file once more
        return row | {"error": error_message(error, file)}
    return row | found.model_dump(exclude={"variant", "threshold"}) | {"picture": picture}


def printable_skipped(skipped: dict[Path, str]) -> dict[str, str]:
    """Printable path -> reason."""
    return {_printable(file): reason for file, reason in skipped.items()}


def _printable(file: Path) -> str:
    return printable(PurePosixPath(file))


# --- heatmaps ------------------------------------------------------------------------------------


def heatmap_writer(predictor: Predictor, into: Path) -> WriteHeatmap:
    """A function that writes the heatmap of a file into a folder, under a name of its own, and
    returns its path.

    Raises:
        CxrError: TensorFlow or a Keras model is missing.
    """
    with extra("train", "--explain"):
        from cxr.inference.gradcam import Explainer  # only here: it imports TensorFlow

    explainer = Explainer(predictor.trained, predictor.members)
    used: set[str] = set()

    def write(file: Path) -> Path:
        stem = file.stem if file.suffix.lower() in SUFFIXES else file.name
        numbered = (f"{stem}-{number}" for number in count(2))
        name = next(name for name in chain([stem], numbered) if name not in used)
        used.add(name)
        overlay = explainer.overlay(predictor.preprocess(predictor.read(file)))
        picture = into / f"{name}{HEATMAP_SUFFIX}"  # the suffix protects radiographs there
        with replacing(picture) as part:
            part.write_bytes(iio.imwrite("<bytes>", overlay, extension=".png", plugin="pillow"))
        return picture

    return write


# --- formats -------------------------------------------------------------------------------------


def print_table(predictor: Predictor, rows: Iterable[Row], skipped: dict[str, str]) -> None:
    """A line for each file as soon as it is predicted, with its warnings; then skipped files."""
    print(f"variant {predictor.variant}, PNEUMONIA from {predictor.threshold:.3f}")
    print("probability  decision   confidence  file")
    for row in rows:
        if row["error"]:
            print(f"{'-':>11}  {'ERROR':9}  {'-':>10}  {row['error']}", flush=True)
            continue
        numbers = f"{row['probability']:11.3f}  {row['decision']:9}  {row['confidence']:10.3f}"
        print(f"{numbers}  {row['file']}", flush=True)
        for warning in row["warnings"]:
            print(f"{INDENT}WARNING: {warning}")
        if row["picture"]:
            print(f"{INDENT}heatmap: {row['picture']}")
    for file, reason in skipped.items():
        print(f"{'-':>11}  {'skipped':9}  {'-':>10}  {file}: {reason}")


def print_csv(predictor: Predictor, rows: Iterable[Row], skipped: dict[str, str]) -> None:
    """A row for each file, warnings separated by semicolons. A skipped file has only `file` and
    `skipped`, the reason.
    """
    writer = csv.DictWriter(sys.stdout, (*COLUMNS, "skipped"), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(row | {"warnings": "; ".join(row["warnings"])})
    for file, reason in skipped.items():
        writer.writerow({"file": file, "skipped": reason})


def print_json(predictor: Predictor, rows: Iterable[Row], skipped: dict[str, str]) -> None:
    """One document: variant, threshold, `images` with the keys of `COLUMNS`, and `skipped` with
    `file` and `reason`.
    """
    document = {
        "variant": predictor.variant,
        "threshold": predictor.threshold,
        "images": list(rows),
        "skipped": [{"file": file, "reason": reason} for file, reason in skipped.items()],
    }
    print(json.dumps(document, indent=2))


FORMATS = {"table": print_table, "csv": print_csv, "json": print_json}
