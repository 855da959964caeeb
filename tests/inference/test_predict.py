"""Predictions of files, by small networks with known outputs."""

import argparse
import csv
import io
import json
import os
import shutil
import subprocess
import sys
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cxr import cli
from cxr.data.images import ImageError
from cxr.errors import CxrError
from cxr.export.settings import FILE
from cxr.inference import output, predict, radiograph
from cxr.inference.dicom.tags import OTHER_MODALITY, OTHER_VIEW
from cxr.inference.predict import Prediction, Predictor
from cxr.inference.radiograph import Radiograph
from cxr.tools.project_copy import PROJECT
from tests.support.tiny import SCALE, THRESHOLD, content_as, export, grey


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export(folder)
    return folder


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder of four radiographs, two damaged files and two files that are skipped."""
    folder = tmp_path / "new patients"
    (folder / "below").mkdir(parents=True)
    grey(140).save(folder / "1.png")
    grey(60).save(folder / "2.png")
    grey(120).save(folder / "below/3.JPG", quality=95)
    (folder / "4.png").write_bytes(b"no image")
    (folder / "5.dcm").write_bytes(b"\0" * 128 + b"DICM")
    grey(128, (80, 35)).save(folder / "6.png")
    (folder / "notes.txt").write_text("of patients")
    grey(1).save(folder / ".7.png")
    return folder


def prediction(exported: Path, image: Image.Image, variant: str = "") -> Prediction:
    predictor = Predictor(exported, variant)
    return predictor.predict_batch([predictor.decode(content_as(image), Path("x"))])[0]


@pytest.mark.parametrize(
    ("level", "decision"), [(60, "NORMAL"), (101, "NORMAL"), (102, "PNEUMONIA"), (200, "PNEUMONIA")]
)
def test_decision_at_the_operating_point_with_its_calibrated_probability(
    exported: Path, level: int, decision: str
) -> None:
    found = prediction(exported, grey(level))
    assert found.probability == pytest.approx(level / 255, abs=1e-6)
    assert found.decision == decision
    odds = level / (255 - level)
    calibrated = 1 / (1 + np.exp(-(SCALE["slope"] * np.log(odds) + SCALE["intercept"])))
    expected = calibrated if decision == "PNEUMONIA" else 1 - calibrated
    assert found.confidence == pytest.approx(expected, abs=1e-5)


def test_an_ensemble_is_the_mean_of_its_calibrated_members(exported: Path) -> None:
    image = grey(100)
    image.paste(200, (0, 0, 20, 40))
    by_bright = prediction(exported, image, "bright").probability
    by_left = prediction(exported, image, "left").probability
    logit = np.log(by_bright / (1 - by_bright))
    of_bright = 1 / (1 + np.exp(-(SCALE["slope"] * logit + SCALE["intercept"])))
    found = prediction(exported, image, "both").probability
    assert found == pytest.approx((of_bright + by_left) / 2, abs=1e-5)
    assert by_left == pytest.approx(200 / 255, abs=0.01)


def test_in_distribution_images_have_no_warning(exported: Path) -> None:
    columns = np.linspace(96, 160, 40).astype(np.uint8)  # in training, all rows are equal
    found = prediction(exported, Image.fromarray(np.tile(columns, (40, 1))))
    assert found.warnings == ()
    assert 0 <= found.ood_score <= 1


ODD = {
    "out of distribution": Image.linear_gradient("L"),  # rows differ, unlike in training
    "uses less than an eighth of the gray range": grey(128),
    "contains colors": Image.new("RGB", (40, 40), (128, 60, 200)),
    "smaller than the network input (32 pixels)": grey(128, (40, 31)),
    "width / height is outside the training range, 0.80 to 2.00": grey(128, (100, 40)),
}


@pytest.mark.parametrize("warning", ODD)
def test_warnings(exported: Path, warning: str) -> None:
    found = prediction(exported, ODD[warning])
    assert sum(warning in one for one in found.warnings) == 1


def test_notes_of_a_file_are_warnings(exported: Path) -> None:
    notes = (OTHER_MODALITY, OTHER_VIEW)
    one = Radiograph(grey(128), 40, 40, False, notes)
    assert tuple(Predictor(exported).warnings(one, 0.5)) == notes


def test_a_folder_is_searched_and_skipped_files_are_listed(files: Path) -> None:
    (files / ".git").mkdir()
    grey(1).save(files / ".git/8.png")
    (files / "folder.png").mkdir()
    (files / "link").symlink_to(files / "below")
    (files / "1.explained.png").write_bytes((files / "1.png").read_bytes())
    found = predict.list_radiographs([files, files / "notes.txt"])
    names = ["1.png", "2.png", "4.png", "5.dcm", "6.png", "below/3.JPG", "notes.txt"]
    assert found.files == [files / name for name in names]
    assert found.skipped == {
        files / ".git": "hidden folder",
        files / ".7.png": "hidden",
        files / "1.explained.png": "heatmap of --explain",
        files / "link": "link to a folder",
        files / "notes.txt": "not a JPEG, PNG or DICOM file",
    }


DICOM = b"\0" * 128 + b"DICM"
BY_CONTENT = {
    **dict.fromkeys(("IM000010", "1.2.840.113619.2.5", "scan.img", "DOE.JOHN", "notes.md"), DICOM),
    "no preamble": b"\x08\0\x05\0",
    "photo.bak": content_as(grey(1), "JPEG"),
    "screen.shot": content_as(grey(1)),
}


def test_the_first_bytes_identify_a_radiograph_whatever_its_name(tmp_path: Path) -> None:
    by_suffix = ("a.JFIF", "b.JPE", "c.IMA", "d.dic")  # damaged: reported when they are read
    others = {"README": b"no image" * 100, "log.1": b"no image", "empty": b"", "DICOMDIR": DICOM}
    for name, content in (BY_CONTENT | dict.fromkeys(by_suffix, b"no image") | others).items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "disc").mkdir()
    (tmp_path / "disc/dicomdir").write_bytes(DICOM)
    found = predict.list_radiographs([tmp_path])
    assert {file.name for file in found.files} == {*BY_CONTENT, *by_suffix}
    assert {file.name for file in found.skipped} == {*others, "pipe", "dicomdir"}
    named = predict.list_radiographs([tmp_path / "README"])
    assert (named.files, named.skipped) == ([tmp_path / "README"], {})


def test_unreadable_files_of_a_folder_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone.png").symlink_to("nowhere")
    (tmp_path / "closed").write_bytes(b"")

    def closed(path: Path, mode: str) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", closed)
    assert {file.name for file in predict.list_radiographs([tmp_path]).files} == {
        "gone.png",
        "closed",
    }


def test_a_folder_that_cannot_be_searched_is_an_error(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scandir(path: str) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(CxrError, match="new patients cannot be read: Permission denied"):
        predict.list_radiographs([files])


def test_a_file_larger_than_any_image_is_not_read(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grey(128).save(tmp_path / "one.png")
    size = (tmp_path / "one.png").stat().st_size
    monkeypatch.setattr(radiograph, "MAX_BYTES", size)
    Predictor(exported).read(tmp_path / "one.png")
    monkeypatch.setattr(radiograph, "MAX_BYTES", size - 1)
    with pytest.raises(ImageError, match=f"one.png: exceeds the limit of {size - 1} bytes"):
        Predictor(exported).read(tmp_path / "one.png")


def test_the_keras_models_are_in_the_parent_folder_however_it_is_named(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(exported)
    for folder in (exported, Path("."), Path("..") / exported.name):
        assert Predictor(folder).trained == exported.parent.resolve()


def test_predictions_are_in_the_order_of_the_files(exported: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"{level}.png" for level in range(100, 100 + 2 * predict.BATCH + 3)]
    for number, path in enumerate(paths):
        if number % 5 == 2:
            path.write_bytes(b"no image")
        else:
            grey(int(path.stem)).save(path)
    found = list(predict.predict(Predictor(exported), paths))
    assert [path for path, _ in found] == paths
    for path, one in found:
        if isinstance(one, Prediction):
            assert one.probability == pytest.approx(int(path.stem) / 255, abs=1e-6)
        else:
            assert path.name in one
    assert sum(isinstance(one, str) for _, one in found) == 4


# --- the command ---------------------------------------------------------------------------------


def cxr(exported: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "cxr.cli", *map(str, arguments), "--models", str(exported)],
        env=os.environ | {"PYTHONPATH": str(PROJECT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_one_bad_file_does_not_stop_the_others(exported: Path, files: Path) -> None:
    done = cxr(exported, "predict", files)
    assert done.returncode == 1
    assert done.stderr == ("2 files or folders were skipped\n2 of 6 files could not be read\n")
    lines = done.stdout.splitlines()
    assert lines[0] == "variant bright, PNEUMONIA from 0.400"
    [first], [second] = ([line for line in lines if f"{n}.png" in line] for n in (1, 2))
    assert first.split()[:2] == ["0.549", "PNEUMONIA"]
    assert second.split()[:2] == ["0.235", "NORMAL"]
    assert sum("ERROR" in line for line in lines) == 2
    assert "4.png: cannot identify" in done.stdout
    assert [line.split()[1:3] for line in lines[-2:]] == [["skipped", "-"]] * 2
    assert lines[-2].endswith(".7.png: hidden")
    assert lines[-1].endswith("notes.txt: not a JPEG, PNG or DICOM file")


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_formats(
    exported: Path, files: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = cli.parser().parse_args(
        ["predict", str(files), "--format", kind, "--models", str(exported)]
    )
    with pytest.raises(SystemExit) as caught:
        arguments.run(arguments)
    assert caught.value.code == 1
    out = capsys.readouterr().out
    if kind == "json":
        document = json.loads(out)
        assert (document["variant"], document["threshold"]) == ("bright", THRESHOLD)
        rows = document["images"]
        skipped = {row["file"]: row["reason"] for row in document["skipped"]}
    else:
        rows = list(csv.DictReader(io.StringIO(out)))
        skipped = {row["file"]: row["skipped"] for row in rows[6:]}
        assert not any(row.pop("skipped") for row in rows[:6])
        rows = rows[:6]
    assert skipped == {
        str(files / ".7.png"): "hidden",
        str(files / "notes.txt"): "not a JPEG, PNG or DICOM file",
    }
    assert [set(row) for row in rows] == [set(output.COLUMNS)] * 6
    assert [bool(row["error"]) for row in rows] == [False, False, True, True, False, False]
    assert float(rows[0]["probability"]) == pytest.approx(140 / 255, abs=1e-6)
    assert "width / height" in str(rows[4]["warnings"])


def test_unprintable_names_are_escaped(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xff\x1b[2J")
    folder.mkdir()
    grey(140).save(folder / "1.png")
    (folder / "2.png").write_bytes(b"no image")
    done = cxr(exported, "predict", folder)
    assert done.stderr == "1 of 2 files could not be read\n"
    assert "\x1b" not in done.stdout and done.stdout.count("udcff") >= 2
    assert "cannot identify" in done.stdout and "PNEUMONIA" in done.stdout


def test_the_error_for_a_folder_without_radiographs_names_its_files(tmp_path: Path) -> None:
    for name in "abcde":
        (tmp_path / f"{name}.txt").write_text("no image")
    arguments = cli.parser().parse_args(["predict", str(tmp_path)])
    error = r"no JPEG, PNG or DICOM file in .*a\.txt \(not a JPEG, .* and 2 more"
    with pytest.raises(CxrError, match=error):
        arguments.run(arguments)


def test_missing_inputs_are_errors(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(CxrError, match="no variant resnet; available: bright, left, both"):
        Predictor(exported, "resnet")
    with pytest.raises(CxrError, match=r"settings\.json cannot be read .*`dvc repro export`.*--m"):
        Predictor(tmp_path)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("variants.bright.scale", None),
        ("image.input_size", 0),
        ("image.trim", False),
        ("trained_on.aspect_ratio", [1.0]),
    ],
)
def test_settings_of_another_version_are_named(
    exported: Path, tmp_path: Path, path: str, value: object
) -> None:
    settings = json.loads((exported / FILE).read_text())
    *sections, key = path.split(".")
    reduce(getitem, sections, settings)[key] = value
    (tmp_path / FILE).write_text(json.dumps(settings))
    with pytest.raises(CxrError, match=rf"settings\.json was produced by .*\({path}.*dvc repro"):
        Predictor(tmp_path)


def test_a_damaged_network_is_named(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    (tmp_path / "bright.bin").write_bytes(b"")
    with pytest.raises(CxrError, match="bright"):
        Predictor(tmp_path)


@pytest.mark.parametrize("command", ["predict", "serve", "drift", "evaluate", "export"])
def test_help_lists_exit_codes(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.parser().parse_args([command, "--help"])
    assert caught.value.code == 0
    assert "Exit code: 0" in capsys.readouterr().out


def test_a_closed_pipe_ends_without_a_message(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As with `| head`; the exit code is not 0, because the output is incomplete."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        with pytest.raises(SystemExit) as ended:
            cli._run(argparse.Namespace(run=lambda _: print("x" * 100_000)))
    assert ended.value.code == cli.FAILED
    assert capfd.readouterr() == ("", "")
