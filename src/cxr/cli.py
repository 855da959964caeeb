"""`cxr`: use the trained models."""

import argparse
import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from cxr import paths, quiet
from cxr.common.files import replacing
from cxr.data.dataset_folder import printable
from cxr.data.images import ImageError
from cxr.errors import CxrError, catch_every_interrupt, extra, run_stage, shortened
from cxr.export.drift import NO_DRIFT, RULE, SIGNIFICANT, TOO_FEW, read_reference
from cxr.inference.predict import (
    EXPLAINED,
    SUFFIXES,
    ImagePrediction,
    Listing,
    Predictor,
    error_message,
    list_radiographs,
    predict,
)

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Explain: TypeAlias = Callable[[Path], Path]
COLUMNS = (
    *("file", "probability", "decision", "confidence", "unfamiliarity", "warnings"),
    *("picture", "error"),
)
NAMED = 3  # skipped files, in an error
EXPLAINED_INTO = Path("explained")
EVALUATED = Path("evaluated")
FAILED = 1  # exit code where one file or more had no answer
NO_TRUST = 3  # exit code where answers are not to be trusted without re-evaluation
DRIFT = Path("drift")
CONVERTED = Path("models/converted")


def main() -> None:
    catch_every_interrupt()
    quiet.install()
    arguments = parser().parse_args()
    run_stage(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    """Run a command; end quietly where nobody reads on, as with `cxr predict ... | head`."""
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still buffered
        sys.exit(FAILED)


def parser() -> argparse.ArgumentParser:
    """The command line, with all help."""
    top = argparse.ArgumentParser(
        prog="cxr", description="Use the trained models. Not for clinical use."
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for add in (_add_predict, _add_serve, _add_drift, _add_evaluate, _add_export):
        add(commands)
    return top


def _add_predict(commands: Commands) -> None:
    command = commands.add_parser(
        "predict",
        help="NORMAL or PNEUMONIA for radiographs",
        description="NORMAL or PNEUMONIA for JPEG, PNG and DICOM files, at the operating point "
        "that was chosen on validation. Not for clinical use.",
        epilog="Exit code: 0, all files were answered; 1, some were not, or an error; 2, wrong "
        "arguments.",
    )
    command.add_argument("paths", nargs="+", type=Path, metavar="FILE_OR_FOLDER")
    _add_variant(command)
    _add_models(command)
    command.add_argument("--format", default="table", choices=FORMATS, help="default: table")
    command.add_argument(
        "--explain",
        action="store_true",
        help="also write where the network sees PNEUMONIA (Grad-CAM), a PNG for each image; of one "
        "called NORMAL, what speaks for PNEUMONIA all the same",
    )
    _add_into(command, EXPLAINED_INTO, "for the pictures of --explain; they show the radiographs")
    command.set_defaults(run=run_predict)


def _add_serve(commands: Commands) -> None:
    command = commands.add_parser(
        "serve",
        help="a page, and JSON, for radiographs that a browser or a program sends",
        description="Serve a page that judges JPEG, PNG and DICOM files, and the same as JSON "
        "(described by /openapi.json), until Ctrl-C. Files are judged in memory and not kept. Not "
        "for clinical use.",
        epilog="Exit code: 0, ended by Ctrl-C; 1, an error; 2, wrong arguments.",
    )
    _add_variant(command)
    _add_models(command)
    command.add_argument(
        "--host",
        default="127.0.0.1",
        help="to listen at; default: %(default)s, which no other machine can reach",
    )
    command.add_argument(
        "--port", type=int, default=8000, help="0: any that is free; default: %(default)s"
    )
    command.set_defaults(run=run_serve)


def _add_drift(commands: Commands) -> None:
    command = commands.add_parser(
        "drift",
        help="how images of another place differ from those known",
        description="How the radiographs of a folder differ from those that the networks were "
        "chosen on (validation): sizes, intensity, distance from the training images, predicted "
        "prevalence. Needs no labels. Writes a page and JSON, which name no file.",
        epilog=f"{RULE} Exit code: 0, {NO_DRIFT}, which does not show that the predictions are "
        "correct; 1, an error, unreadable files, or too few images; 2, invalid arguments; 3, "
        f"{SIGNIFICANT}.",
    )
    command.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    _add_variant(command)
    _add_models(command)
    _add_into(command, DRIFT, "for index.html and drift.json")
    command.set_defaults(run=run_drift)


def _add_evaluate(commands: Commands) -> None:
    command = commands.add_parser(
        "evaluate",
        help="metrics, intervals and plots of every network on a folder of labelled images",
        description="Metrics, 95 % intervals and plots of every network on the JPEG, PNG and DICOM "
        "files in FOLDER/NORMAL and FOLDER/PNEUMONIA, as the pipeline makes them of its own test. "
        "Thresholds are those that were chosen on its validation. Not for clinical use.",
        epilog="Exit code: 0, all images were read; 1, some were not (the others are evaluated), "
        "or an error; 2, wrong arguments.",
    )
    command.add_argument("folder", type=Path, metavar="FOLDER")
    command.add_argument(
        "--patients",
        type=Path,
        metavar="FILE",
        help="CSV with a row for each image: file (relative to FOLDER) and patient; default: names "
        "in the published data set's form tell the patient, any other image is one of its own",
    )
    command.add_argument(
        "--prevalence",
        type=_share,
        metavar="SHARE",
        help="of ill patients where the networks would be used, between 0 and 1, for the "
        "predictive values; default: evaluate.prevalence of the training",
    )
    _add_models(command)
    _add_into(command, EVALUATED, "for the results; an earlier evaluation there is replaced")
    command.set_defaults(run=run_evaluate)


def _add_export(commands: Commands) -> None:
    command = commands.add_parser(
        "export",
        help="a variant as ONNX, or in 8-bit integers",
        description="Write a trained variant, of the ensemble each member, in another format. Run "
        "it in the project's folder, after `dvc repro`. --onnx: converted by Keras, kept if the "
        "outputs for 64 validation images are within 1e-4 of Keras's; needs cxr[onnx]. --int8: "
        "OpenVINO files quantized by NNCF on 200 training images, kept if validation recall at the "
        "operating point falls little; needs cxr[onnx].",
        epilog="Exit code: 0, the files were written; 1, an error, or they were not kept; 2, wrong "
        "arguments.",
    )
    command.add_argument("--onnx", action="store_true", help="write <network>.onnx")
    command.add_argument("--int8", action="store_true", help="write <network>_int8.xml and .bin")
    command.add_argument(
        "--max-recall-drop",
        type=_fraction,
        default=0.002,
        metavar="SHARE",
        help="of --int8: largest fall of validation recall, 0 to 1; default: %(default)s",
    )
    _add_variant(command)
    _add_models(command)
    _add_into(command, CONVERTED, "for the files")
    command.set_defaults(run=run_export)


def _add_variant(command: argparse.ArgumentParser) -> None:
    command.add_argument("--variant", default="", help="its name; default: the recommended one")


def _add_models(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--models",
        type=Path,
        default=paths.EXPORTED,
        metavar="FOLDER",
        help="that the stage export wrote; default: %(default)s",
    )


def _add_into(command: argparse.ArgumentParser, default: Path, what: str) -> None:
    command.add_argument(
        "--into",
        type=Path,
        default=default,
        metavar="FOLDER",
        help=f"{what}; default: %(default)s",
    )


def _share(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) < 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")


def _fraction(text: str) -> float:
    with suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")


def _listed(paths: list[Path]) -> Listing:
    """The radiographs that are named, at least one, and what is skipped."""
    found = list_radiographs(paths)
    if not found.files:
        raise CxrError(f"no JPEG, PNG or DICOM file in {_named(paths)}{_instead(found.skipped)}")
    return found


def _instead(skipped: dict[Path, str]) -> str:
    """For an error; empty: nothing was skipped."""
    named = [f"{file} ({reason})" for file, reason in _shown(skipped).items()]
    return f". Skipped: {', '.join(shortened(named, NAMED))}" if named else ""


def _shown(skipped: dict[Path, str]) -> dict[str, str]:
    """Paths that are safe to print, with the reasons."""
    return {printable(PurePosixPath(file)): reason for file, reason in skipped.items()}


def _named(paths: list[Path]) -> str:
    return ", ".join(map(str, paths))


def run_serve(arguments: argparse.Namespace) -> None:
    """Serve until Ctrl-C."""
    with extra("serve", "cxr serve"):
        from cxr.inference.serve import serve  # only here: the web libraries take a second

    serve(arguments.host, arguments.port, arguments.models, arguments.variant)


def run_predict(arguments: argparse.Namespace) -> None:
    """Answer each file; those without an answer do not stop the others."""
    listing = _listed(arguments.paths)
    predictor = Predictor(arguments.models, arguments.variant)
    explain = explainer(predictor, arguments.into) if arguments.explain else None
    failed: list[str] = []

    def results() -> Iterator[Result]:
        for file, found in predict(predictor, listing.files):
            result = _result(file, found, explain)
            if result.error:
                failed.append(result.error)
            yield result

    FORMATS[arguments.format](predictor, results(), _shown(listing.skipped))
    if listing.skipped:
        print(f"{len(listing.skipped)} files or folders were skipped", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(listing.files)} files could not be read", file=sys.stderr)
        sys.exit(FAILED)


def run_drift(arguments: argparse.Namespace) -> None:
    """Compare folders, taken together, with the reference; the exit code is the result."""
    from cxr.inference import drift_report  # only here: it imports Matplotlib

    drift_report.check_replaceable(arguments.into)
    for folder in arguments.folders:
        if not folder.is_dir():
            raise CxrError(f"{folder} is no folder; name folders of radiographs")
    listing = _listed(arguments.folders)
    predictor = Predictor(arguments.models, arguments.variant)
    reference = read_reference(arguments.models, predictor.variant)
    here, errors = drift_report.measure(predictor, listing.files)
    for file, reason in _shown(listing.skipped).items():
        print(f"skipped: {file}: {reason}", file=sys.stderr)
    for error in errors:
        print(f"cannot be read: {error}", file=sys.stderr)
    if here.empty:
        raise CxrError(
            f"none of the {len(listing.files)} files in {_named(arguments.folders)} could be read"
        )
    found = drift_report.summary(predictor, reference, here, len(errors), len(listing.skipped))
    drift_report.write(arguments.into, found, reference, here)
    print(
        f"variant {predictor.variant}, {len(here)} images, {len(errors)} could not be read, "
        f"{len(listing.skipped)} files or folders skipped"
    )
    print(drift_report.table(found).to_string(index=False))
    print(f"{drift_report.verdict_text(found)}\nmore in {arguments.into / drift_report.PAGE}")
    if found["flagged"]:
        sys.exit(NO_TRUST)
    if errors or found["verdict"] == TOO_FEW:
        sys.exit(FAILED)


def run_evaluate(arguments: argparse.Namespace) -> None:
    """Evaluate a folder; images that cannot be read do not stop the others."""
    from cxr.inference import external_report, external_validation, labeled_folder

    into = arguments.into.resolve()
    external_validation.check_replaceable(into)
    source = labeled_folder.find(arguments.folder, arguments.patients)
    networks = external_validation.AllVariants(arguments.models)
    with replacing(into) as part:
        part.mkdir()
        found = external_validation.evaluate(networks, source, arguments.prevalence)
        external_validation.write(found, part)
        external_report.write(found, part)
    print(external_report.short(found))
    print(f"\nAll of it: {into / 'index.html'}")
    if source.untold:
        print(
            f"nothing tells the patients of {source.untold} of {len(source.images)} images: each "
            "counts as a patient of its own; --patients names a table that tells them",
            file=sys.stderr,
        )
    for table in (found.left_out, source.elsewhere):
        for row in table.itertuples():
            print(f"left out: {row.file}: {row.reason}", file=sys.stderr)
    if found.unreadable:
        print(
            f"{found.unreadable} of {len(source.images)} images could not be read", file=sys.stderr
        )
        sys.exit(FAILED)


def run_export(arguments: argparse.Namespace) -> None:
    """Write what was asked for, and say what it costs."""
    if not (arguments.onnx or arguments.int8):
        raise CxrError("name a format: --onnx, --int8 or both")
    from cxr.inference import formats  # only here: prediction needs none of its imports

    predictor = Predictor(arguments.models, arguments.variant)
    if arguments.onnx:
        for file in formats.write_onnx(predictor, arguments.into):
            print(f"{file}: within 1e-4 of Keras")
    if arguments.int8:
        found = formats.write_int8(
            predictor, arguments.models, arguments.into, arguments.max_recall_drop
        )
        for name, before in found.before.items():
            print(f"{name} on validation: {before:.4f} before, {found.after[name]:.4f} with int8")
        print("MB: {:.1f} before, {:.1f} with int8".format(*found.megabytes))
        if not found.files:
            raise CxrError(
                f"recall falls by more than {arguments.max_recall_drop:g}: the int8 files were not "
                "kept; --max-recall-drop allows more"
            )
        for file in found.files:
            print(file)


@dataclass(frozen=True)
class Result:
    """A file with its answer, or with the error for which there is none.

    Attributes:
        file: its path, safe to print.
        answer: None: there is an error.
        picture: path of what --explain wrote, likewise; empty: nothing.
        error: empty: there is an answer.
    """

    file: str
    answer: ImagePrediction | None = None
    picture: str = ""
    error: str = ""


def _result(file: Path, found: ImagePrediction | str, explain: Explain | None) -> Result:
    name = printable(PurePosixPath(file))
    if isinstance(found, str):
        return Result(name, error=found)
    try:
        return Result(name, found, printable(PurePosixPath(explain(file))) if explain else "")
    except ImageError as error:  # for the picture it is read once more
        return Result(name, error=error_message(error, file))


def explainer(predictor: Predictor, into: Path) -> Explain:
    """A function that writes the picture of a file, under a name that is not taken yet."""
    import imageio.v3 as iio

    with extra("train", "--explain"):
        from cxr.inference.gradcam import Explainer  # only here: it imports TensorFlow

    explainer = Explainer(predictor.trained, predictor.members)
    taken: set[str] = set()

    def explain(file: Path) -> Path:
        own = file.stem if file.suffix.lower() in SUFFIXES else file.name
        name = next(name for name in _names(own) if name not in taken)
        taken.add(name)
        overlay = explainer.overlay(predictor.prepared(predictor.read(file)))
        picture = into / f"{name}{EXPLAINED}"  # no radiograph is called so: none is replaced
        with replacing(picture) as part:
            part.write_bytes(iio.imwrite("<bytes>", overlay, extension=".png", plugin="pillow"))
        return picture

    return explain


def _names(stem: str) -> Iterator[str]:
    """A file's name, for files of one name with numbers."""
    yield stem
    yield from (f"{stem}-{number}" for number in count(2))


def as_table(predictor: Predictor, results: Iterable[Result], skipped: dict[str, str]) -> None:
    """A line for each file as soon as it is answered, warnings below it; then what was skipped."""
    print(f"variant {predictor.variant}, PNEUMONIA from {predictor.threshold:.3f}")
    print("probability  decision   confidence  file")
    for result in results:
        if (found := result.answer) is None:
            print(f"{'-':>11}  {'ERROR':9}  {'-':>10}  {result.error}", flush=True)
            continue
        numbers = f"{found.probability:11.3f}  {found.decision:9}  {found.confidence:10.3f}"
        print(f"{numbers}  {result.file}", flush=True)
        for warning in found.warnings:
            print(f"{'':36}WARNING: {warning}")
        if result.picture:
            print(f"{'':36}explained: {result.picture}")
    for file, reason in skipped.items():
        print(f"{'-':>11}  {'skipped':9}  {'-':>10}  {file}: {reason}")


def as_csv(predictor: Predictor, results: Iterable[Result], skipped: dict[str, str]) -> None:
    """A row for each file; several warnings in one field, separated by semicolons. Of a skipped
    file only `file` and `skipped`, the reason, are filled.
    """
    writer = csv.DictWriter(sys.stdout, (*COLUMNS, "skipped"), lineterminator="\n")
    writer.writeheader()
    for row in map(_row, results):
        writer.writerow(row | {"warnings": "; ".join(row["warnings"])})
    for file, reason in skipped.items():
        writer.writerow({"file": file, "skipped": reason})


def as_json(predictor: Predictor, results: Iterable[Result], skipped: dict[str, str]) -> None:
    """One document: variant, threshold, `images`, each with the keys of `COLUMNS`, and `skipped`,
    each with `file` and `reason`.
    """
    document = {
        "variant": predictor.variant,
        "threshold": predictor.threshold,
        "images": list(map(_row, results)),
        "skipped": [{"file": file, "reason": reason} for file, reason in skipped.items()],
    }
    print(json.dumps(document, indent=2))


FORMATS = {"table": as_table, "csv": as_csv, "json": as_json}


def _row(result: Result) -> dict[str, Any]:
    empty: dict[str, Any] = dict.fromkeys(COLUMNS) | {"warnings": ()}
    known = asdict(result.answer) if result.answer else {"error": result.error}
    return empty | {"file": result.file, "picture": result.picture or None} | known


if __name__ == "__main__":
    main()
