"""`cxr`: use the trained models."""

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from itertools import count
from pathlib import Path

from cxr import paths
from cxr.drift import RULE, TOO_FEW, read_reference
from cxr.errors import CxrError, catch_every_interrupt, run_stage
from cxr.files import replacing
from cxr.predicting import Answer, Predictor, files_of, predict

Result = tuple[Path, Answer | str]
COLUMNS = ("file", "probability", "decision", "confidence", "unfamiliarity", "warnings", "error")
EXPLAINED = Path("explained")
FAILED = 1  # exit code where one file or more had no answer
NO_TRUST = 3  # exit code where answers are not to be trusted without re-evaluation
DRIFT = Path("drift")


def main() -> None:
    catch_every_interrupt()
    arguments = parser().parse_args()
    run_stage(lambda: arguments.run(arguments))


def parser() -> argparse.ArgumentParser:
    """The command line, with all help."""
    top = argparse.ArgumentParser(
        prog="cxr", description="Use the trained models. Not for clinical use."
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    one = commands.add_parser(
        "predict",
        help="NORMAL or PNEUMONIA for radiographs",
        description="NORMAL or PNEUMONIA for JPEG, PNG and DICOM files, at the operating point "
        "that was chosen on validation. Not for clinical use.",
        epilog="Exit code: 0, all files were answered; 1, some were not, or an error; 2, wrong "
        "arguments.",
    )
    one.add_argument("paths", nargs="+", type=Path, metavar="FILE_OR_FOLDER")
    one.add_argument("--variant", default="", help="its name; default: the recommended one")
    one.add_argument("--format", default="table", choices=FORMATS, help="default: table")
    one.add_argument(
        "--models",
        type=Path,
        default=paths.EXPORTED,
        metavar="FOLDER",
        help="that the stage export wrote; default: %(default)s",
    )
    one.add_argument(
        "--explain",
        action="store_true",
        help="also write where the network sees PNEUMONIA (Grad-CAM), a PNG for each image",
    )
    one.add_argument(
        "--into",
        type=Path,
        default=EXPLAINED,
        metavar="FOLDER",
        help="for the pictures of --explain; they show the radiographs; default: %(default)s",
    )
    one.set_defaults(run=run_predict)
    add_drift(commands)
    return top


def run_predict(arguments: argparse.Namespace) -> None:
    """Answer each file; those without an answer do not stop the others."""
    files = files_of(arguments.paths)
    if not files:
        named = ", ".join(map(str, arguments.paths))
        raise CxrError(f"no JPEG, PNG or DICOM file in {named}")
    predictor = Predictor(arguments.models, arguments.variant)
    explain = explainer(predictor, arguments) if arguments.explain else None
    failed: list[str] = []

    def noted(results: Iterable[Result]) -> Iterator[Result]:
        for file, found in results:
            if isinstance(found, str):
                failed.append(found)
            elif explain:
                explain(file)
            yield file, found

    FORMATS[arguments.format](predictor, noted(predict(predictor, files)))
    if failed:
        print(f"{len(failed)} of {len(files)} files could not be read", file=sys.stderr)
        sys.exit(FAILED)


def explainer(predictor: Predictor, arguments: argparse.Namespace) -> Callable[[Path], None]:
    """A function that writes the picture of a file, under a name that is not taken yet."""
    from cxr.explaining import Explainer  # only here: it imports TensorFlow

    explainer = Explainer(arguments.models.parent, predictor.members)
    taken: set[str] = set()

    def explain(file: Path) -> None:
        name = next(name for name in _names(file.stem) if name not in taken)
        taken.add(name)
        picture = explainer.overlay(predictor.prepared(predictor.read(file)))
        with replacing(arguments.into / f"{name}.png") as part:
            picture.save(part)

    return explain


def _names(stem: str) -> Iterator[str]:
    """A file's name, for files of one name with numbers."""
    yield stem
    yield from (f"{stem}-{number}" for number in count(2))


def as_table(predictor: Predictor, results: Iterable[Result]) -> None:
    """A line for each file as soon as it is answered, warnings below it."""
    print(f"variant {predictor.variant}, PNEUMONIA from {predictor.threshold:.3f}")
    print("probability  decision   confidence  file")
    for file, found in results:
        if isinstance(found, str):
            print(f"{'-':>11}  {'ERROR':9}  {'-':>10}  {found}", flush=True)
            continue
        numbers = f"{found.probability:11.3f}  {found.decision:9}  {found.confidence:10.3f}"
        print(f"{numbers}  {file}", flush=True)
        for warning in found.warnings:
            print(f"{'':36}WARNING: {warning}")


def as_csv(predictor: Predictor, results: Iterable[Result]) -> None:
    """A row for each file; several warnings in one field, separated by semicolons."""
    writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in map(_row, results):
        writer.writerow(row | {"warnings": "; ".join(row["warnings"])})


def as_json(predictor: Predictor, results: Iterable[Result]) -> None:
    """One document: variant, threshold, and `images`, each with the keys of `COLUMNS`."""
    document = {
        "variant": predictor.variant,
        "threshold": predictor.threshold,
        "images": list(map(_row, results)),
    }
    print(json.dumps(document, indent=2))


FORMATS = {"table": as_table, "csv": as_csv, "json": as_json}


def _row(result: Result) -> dict[str, object]:
    file, found = result
    empty: dict[str, object] = dict.fromkeys(COLUMNS) | {"warnings": ()}
    known = {"error": found} if isinstance(found, str) else asdict(found)
    return empty | {"file": str(file)} | known


def add_drift(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The arguments of `cxr drift`."""
    one = commands.add_parser(
        "drift",
        help="how images of another place differ from those known",
        description="How the radiographs of a folder differ from those that the networks were "
        "chosen on (validation): sizes, intensity, distance from the training images, predicted "
        "prevalence. Needs no labels. Writes a page and JSON, which name no file.",
        epilog=f"{RULE} Exit code: 0, no difference found that matters, which does not show that "
        "the answers are right; 1, an error, some files could not be read, or too few images; 2, "
        "wrong arguments; 3, do not trust without re-evaluation.",
    )
    one.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    one.add_argument("--variant", default="", help="its name; default: the recommended one")
    one.add_argument(
        "--models",
        type=Path,
        default=paths.EXPORTED,
        metavar="FOLDER",
        help="that the stage export wrote; default: %(default)s",
    )
    one.add_argument(
        "--into",
        type=Path,
        default=DRIFT,
        metavar="FOLDER",
        help="for index.html and drift.json; default: %(default)s",
    )
    one.set_defaults(run=run_drift)


def run_drift(arguments: argparse.Namespace) -> None:
    """Compare folders, taken together, with the reference; the exit code is the result."""
    from cxr import monitor  # only here: it imports Matplotlib

    for folder in arguments.folders:
        if not folder.is_dir():
            raise CxrError(f"{folder} is no folder; name folders of radiographs")
    files = files_of(arguments.folders)
    named = ", ".join(map(str, arguments.folders))
    if not files:
        raise CxrError(f"no JPEG, PNG or DICOM file in {named}")
    predictor = Predictor(arguments.models, arguments.variant)
    reference = read_reference(arguments.models, predictor.variant)
    here, errors = monitor.measure(predictor, files)
    for error in errors:
        print(f"cannot be read: {error}", file=sys.stderr)
    if here.empty:
        raise CxrError(f"none of the {len(files)} files in {named} could be read")
    found = monitor.summary(predictor, reference, here, len(errors))
    monitor.write(arguments.into, arguments.folders, found, reference, here)
    print(f"variant {predictor.variant}, {len(here)} images, {len(errors)} could not be read")
    print(monitor.table(found).to_string(index=False))
    print(f"{monitor.told(found)}\nmore in {arguments.into / monitor.PAGE}")
    if found["marked"]:
        sys.exit(NO_TRUST)
    if errors or found["verdict"] == TOO_FEW:
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
