"""`cxr evaluate` computes what the pipeline computes, by small networks on synthetic images."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr import cli
from cxr.common.names import LABELS, TRAINED, VARIANTS
from cxr.errors import CxrError
from cxr.evaluation import metrics, predictions
from cxr.evaluation.bootstrap import bootstrap_intervals
from cxr.evaluation.calibration import mean_of_calibrated
from cxr.export.settings import FILE, VariantSettings
from cxr.inference import external_report, external_validation, labeled_folder
from cxr.inference.predict import Prediction, Predictor, predict
from tests.support.tiny import export

COLUMNS = dict(zip(TRAINED, ((0, 32), (0, 16), (16, 32), (8, 24)), strict=True))
MEMBERS = {
    "transfer": {"slope": 2.0, "intercept": -0.5},
    "finetuned": {"slope": 1.0, "intercept": 0.3},
}
PREVALENCE = 0.2


def known() -> pd.DataFrame:
    """Predictions of a tuning set, on which operating points are chosen."""
    rng = np.random.default_rng(5)
    label = np.tile(LABELS, 30)
    shift = np.where(label == "PNEUMONIA", 0.6, 0.4)
    table = pd.DataFrame({"label": label, "split": np.repeat(["val", "stress", "val"], 20)})
    table["condition"] = table["split"].where(table["split"] == "stress", "plain")
    for name in TRAINED:
        table[name] = np.clip(shift + rng.normal(0, 0.1, 60), 0.01, 0.99)
    return table.assign(
        ensemble=mean_of_calibrated({m: table[m].to_numpy() for m in MEMBERS}, MEMBERS)
    )


def evaluated(test: pd.DataFrame) -> dict:
    """Result of the stage evaluate for a table of test predictions."""
    return predictions.evaluate(pd.concat([known(), test]), 0.9, PREVALENCE)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    scale = {"slope": 2.0, "intercept": -1.0}
    thresholds = evaluated(known().assign(split="test")).thresholds
    variants = {
        variant: VariantSettings(
            threshold=thresholds[variant],
            scale=scale,
            members=MEMBERS if variant == "ensemble" else {},
        )
        for variant in VARIANTS
    }
    evaluate = {"min_recall": 0.9, "prevalence": PREVALENCE, "n_bootstrap": 100}
    export(folder, COLUMNS, variants, "finetuned", **evaluate)
    return folder


NAMES = {"NORMAL": "IM-{patient:04}-{image:04}", "PNEUMONIA": "person{patient}_virus_{image}"}


def draw(folder: Path, seed: int = 0) -> Path:
    """Twelve images of each class, of nine patients each, with file names as published; one class
    is lighter, and the left and right of an image differ.
    """
    rng = np.random.default_rng(seed)
    for label, level in zip(LABELS, (110, 140), strict=True):
        (folder / label / "ward").mkdir(parents=True)
        for number in range(12):
            pixels = np.tile(rng.normal(level, 25, 40), (40, 1)).clip(0, 255).astype(np.uint8)
            name = NAMES[label].format(patient=number % 9, image=number)
            below = "ward" if number > 9 else ""
            iio.imwrite(folder / label / below / f"{name}.png", pixels)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return draw(tmp_path / "hospital")


def command(*arguments: object) -> None:
    parsed = cli.parser().parse_args(["evaluate", *map(str, arguments)])
    parsed.run(parsed)


@pytest.fixture
def evaluate(exported: Path, folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Runs the command for `folder`; returns the folder of the results."""

    def run(*arguments: object) -> Path:
        command(folder, "--models", exported, "--into", tmp_path / "evaluated", *arguments)
        return tmp_path / "evaluated"

    return run


def data_of(result: Path) -> dict:
    return json.loads((result / "metrics.json").read_text())["data"]


