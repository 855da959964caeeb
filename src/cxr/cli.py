"""`cxr`: use the trained models."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from cxr import paths, quiet
from cxr.common.files import replacing
from cxr.errors import CxrError, catch_every_interrupt, extra, run_stage, shortened
from cxr.export.drift import RULE, TOO_FEW, read_reference
from cxr.inference import output
from cxr.inference.predict import Listing, Predictor, list_radiographs

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

MAX_NAMED = 3  # skipped files in an error
HEATMAPS = Path("explained")
EVALUATED = Path("evaluated")
DRIFT = Path("drift")
CONVERTED = Path("models/converted")
FAILED = 1  # exit code: an error, or at least one file could not be read
DRIFT_FOUND = 3  # exit code of `cxr drift`: re-evaluate before use


def main() -> None:
    catch_every_interrupt()
    quiet.install()
    arguments = parser().parse_args()
    run_stage(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    """Run a command; exit without a traceback if standard output is closed (`... | head`)."""
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still buffered
        sys.exit(FAILED)


# --- parser --------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The command-line parser with all help texts."""
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
        help="predict NORMAL or PNEUMONIA for radiographs",
        description="Predict NORMAL or PNEUMONIA for JPEG, PNG and DICOM files, at the operating "
        "point that was chosen on the tuning set. Not for clinical use.",
        epilog="Exit code: 0, every file has a prediction; 1, some files could not be read, or an "
        "error; 2, invalid arguments.",
    )
    command.add_argument("paths", nargs="+", type=Path, metavar="FILE_OR_FOLDER")
    _add_variant(command)
    _add_models(command)
    command.add_argument(
        "--format", default="table", choices=output.FORMATS, help="default: %(default)s"
    )
    command.add_argument(
        "--explain",
        action="store_true",
        help="also write a Grad-CAM heatmap for PNEUMONIA as PNG for each image, whatever the "
        "decision",
    )
    _add_into(command, HEATMAPS, "folder for the heatmaps of --explain, which show the radiographs")
    command.set_defaults(run=run_predict)


def _add_serve(commands: Commands) -> None:
    command = commands.add_parser(
        "serve",
        help="serve a local web page and JSON API for predictions",
        description="Serve a web page and a JSON API (described by /openapi.json) for predictions "
        "on JPEG, PNG and DICOM files, until Ctrl-C. Files are processed in memory and not stored. "
        "Not for clinical use.",
        epilog="Exit code: 0, ended by Ctrl-C; 1, an error; 2, invalid arguments.",
    )
    _add_variant(command)
    _add_models(command)
    command.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; default: %(default)s, which no other machine can reach",
    )
    command.add_argument(
        "--port", type=int, default=8000, help="0: any free port; default: %(default)s"
    )
    command.set_defaults(run=run_serve)


def _add_drift(commands: Commands) -> None:
    command = commands.add_parser(
        "drift",
        help="compare images of another site with the validation images",
        description="Compare radiographs with the validation images: size, intensity, distance "
        "from the training images, predicted prevalence. Needs no labels. Writes a page and JSON, "
        "which contain no file names.",
        epilog=f"{RULE} Exit code: 0, no significant drift, which does not show that the "
        "predictions are right; 1, an error, unreadable files, or too few images; 2, invalid "
        "arguments; 3, significant drift: re-evaluate before use.",
    )
    command.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    _add_variant(command)
    _add_models(command)
    _add_into(command, DRIFT, "folder for index.html and drift.json")
    command.set_defaults(run=run_drift)


def _add_evaluate(commands: Commands) -> None:
    command = commands.add_parser(
        "evaluate",
        help="evaluate every variant on labeled images: metrics, 95 %% CIs, plots",
        description="Metrics, 95 % CIs and plots of every variant on the JPEG, PNG and DICOM files "
        "in FOLDER/NORMAL and FOLDER/PNEUMONIA, computed as for the pipeline's own test split. "
        "Thresholds are those chosen on the tuning set. Not for clinical use.",
        epilog="Exit code: 0, every image was read; 1, some were not (the others are evaluated), "
        "or an error; 2, invalid arguments.",
    )
    command.add_argument("folder", type=Path, metavar="FOLDER")
    command.add_argument(
        "--patients",
        type=Path,
        metavar="FILE",
        help="CSV with a row for each image: file (relative to FOLDER) and patient; default: file "
        "names in the form of the published data set identify the patient, and any other image "
        "counts as a patient",
    )
    command.add_argument(
        "--prevalence",
        type=_prevalence,
        metavar="FRACTION",
        help="disease prevalence in the target population, between 0 and 1, for the predictive "
        "values; default: evaluate.prevalence of the training run",
    )
    _add_models(command)
    _add_into(command, EVALUATED, "folder for the results; replaces an earlier evaluation there")
    command.set_defaults(run=run_evaluate)


def _add_export(commands: Commands) -> None:
    command = commands.add_parser(
        "export",
        help="convert a variant to ONNX or int8",
        description="Convert a trained variant (each member of the ensemble) to another format. "
        "Run it in the project's folder, after `dvc repro`. --onnx: exported by Keras, kept if the "
        "outputs for 64 validation images agree with Keras to 1e-4. --int8: OpenVINO IR quantized "
        "by NNCF on 200 training images, kept if recall on validation at the operating point drops "
        "by at most --max-recall-drop. Both need cxr[onnx].",
        epilog="Exit code: 0, the files were written; 1, an error, or they were not kept; 2, "
        "invalid arguments.",
    )
    command.add_argument("--onnx", action="store_true", help="write <network>.onnx")
    command.add_argument("--int8", action="store_true", help="write <network>_int8.xml and .bin")
    command.add_argument(
        "--max-recall-drop",
        type=_fraction,
        default=0.002,
        metavar="FRACTION",
        help="maximum drop in validation recall for the int8 model to be kept, from 0 to 1; "
        "default: %(default)s",
    )
    _add_variant(command)
    _add_models(command)
    _add_into(command, CONVERTED, "folder for the files")
    command.set_defaults(run=run_export)


