"""The drift rule flags planted differences and nothing else; `cxr drift` reports them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

from cxr import cli
from cxr.common.arrays import Split
from cxr.common.names import LABELS, VARIANTS
from cxr.errors import CxrError
from cxr.export import bundle, drift
from cxr.export.settings import OodSettings, Settings, TrainingRange, VariantSettings
from cxr.inference import drift_report
from cxr.inference.predict import Predictor
from cxr.params import read_params
from cxr.prediction import ood
from cxr.tools.project_copy import PROJECT
from tests.support.pages import Page
from tests.support.tiny import export

THRESHOLD = 0.5


def population(
    seed: int, patients: int = 150, prevalence: float = 0.5, images: int = 2, alike: float = 0.5
) -> pd.DataFrame:
    """Images of patients, with features that depend on the label; `alike`: fraction of the variance
    that images of one patient have in common.
    """
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), images)
    is_positive = np.repeat(rng.random(patients) < prevalence, images)

    def numbers(mean: float, sd: float, effect: float) -> np.ndarray:
        own = np.repeat(rng.normal(size=patients), images) * alike**0.5
        noise = rng.normal(size=len(patient)) * (1 - alike) ** 0.5
        return mean + effect * is_positive + sd * (own + noise)

    return pd.DataFrame(
        {
            "patient": patient,
            "label": np.where(is_positive, "PNEUMONIA", "NORMAL"),
            "shorter_side": rng.integers(256, 400, len(patient)),
            "aspect_ratio": numbers(1.2, 0.1, 0.2),
            "gray": numbers(120, 15, 20),
            "contrast": numbers(50, 5, -6),
            "distance": numbers(0.3, 0.02, 0.02),
            "probability": np.clip(numbers(0.25, 0.1, 0.5), 0, 1),
            "warned": False,
        }
    )


REFERENCE = population(0)


def shifted(name: str, by: float) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda images: images.assign(**{name: images[name] + by})


PLANTED: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "warnings": lambda images: images.assign(warned=np.arange(len(images)) % 5 == 0),
    "aspect_ratio": shifted("aspect_ratio", 0.15),
    "gray": shifted("gray", -25),
    "contrast": lambda images: images.assign(contrast=images["contrast"] * 0.8),
    "distance": shifted("distance", 0.03),
}


def test_images_like_the_reference_are_not_flagged() -> None:
    for seed in range(1, 11):
        found = drift.compare(REFERENCE, population(seed), THRESHOLD)
        assert (found.verdict, found.flagged) == (drift.NO_DRIFT, [])


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_difference_is_flagged_and_nothing_else(name: str) -> None:
    found = drift.compare(REFERENCE, PLANTED[name](population(1)), THRESHOLD)
    assert (found.verdict, found.flagged) == (drift.SIGNIFICANT, [name])
    test = found.tests[name]
    assert test.difference > test.limit


@pytest.mark.parametrize("prevalence", [0.1, 0.9])
def test_another_prevalence_is_not_another_scanner(prevalence: float) -> None:
    here = population(1, prevalence=prevalence)
    found = drift.compare(REFERENCE, here, THRESHOLD)
    assert found.flagged == ["predicted_positive"]
    assert found.prevalence.here == pytest.approx((here["label"] == LABELS[1]).mean(), abs=0.05)
    darker = drift.compare(REFERENCE, PLANTED["gray"](here), THRESHOLD)
    assert darker.flagged == ["gray", "predicted_positive"]


@pytest.mark.slow
def test_chance_limits_allow_for_several_images_per_patient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drift, "N_HALVES", 20)
    few = population(3, patients=60, images=8, alike=0.98)
    by_patient = drift.false_positive_rate(few, THRESHOLD)
    assert by_patient is not None and by_patient <= 0.05
    halves = [few[few["patient"] % 30 < 15], few[few["patient"] % 30 >= 15]]
    limits = [
        drift.compare(reference, halves[1], THRESHOLD).tests["gray"].chance
        for reference in (halves[0], halves[0].assign(patient=range(len(halves[0]))))
    ]
    assert limits[0] > 2 * limits[1]


def test_a_large_folder_is_compared_with_a_small_reference() -> None:
    """A small reference is itself a random sample: its chance limit is large."""
    small = population(0, patients=40)
    many = [population(seed, patients=3000) for seed in range(1, 6)]
    found = [drift.compare(small, here, THRESHOLD) for here in many]
    assert [one.flagged for one in found] == [[]] * 5
    assert min(one.tests["gray"].chance for one in found) > 0.1


def test_a_significant_but_small_difference_is_not_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "N_RESAMPLES", 700)
    known, here = population(0, patients=1500), population(1, patients=1500)
    found = drift.compare(known, shifted("gray", 4)(here), THRESHOLD)
    assert found.tests["gray"].chance < found.tests["gray"].difference < found.tests["gray"].floor
    assert found.flagged == []


def test_few_images_have_no_verdict() -> None:
    other = PLANTED["gray"](population(1)).assign(warned=True)
    few = drift.compare(REFERENCE, other[: drift.MIN_IMAGES - 1], THRESHOLD)
    assert (few.verdict, few.flagged) == (drift.TOO_FEW, [])
    enough = drift.compare(REFERENCE, other[: drift.MIN_IMAGES], THRESHOLD)
    assert enough.verdict == drift.SIGNIFICANT and "warnings" in enough.flagged
    assert drift.compare(REFERENCE, other[:1], THRESHOLD).verdict == drift.TOO_FEW


def test_false_positive_rate_is_none_where_halves_are_too_small() -> None:
    assert drift.false_positive_rate(population(0, patients=25), THRESHOLD) is None


def test_ks_distance_equals_scipy() -> None:
    rng = np.random.default_rng(0)
    some, others = rng.integers(0, 20, 50) / 2, rng.integers(3, 25, 80) / 2  # with ties
    weights = np.zeros((2, 2, 130))
    weights[0, :, :50], weights[1, :, 50:] = 1, 1
    found = drift.ks(np.concatenate([some, others]), *weights)
    assert found == pytest.approx([stats.ks_2samp(some, others).statistic] * 2)
    counts = rng.integers(0, 4, (1, 50))
    repeated = stats.ks_2samp(np.repeat(some, counts[0]), some).statistic
    assert drift.ks(some, counts, np.ones((1, 50))) == pytest.approx([repeated])


def test_prevalence_is_corrected_by_recall_and_specificity() -> None:
    predicted = 0.3 * 0.9 + 0.7 * (1 - 0.8)
    assert drift.estimated_prevalence(predicted, 0.9, 0.8) == pytest.approx(0.3)
    assert drift.estimated_prevalence(0.1, 0.9, 0.8) == 0
    assert drift.estimated_prevalence(0.95, 0.9, 0.8) == 1
    assert drift.estimated_prevalence(0.5, 0.6, 0.4) is None
    positive = np.array([True, False, False, False])
    weights = drift.weights_for(positive, 0.4)
    assert weights[positive].sum() / weights.sum() == pytest.approx(0.4)


def test_random_predictions_give_no_prevalence() -> None:
    blind = REFERENCE.assign(probability=np.resize([0.2, 0.8], len(REFERENCE)))
    found = drift.compare(blind.assign(probability=0.2), blind, THRESHOLD)
    assert found.prevalence.here is None and found.flagged == ["predicted_positive"]


# --- the reference -------------------------------------------------------------------------------

INDEX = pd.DataFrame(
    {
        "path": ["a/doe.png", "a/doe2.png", "b/roe.png"],
        "patient": ["doe", "doe", "roe"],
        "label": ["NORMAL", "NORMAL", "PNEUMONIA"],
        "width": ["300", "200", "400"],
        "height": ["200", "250", "400"],
    }
)


def reference_table() -> pd.DataFrame:
    images = np.zeros((3, 4, 4), np.uint8)
    images[1:, :2] = 200
    chances = pd.DataFrame({"transfer": [0.1, 0.2, 0.9]}, index=[7, 8, 9])
    return drift.reference_table(INDEX, images, np.array([0.3, 0.4, 0.5]), chances)


def test_the_reference_names_no_patient_and_no_file() -> None:
    table = reference_table()
    assert table.to_dict("list") == {
        "patient": [0, 0, 1],
        "label": ["NORMAL", "NORMAL", "PNEUMONIA"],
        "shorter_side": [200, 200, 400],
        "aspect_ratio": [1.5, 0.8, 1.0],
        "gray": [0, 100, 100],
        "contrast": [0, 100, 100],
        "distance": [0.3, 0.4, 0.5],
        "transfer": [0.1, 0.2, 0.9],
    }
    assert [*drift.COLUMNS, "transfer"] == [*table]


def test_the_reference_is_read_as_it_was_written(tmp_path: Path) -> None:
    reference_table().to_csv(tmp_path / drift.FILE, index=False)
    expected = reference_table().rename(columns={"transfer": "probability"})
    pd.testing.assert_frame_equal(
        drift.read_reference(tmp_path, "transfer"), expected, check_dtype=False
    )


TEXT = reference_table().to_csv(index=False)


@pytest.mark.parametrize(
    "damaged",
    [
        *("", "\0\0\0", TEXT[:150], TEXT.replace("0.4", ""), TEXT.replace("0.4", "much")),
        TEXT.replace("gray", "grey"),
        reference_table()[:2].to_csv(index=False),  # without a class
    ],
)
def test_a_damaged_reference_is_one_clear_error(tmp_path: Path, damaged: str) -> None:
    (tmp_path / drift.FILE).write_text(damaged)
    with pytest.raises(CxrError, match=r"reference\.csv cannot be used: run `dvc repro export`"):
        drift.read_reference(tmp_path, "transfer")


def test_the_export_applies_the_rule_to_conditions_and_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift, "N_HALVES", 3)
    rng = np.random.default_rng(0)
    count = 120
    index = pd.DataFrame(
        {
            "patient": [f"doe{number // 2}" for number in range(count)],
            "label": np.repeat(LABELS, count // 2),
            "width": rng.integers(300, 400, count).astype(str),
            "height": "256",
        }
    )
    images = rng.integers(100, 200, (count, 8, 8)).astype(np.uint8)
    features = rng.normal(1, 0.1, (count, 20)).astype(np.float32)
    ood.save(ood.fit(features[::2]), tmp_path / "ood_reference.npz")
    ratio = index["width"].astype(int) / 256
    stress = pd.concat(
        [
            index.assign(condition="as it was", aspect_ratio=ratio.astype(str)),
            index.assign(condition="dark", aspect_ratio=ratio.astype(str)),
            index.assign(condition="wide", aspect_ratio=(ratio + 1).astype(str)),
        ],
        ignore_index=True,
    )
    splits = {
        "val": Split(images, index),
        "stress": Split(np.concatenate([images, images // 2, images]), stress),
        "test": Split(images, index),
    }
    rows = {"val": features, "stress": np.tile(features, (3, 1)), "test": features}
    chances = dict.fromkeys(VARIANTS, 0.1 + 0.8 * (index["label"] == LABELS[1]))
    predictions = pd.concat(
        [
            pd.DataFrame(chances).assign(split=name)
            for name in ("val", "stress", "stress", "stress", "test")
        ]
    )
    params = read_params(PROJECT / "params.yaml")
    scale = {"slope": 1.0, "intercept": 0.0}
    settings = Settings(
        image=params.image.model_copy(update={"input_size": 256}),
        evaluate=params.evaluate,
        recommended="transfer",
        variants={"transfer": VariantSettings(threshold=THRESHOLD, scale=scale)},
        ood=OodSettings(threshold=9, false_positive_rate={}, detection_rate={}),
        trained_on=TrainingRange(shorter_side=(256, 256), aspect_ratio=(1, 2)),
    )
    found = bundle.export_reference(tmp_path, splits, rows, predictions, settings)
    assert found["false_positive_rate"] == 0
    flagged = {name: set(tests) for name, tests in found["flagged"].items()}
    dark = {"gray", "contrast"}
    wide = {"aspect_ratio", "warnings"}
    assert flagged == {"as it was": set(), "dark": dark, "wide": wide, "test": set()}
    assert found["flagged"]["wide"]["aspect_ratio"] == 1
    assert len(drift.read_reference(tmp_path, "ensemble")) == count
    assert "doe" not in (tmp_path / drift.FILE).read_text()


# --- the command ---------------------------------------------------------------------------------


def picture(rng: np.random.Generator, positive: bool, contrast: float = 20) -> Image.Image:
    """Positives are bright."""
    gray = rng.normal((170 if positive else 70) + rng.normal(0, 10), contrast, (40, 50))
    return Image.fromarray(gray.clip(0, 255).astype(np.uint8))


def write_images(folder: Path, count: int, seed: int, contrast: float = 20) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        picture(rng, number % 2 == 0, contrast).save(folder / f"jane-doe-{number}.png")
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks and a reference of 80 images."""
    folder = tmp_path_factory.mktemp("exported")
    export(folder)
    images = write_images(folder / "val", 80, 1)
    files = sorted(images.iterdir(), key=lambda file: int(file.stem.split("-")[-1]))
    found, _ = drift_report.measure(Predictor(folder), files)
    table = found.assign(patient=range(80), label=[LABELS[n % 2 == 0] for n in range(80)])
    table = table.rename(columns={"probability": "bright"})[[*drift.COLUMNS, "bright"]]
    table.to_csv(folder / drift.FILE, index=False)
    return folder