@pytest.fixture(scope="module")
def result(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of the command for `draw`; read-only."""
    base = tmp_path_factory.mktemp("result")
    command(draw(base / "hospital"), "--models", exported, "--into", base / "evaluated")
    return base / "evaluated"


def table_of(result: Path) -> pd.DataFrame:
    return pd.read_csv(result / "predictions.csv", float_precision="round_trip")


# --- metrics -------------------------------------------------------------------------------------


def test_probabilities_are_those_of_predict(exported: Path, tmp_path: Path) -> None:
    folder = draw(tmp_path / "hospital", seed=3)
    command(folder, "--models", exported, "--into", tmp_path / "evaluated")
    table = table_of(tmp_path / "evaluated")
    assert len(table) == 24
    for variant in VARIANTS:
        predictor = Predictor(exported, variant)
        found = [one for _, one in predict(predictor, [folder / f for f in table["file"]])]
        assert all(isinstance(one, Prediction) for one in found)
        expected = [one.probability for one in found]
        np.testing.assert_allclose(table[variant], expected, atol=1e-12)
        assert table[variant].nunique() > 20


def test_metrics_are_those_of_the_pipeline(result: Path) -> None:
    found = json.loads((result / "metrics.json").read_text())
    expected = evaluated(table_of(result).assign(split="test"))
    for variant in VARIANTS:
        assert found[variant]["at_half"] == dict(expected.variants[variant].test)
        point = expected.variants[variant].operating_point
        rates = dict(point.test)
        assert found[variant]["operating_point"] == rates | {"threshold": point.threshold}
    assert found["majority"] == dict(expected.majority.test)
    assert found["finetuned"]["at_half"] != found["baseline"]["at_half"]


def test_intervals_and_plots_are_those_of_the_pipeline_byte_for_byte(result: Path) -> None:
    test = table_of(result).assign(split="test")
    thresholds = evaluated(test).thresholds
    expected = bootstrap_intervals(test, thresholds, PREVALENCE, 100).model_dump()
    text = json.dumps(expected, indent=2, allow_nan=False) + "\n"
    assert (result / "intervals.json").read_text() == text
    plots = {**metrics.curves(test), "confusion": metrics.confusions(test, thresholds)}
    for name, plot in plots.items():
        expected = plot.to_csv(index=False, lineterminator="\n")
        assert (result / "plots" / f"{name}.csv").read_text() == expected


def test_prevalence_can_be_set(evaluate: Callable[..., Path]) -> None:
    into = evaluate("--prevalence", 0.5)
    found = json.loads((into / "metrics.json").read_text())
    point = found["baseline"]["operating_point"]
    positive = point["recall"] + 1 - point["specificity"]
    assert point["ppv"] == pytest.approx(point["recall"] / positive)
    assert "at 50 % prevalence (`--prevalence`)" in (into / "report.md").read_text()


@pytest.mark.parametrize("value", ["0", "1", "-0.1", "nan", "half"])
def test_a_prevalence_is_between_0_and_1(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.parser().parse_args(["evaluate", "folder", f"--prevalence={value}"])
    assert caught.value.code == 2
    assert "is not between 0 and 1" in capsys.readouterr().err


# --- patients ------------------------------------------------------------------------------------


def test_published_file_names_identify_patients(folder: Path) -> None:
    found = labeled_folder.find(folder)
    assert found.images.groupby("label")["patient"].nunique().to_dict() == dict.fromkeys(LABELS, 9)
    assert (found.unknown_patients, found.patient_source) == (0, "")
    names = found.images.set_index("file")["patient"]
    assert names["NORMAL/ward/IM-0002-0011.png"] == names["NORMAL/IM-0002-0002.png"] == "IM-0002"


def test_any_other_image_counts_as_a_patient(evaluate: Callable[..., Path], folder: Path) -> None:
    (folder / "NORMAL/IM-0000-0009.png").rename(folder / "NORMAL/a.png")
    (folder / "NORMAL/IM-0000-0000.png").rename(folder / "NORMAL/b.png")
    into = evaluate()
    data, page = data_of(into), (into / "report.md").read_text()
    assert (data["images"], data["patients"], data["NORMAL"]["patients"]) == (24, 19, 10)
    assert "24 images (12 NORMAL, 12 PNEUMONIA) of 19 patients" in page
    assert "The patients of 2 image(s) are unknown" in page
    assert "The file names identify the patients of 22 image(s)" in page


def rows_of(folder: Path) -> pd.DataFrame:
    files = labeled_folder.find(folder).images["file"]
    return pd.DataFrame({"file": files, "patient": [f"p{n // 2}" for n in range(len(files))]})


def test_a_table_identifies_patients(
    evaluate: Callable[..., Path], folder: Path, tmp_path: Path
) -> None:
    table = tmp_path / "whose.csv"
    rows = rows_of(folder).sample(frac=1, random_state=1).assign(ward="west")
    rows["file"] = "./" + rows["file"]
    rows.to_csv(table, index=False, encoding="utf-8-sig")
    into = evaluate("--patients", table)
    written = table_of(into)
    assert dict(zip(written["file"], written["patient"], strict=True)) == dict(
        zip(*rows_of(folder).to_numpy().T, strict=True)
    )
    page = (into / "report.md").read_text()
    assert "of 12 patients" in page and "given by `--patients` identifies the patients" in page
    assert json.loads((into / "intervals.json").read_text())["positive_patients"] == 6


@pytest.mark.parametrize(
    ("kept", "error"),
    [
        (slice(1, None), r".*\n.*without a row: NORMAL/IM-0000-0000\.png\n"),
        (slice(0), "has no rows"),
    ],
    ids=["lacks a row", "no rows"],
)
def test_a_table_that_does_not_match_is_refused(
    folder: Path, tmp_path: Path, kept: slice, error: str
) -> None:
    table = tmp_path / "whose.csv"
    rows_of(folder)[kept].to_csv(table, index=False)
    with pytest.raises(CxrError, match=rf"whose\.csv {error}"):
        labeled_folder.find(folder, table)


# --- the folder ----------------------------------------------------------------------------------


def without(folder: Path, label: str) -> None:
    for file in (folder / label).rglob("*.png"):
        file.unlink()


def test_both_classes_are_required(folder: Path, tmp_path: Path) -> None:
    without(folder, "NORMAL")
    (folder / "NORMAL/notes.txt").write_text("of patients")
    (folder / "BACTERIA").mkdir()
    Image.new("L", (40, 40)).save(folder / "BACTERIA/1.png")
    with pytest.raises(
        CxrError, match=r"contains no NORMAL image: put .* into .*/NORMAL and"
    ) as error:
        labeled_folder.find(folder)
    assert "NORMAL/notes.txt (not a JPEG, PNG or DICOM file)" in str(error.value)
    assert "BACTERIA/1.png" in str(error.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CxrError, match="contains no NORMAL image"):
        labeled_folder.find(tmp_path / "empty")
    with pytest.raises(CxrError, match="none is not a directory"):
        labeled_folder.find(folder / "none")


def test_a_class_without_a_readable_image(
    evaluate: Callable[..., Path], folder: Path, tmp_path: Path
) -> None:
    without(folder, "PNEUMONIA")
    (folder / "PNEUMONIA/1.png").write_bytes(b"no image")
    with pytest.raises(CxrError, match=r"no PNEUMONIA image of .* PNEUMONIA/1.png: cannot ident"):
        evaluate()
    assert [path.name for path in tmp_path.iterdir()] == ["hospital"]


def test_one_file_in_both_classes_is_an_error(folder: Path) -> None:
    content = (folder / "NORMAL/IM-0000-0000.png").read_bytes()
    (folder / "PNEUMONIA/copy.png").write_bytes(content)
    with pytest.raises(CxrError, match=r"NORMAL/IM-0000-0000.png = PNEUMONIA/copy.png\. Remove"):
        labeled_folder.find(folder)


def test_duplicates_and_files_elsewhere_are_reported(
    evaluate: Callable[..., Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for copy in ("NORMAL/copy.png", "elsewhere.png", "VIRUS/other.png"):
        (folder / copy).parent.mkdir(exist_ok=True)
        (folder / copy).write_bytes((folder / "NORMAL/IM-0000-0000.png").read_bytes())
    into = evaluate()
    data, page = data_of(into), (into / "report.md").read_text()
    assert "1 image(s) are duplicate files" in page
    assert "2 file(s) or folder(s) outside of the classes' folders" in page
    assert "25 images (13 NORMAL" in page
    assert (data["elsewhere"], data["copies"], data["unknown_patients"]) == (2, 1, 1)
    errors = capsys.readouterr().err.splitlines()
    assert "left out: VIRUS/other.png: not in a class folder" in errors


def test_every_file_of_a_class_is_evaluated_or_counted(
    evaluate: Callable[..., Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name in enumerate(("a.jfif", "b.JPE", "c.img", "DOE.JOHN")):
        (folder / f"NORMAL/IM-000{number}-000{number}.png").rename(folder / "NORMAL" / name)
    (folder / "NORMAL").rename(folder / "Normal")
    for name in ("notes.txt", ".hidden.png"):
        (folder / "PNEUMONIA" / name).write_bytes(b"")
    into = evaluate()
    data, page = data_of(into), (into / "report.md").read_text()
    assert (data["NORMAL"]["images"], data["PNEUMONIA"]["images"]) == (12, 12)
    assert (data["left_out"], data["unreadable"]) == (2, 0)
    assert pd.read_csv(into / "left_out.csv").to_dict("list") == {
        "file": ["PNEUMONIA/.hidden.png", "PNEUMONIA/notes.txt"],
        "reason": ["hidden", "not a JPEG, PNG or DICOM file"],
    }
    assert "2 file(s) or folder(s) among them were skipped" in page
    assert "left out: PNEUMONIA/.hidden.png: hidden" in capsys.readouterr().err


def test_empty_files_are_not_duplicates(folder: Path) -> None:
    for label in LABELS:
        (folder / label / "empty.png").write_bytes(b"")
        (folder / label / "a link to nothing.png").symlink_to("nothing")
    found = labeled_folder.find(folder)
    assert found.duplicates == 0 and len(found.images) == 28


# --- the results ---------------------------------------------------------------------------------


def test_the_page_contains_no_file_names_and_loads_nothing(result: Path) -> None:
    page = (result / "index.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 6
    assert not re.search(r"<script|@import|url\(|<link(?! rel=\"icon\")", page)
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(source.startswith(("data:", "#")) for source in sources)
    for text in (page, (result / "report.md").read_text()):
        assert not re.search(r"IM-\d|person\d|hospital", text)
        assert "Not for clinical use" in text
        assert "Few patients: 9 with NORMAL and 9 with PNEUMONIA" in text


def test_output_files(result: Path) -> None:
    assert {file.name for file in result.iterdir()} == external_validation.OUTPUTS
    tables = {f"{name}.csv" for name in ("roc", "precision_recall", "confusion")}
    pictures = {"intervals", "roc", "precision_recall", "confusion", "thresholds", "calibration"}
    assert {file.name for file in (result / "plots").iterdir()} == tables | {
        f"{name}.svg" for name in pictures
    }
    assert list(table_of(result)) == ["file", "patient", "label", *VARIANTS, "warnings"]


def test_enough_patients_give_no_caution(
    evaluate: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external_report, "MIN_PATIENTS", 9)
    assert "Caution" not in (evaluate() / "report.md").read_text()


def test_warnings_are_counted_by_class(evaluate: Callable[..., Path], folder: Path) -> None:
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 100)).astype(np.uint8)
        iio.imwrite(folder / f"NORMAL/IM-0100-000{number}.png", pixels)
    into = evaluate()
    page = (into / "report.md").read_text()
    assert re.search(
        r"width / height is outside the training range, 0.80 to 2.00.* \| 3 \(20 %\) *\| 0 \(0 %\)",
        page,
    )
    warned = table_of(into).query("warnings.notna()")
    assert list(warned["file"].str[:14]) == ["NORMAL/IM-0100"] * 3


def test_a_bad_file_does_not_stop_the_others(
    evaluate: Callable[..., Path],
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / "NORMAL/bad.png").write_bytes(b"no image")
    with pytest.raises(SystemExit) as caught:
        evaluate()
    assert caught.value.code == cli.FAILED
    printed = capsys.readouterr()
    assert printed.err.endswith(
        "left out: NORMAL/bad.png: cannot identify a JPEG, PNG or DICOM image\n"
        "1 of 25 images could not be read\n"
    )
    lines = printed.out.splitlines()
    assert lines[0] == "24 images (12 NORMAL, 12 PNEUMONIA) of 18 patients."
    assert lines[3].split()[:2] == ["finetuned", "(recommended)"]
    assert lines[-1].endswith("evaluated/index.html")
    into = tmp_path / "evaluated"
    assert "1 image(s) could not be read" in (into / "report.md").read_text()
    assert pd.read_csv(into / "left_out.csv").to_dict("list") == {
        "file": ["NORMAL/bad.png"],
        "reason": ["cannot identify a JPEG, PNG or DICOM image"],
    }


def test_an_earlier_evaluation_is_replaced_as_a_whole(
    exported: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    into = tmp_path / "new" / "evaluated"
    into.mkdir(parents=True)
    for name in ("metrics.json", "report.md"):
        (into / name).write_text("earlier")

    def interrupt(*_: object) -> None:
        [part] = into.parent.glob(".part-*")
        assert (part / "metrics.json").exists()  # partly written
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(external_report, "write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            command(folder, "--models", exported, "--into", into)
    assert [path.name for path in into.parent.iterdir()] == ["evaluated"]
    assert (into / "report.md").read_text() == "earlier"
    command(folder, "--models", exported, "--into", into)
    assert {file.name for file in into.iterdir()} == external_validation.OUTPUTS
    assert "earlier" not in (into / "report.md").read_text()


@pytest.mark.parametrize("files", [["notes.txt"], ["metrics.json", "notes.txt"], ["plots"]])
def test_other_folders_are_not_replaced(
    exported: Path, folder: Path, tmp_path: Path, files: list[str]
) -> None:
    into = tmp_path / "evaluated"
    into.mkdir()
    for name in files:
        (into / name).write_text("mine")
    with pytest.raises(CxrError, match=rf"evaluated contains files .*\({files[-1]}\)"):
        command(folder, "--models", exported, "--into", into)
    with pytest.raises(CxrError, match="hospital contains files"):
        command(folder, "--models", exported, "--into", folder)
    assert sorted(file.name for file in into.iterdir()) == sorted(files)


def test_models_without_a_variant_are_an_error(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    settings = json.loads((tmp_path / FILE).read_text())
    del settings["variants"]["augmented"]
    (tmp_path / FILE).write_text(json.dumps(settings))
    with pytest.raises(CxrError, match=r"settings\.json has no variant augmented; run `dvc repro"):
        external_validation.AllVariants(tmp_path)