def _add_variant(command: argparse.ArgumentParser) -> None:
    command.add_argument("--variant", default="", help="default: the recommended variant")


def _add_models(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--models",
        type=Path,
        default=paths.EXPORTED,
        metavar="FOLDER",
        help="folder of exported models; default: %(default)s",
    )


def _add_into(command: argparse.ArgumentParser, default: Path, what: str) -> None:
    command.add_argument(
        "--into",
        type=Path,
        default=default,
        metavar="FOLDER",
        help=f"{what}; default: %(default)s",
    )


def _prevalence(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) < 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")


def _fraction(text: str) -> float:
    with suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")


# --- commands ------------------------------------------------------------------------------------


def run_predict(arguments: argparse.Namespace) -> None:
    """Predict each file; unreadable files do not stop the others."""
    listing = _listed(arguments.paths)
    predictor = Predictor(arguments.models, arguments.variant)
    writer = output.heatmap_writer(predictor, arguments.into) if arguments.explain else None
    failed: list[str] = []

    def rows() -> Iterator[output.Row]:
        for row in output.rows(predictor, listing.files, writer):
            if row["error"]:
                failed.append(row["error"])
            yield row

    skipped = output.printable_skipped(listing.skipped)
    output.FORMATS[arguments.format](predictor, rows(), skipped)
    if skipped:
        print(f"{len(skipped)} files or folders were skipped", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(listing.files)} files could not be read", file=sys.stderr)
        sys.exit(FAILED)


def run_serve(arguments: argparse.Namespace) -> None:
    """Serve until Ctrl-C."""
    with extra("serve", "cxr serve"):
        from cxr.inference.serve import serve  # only here: the web libraries take a second

    serve(arguments.host, arguments.port, arguments.models, arguments.variant)


def run_drift(arguments: argparse.Namespace) -> None:
    """Compare the images of all folders with the reference; the exit code is the result."""
    from cxr.inference import drift_report  # only here: it imports Matplotlib

    drift_report.check_replaceable(arguments.into)
    for folder in arguments.folders:
        if not folder.is_dir():
            raise CxrError(f"{folder} is not a directory; name folders of radiographs")
    listing = _listed(arguments.folders)
    predictor = Predictor(arguments.models, arguments.variant)
    reference = read_reference(arguments.models, predictor.variant)
    here, errors = drift_report.measure(predictor, listing.files)
    for file, reason in output.printable_skipped(listing.skipped).items():
        print(f"skipped: {file}: {reason}", file=sys.stderr)
    for error in errors:
        print(f"cannot be read: {error}", file=sys.stderr)
    if here.empty:
        raise CxrError(
            f"none of the {len(listing.files)} files in {_joined(arguments.folders)} can be read"
        )
    found = drift_report.summary(predictor, reference, here, len(errors), len(listing.skipped))
    drift_report.write(arguments.into, found, reference, here)
    print(
        f"variant {predictor.variant}, {len(here)} images, {len(errors)} could not be read, "
        f"{len(listing.skipped)} files or folders skipped"
    )
    print(drift_report.table(found).to_string(index=False))
    print(f"{drift_report.verdict_text(found)}\nreport: {arguments.into / drift_report.PAGE}")
    if found.flagged:
        sys.exit(DRIFT_FOUND)
    if errors or found.verdict == TOO_FEW:
        sys.exit(FAILED)


def run_evaluate(arguments: argparse.Namespace) -> None:
    """Evaluate a folder; unreadable images do not stop the others."""
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
    print(f"\nreport: {into / 'index.html'}")
    if source.unknown_patients:
        print(
            f"patients unknown for {source.unknown_patients} of {len(source.images)} images: each "
            "of these counts as a patient; --patients names a table of patients",
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
    """Write the requested formats and print what they cost."""
    if not (arguments.onnx or arguments.int8):
        raise CxrError("name a format: --onnx, --int8 or both")
    from cxr.inference import formats  # only here: prediction needs none of its imports

    predictor = Predictor(arguments.models, arguments.variant)
    if arguments.onnx:
        for file in formats.write_onnx(predictor, arguments.into):
            print(f"{file}: agrees with Keras to 1e-4")
    if arguments.int8:
        found = formats.write_int8(
            predictor, arguments.models, arguments.into, arguments.max_recall_drop
        )
        for name, before in found.before.items():
            print(f"{name} on validation: {before:.4f} before, {found.after[name]:.4f} with int8")
        print("MB: {:.1f} before, {:.1f} with int8".format(*found.megabytes))
        if not found.files:
            raise CxrError(
                f"recall drops by more than {arguments.max_recall_drop:g}, so the int8 files were "
                "not kept; --max-recall-drop sets the limit"
            )
        for file in found.files:
            print(file)


def _listed(paths: list[Path]) -> Listing:
    """Radiographs at the given paths.

    Raises:
        CxrError: there are none.
    """
    found = list_radiographs(paths)
    if not found.files:
        skipped = output.printable_skipped(found.skipped)
        named = [f"{file} ({reason})" for file, reason in skipped.items()]
        instead = f". Skipped: {', '.join(shortened(named, MAX_NAMED))}" if named else ""
        raise CxrError(f"no JPEG, PNG or DICOM file in {_joined(paths)}{instead}")
    return found


def _joined(paths: list[Path]) -> str:
    return ", ".join(map(str, paths))


if __name__ == "__main__":
    main()