def run(exported: Path, into: Path, *folders: Path) -> int:
    """The exit code."""
    arguments = ["drift", *map(str, folders), "--models", str(exported), "--into", str(into)]
    parsed = cli.parser().parse_args(arguments)
    try:
        parsed.run(parsed)
    except SystemExit as end:
        return int(str(end.code))
    return 0


def result(into: Path) -> dict[str, object]:
    return json.loads((into / drift_report.JSON).read_text())


def test_similar_images_end_with_exit_code_0(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, into = write_images(tmp_path / "site", 60, 2), tmp_path / "drift"
    (into / "other").mkdir(parents=True)
    for _ in range(2):  # its own page is replaced
        assert run(exported, into, folder) == 0
    out = capsys.readouterr().out
    assert "variant bright, 60 images, 0 could not be read, 0 files or folders skipped\n" in out
    assert f"\n{drift.NO_DRIFT}\nreport: {into / 'index.html'}\n" in out
    assert (into / "other").is_dir()  # other content of the folder is kept
    found = result(into)
    assert next(iter(found)) == "variant"
    assert (found["verdict"], found["images"], found["unreadable"]) == (drift.NO_DRIFT, 60, 0)
    assert found["prevalence"] == {"reference": 0.5, "here": 0.5}
    assert found["precision"] == {"reference": 1.0, "here": 1.0}
    sizes = found["sizes"]["aspect_ratio"]
    assert sizes["here"]["median"] == 1.25 and sizes["outside"] == 0


def test_drift_ends_with_exit_code_3_and_names_tests_and_warnings(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, into = write_images(tmp_path / "site", 30, 2, contrast=8), tmp_path / "drift"
    for number in range(10):
        image = Image.new("RGB", (100, 40), (128, 60, 200 - number))
        image.save(folder / f"color-{number}.png")
    (folder / "bad.png").write_bytes(b"no image")
    assert run(exported, into, folder) == 3
    verdict = capsys.readouterr().out.splitlines()[-2]
    assert verdict.startswith(f"{drift.SIGNIFICANT} (")
    assert drift_report.NAMES["contrast"] in verdict
    found = result(into)
    assert {"contrast", "warnings"} <= set(found["flagged"])
    shares = {text[:10]: share for text, share in found["warnings"].items()}
    assert shares["contains c"] == shares["width / he"] == 0.25
    assert found["sizes"]["aspect_ratio"]["outside"] == 0.25


def test_unreadable_files_are_named_on_the_terminal_alone(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, into = write_images(tmp_path / "jane-doe", 40, 2), tmp_path / "drift"
    (folder / "jane-doe-bad.png").write_bytes(b"no image")
    (folder / "jane-doe-0.png").rename(folder / "jane.doe")
    (folder / "jane-doe.txt").write_text("no image")
    assert run(exported, into, folder) == 1
    skipped, unread = capsys.readouterr().err.splitlines()[-2:]
    assert unread.startswith("cannot be read: ") and "jane-doe-bad.png" in unread
    assert skipped.startswith("skipped: ") and "jane-doe.txt: not a JPEG" in skipped
    found = result(into)
    assert (found["verdict"], found["images"]) == (drift.NO_DRIFT, 40)
    assert (found["unreadable"], found["skipped"]) == (1, 1)
    for file in into.iterdir():
        assert "jane" not in file.read_text()


def test_too_few_images_end_with_exit_code_1(exported: Path, tmp_path: Path) -> None:
    folder, into = write_images(tmp_path / "site", 5, 2, contrast=8), tmp_path / "drift"
    assert run(exported, into, folder) == 1
    assert result(into)["verdict"] == drift.TOO_FEW


def test_the_page_loads_nothing_and_states_the_rule(exported: Path, tmp_path: Path) -> None:
    run(exported, tmp_path / "drift", write_images(tmp_path / "site", 31, 2))
    page = Page((tmp_path / "drift" / drift_report.PAGE).read_text())
    assert "31 images were compared" in page.text
    charts = page.all("img")
    assert len(charts) == 6
    assert all(chart["src"].startswith("data:image/svg+xml;base64,") for chart in charts)
    assert all("median" in chart["alt"] for chart in charts)
    assert {tag for tag, _ in page.tags} & {"script", "iframe"} == set()
    for _, attributes in page.tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#"))
    assert drift.RULE in page.text.replace("\n", " ")


def test_invalid_input_is_one_error_and_writes_nothing(exported: Path, tmp_path: Path) -> None:
    bad, into = tmp_path / "bad", tmp_path / "drift"
    bad.mkdir()
    with pytest.raises(CxrError, match="no JPEG, PNG or DICOM file in"):
        run(exported, into, bad)
    for number in range(3):
        (bad / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(CxrError, match=r"none of the 3 files in .*bad can be read"):
        run(exported, into, bad)
    with pytest.raises(CxrError, match=r"0\.png is not a directory"):
        run(exported, into, bad / "0.png")
    assert not into.exists()


def test_another_page_is_not_overwritten(exported: Path, tmp_path: Path) -> None:
    folder, into = write_images(tmp_path / "site", 1, 2), tmp_path / "drift"
    into.mkdir()
    (into / drift_report.PAGE).write_text("the pipeline's report")
    with pytest.raises(CxrError, match=r"index\.html is not a drift report"):
        run(exported, into, folder)
    assert [file.name for file in into.iterdir()] == [drift_report.PAGE]
