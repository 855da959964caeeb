"""The report of a finished pipeline: its text and its page in a browser."""

import json
import re
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Browser

from cxr.common.arrays import Split
from cxr.common.names import SPLITS, TUNING, VARIANTS
from cxr.data import dataset_shift, shortcuts, subgroups
from cxr.evaluation import groups, metrics
from cxr.evaluation.bootstrap import bootstrap_intervals
from cxr.evaluation.predictions import evaluate
from cxr.evaluation.results import Guards, Intervals, Shift
from cxr.params import leaves, read_params
from cxr.reporting.report import FIGURES, ReportInputs, _terciles, render_charts, report
from cxr.tools.experiments import COLUMNS
from cxr.tools.project_copy import PROJECT
from tests.support.project import Project

SECTIONS = [
    *("Recommendation", "Comparison of the variants", "Robustness (stress test)"),
    *("Accuracy by subgroup", "Confusion matrices and thresholds", "Calibration and prevalence"),
    *("Training", "Errors by pathogen and image size", "Most confident errors"),
    *("Dataset shift between validation and test", "Data"),
]
CHARTS = [
    *("Metrics on test at 0.5", "ROC curves", "Precision-recall curves", "Validation, stress-test"),
    *("Accuracy on test by subgroup", "Confusion matrices on test", "Recall and precision by"),
    *("Calibration on test", "Loss by epoch", "Accuracy by epoch", "Metadata features"),
    *("Images by split and class", "Aspect ratio by split and class", "Size by split and class"),
]


@pytest.fixture(scope="module")
def markdown(finished: Project) -> str:
    return (finished.folder / "reports/report.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(finished: Project) -> Path:
    return finished.folder / "reports/index.html"


def read(finished: Project, name: str) -> Any:
    return json.loads((finished.folder / "metrics" / name).read_text())


def section(markdown: str, title: str) -> str:
    return markdown.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.mark.slow
def test_sections(markdown: str) -> None:
    assert re.findall("^## (.*)$", markdown, re.MULTILINE) == SECTIONS


@pytest.mark.slow
def test_numbers_are_the_measured_ones(finished: Project, markdown: str) -> None:
    measured = read(finished, "evaluation.json")
    bootstrapped = read(finished, "intervals.json")
    for variant in ("baseline", "augmented", "transfer"):
        found = bootstrapped["test"]["columns"][variant]["at_half"]["recall"]
        assert found["value"] == pytest.approx(measured[variant]["test"]["recall"])
        shown = f"{found['value']:.3f} ({found['low']:.3f}-{found['high']:.3f})"
        line = re.search(rf"^\| {variant} +\| {re.escape(shown)} +\|.*$", markdown, re.MULTILINE)
        assert line
        cells = [measured[variant]["test"][name] for name in ("tn", "fp", "fn", "tp")]
        row = r" +\| ".join(map(str, cells))
        assert re.search(rf"\| {variant} +\| at 0.5 +\| {row} ", markdown)
    alone = read(finished, "shift.json")["single_feature_auc"]["aspect_ratio"]
    row = r" +\| ".join(f"{alone[split]:.3f}" for split in ("train", "val", "test"))
    assert re.search(rf"\| aspect ratio +\| {row} ", markdown)


@pytest.mark.slow
def test_errors_by_pathogen_count_the_test_images(finished: Project, markdown: str) -> None:
    table = pd.read_csv(finished.folder / "data/predictions.csv", keep_default_na=False)
    positive = table[(table["split"] == "test") & (table["label"] == "PNEUMONIA")]
    for pathogen, rows in positive.groupby("pathogen"):
        recall = (rows["baseline"] >= 0.5).mean()
        row = rf"\| {pathogen} +\| {len(rows)} +\| at 0.5 +\| {recall:.3f} "
        assert re.search(row, markdown)


@pytest.mark.slow
def test_listed_errors_are_misclassified(finished: Project, markdown: str) -> None:
    table = pd.read_csv(finished.folder / "data/predictions.csv").set_index("path")
    text = section(markdown, "Most confident errors")
    for part in re.split(rf"\*\*(?={'|'.join(VARIANTS)})", text)[1:]:
        variant = part.split("*")[0]
        rows = re.findall(r"^\| `(test/\S+)` +\| (\S+) +\| (\S+) +\|$", part, re.MULTILINE)
        assert rows
        for path, label, probability in rows:
            assert table.loc[path, "label"] == label
            assert f"{table.loc[path, variant]:.4f}" == probability
            assert (label == "PNEUMONIA") != (table.loc[path, variant] >= 0.5)


@pytest.mark.slow
def test_the_report_is_reproducible(finished: Project, page: Path) -> None:
    before = page.read_bytes()
    finished.run("dvc repro --force --single-item report")
    assert page.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1400])
def test_page_in_a_browser(browser: Browser, page: Path, width: int) -> None:
    events: list[str] = []
    with browser.new_page(viewport={"width": width, "height": 900}) as tab:
        tab.on("console", lambda message: events.append(message.text))
        tab.on("pageerror", lambda error: events.append(str(error)))
        tab.on("request", lambda request: events.append(request.url))
        tab.goto(page.as_uri())
        outside = [entry for entry in events if not entry.startswith(("data:", page.as_uri()))]
        assert outside == []
        titles = tab.locator(".charts figcaption").all_inner_texts()
        assert [t for t, start in zip(titles, CHARTS, strict=True) if not t.startswith(start)] == []
        broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
        assert tab.evaluate(broken) == 0
        # No sideways scrolling of the page, and charts large enough to read.
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        boxes = [figure.bounding_box() for figure in tab.locator(".charts figure").all()]
        assert all(box and 300 <= box["width"] <= 700 for box in boxes)


def guards(**leaks: int | None) -> Guards:
    return Guards(leaks=leaks, single_feature_auc={})


def made_up(probability: float | None = None) -> ReportInputs:
    """Results of 8 patients per class, split and two images each, without any training; baseline
    gives the same probability to all images where one is given.
    """
    rng = np.random.default_rng(3)
    splits, tables = {}, []
    for split in SPLITS:
        label = np.repeat(["NORMAL", "PNEUMONIA"], 16)
        index = pd.DataFrame(
            {
                "path": [f"{split}/{number}.png" for number in range(32)],
                "label": label,
                "patient": [f"{split}{number // 2}" for number in range(32)],
                "pathogen": np.where(label == "NORMAL", "none", "virus"),
                "width": rng.integers(300, 500, 32).astype(str),
                "height": rng.integers(200, 290, 32).astype(str),
                "bytes": "1000",
            }
        )
        splits[split] = Split(rng.integers(0, 255, (32, 16, 16)).astype(np.uint8), index)
        center = np.where(label == "PNEUMONIA", 0.65, 0.4)
        given = {v: np.clip(center + rng.normal(0, 0.2, 32), 0, 1) for v in VARIANTS}
        table = index[["path", "patient", "label", "pathogen"]].assign(split=split, **given)
        table["condition"] = "plain"
        if probability is not None:
            table["baseline"] = probability
        tables.append(table)
    stress = tables[1].assign(split="stress", condition="dark")
    predictions = pd.concat([*tables[1:], stress], ignore_index=True)
    found = evaluate(predictions, 0.9, 0.16)
    features = {name: rng.normal(size=(32, 4)) for name in SPLITS}
    aucs, unlike = dataset_shift.domain_auc(splits, features)
    indexes = {name: split.index for name, split in splits.items()}
    of_images = pd.concat(
        [subgroups.subgroups_of(indexes, features, set()), subgroups.typicality(unlike)]
    )
    of_split = dict(iter(predictions.groupby("split")))
    tuning = predictions[predictions["split"].isin(TUNING)]
    chosen = (found.thresholds, 0.16, 100)
    params = read_params(PROJECT / "params.yaml")
    history = pd.DataFrame(
        {"epoch": [1], "kept": [1], "loss": [0.5], "val_loss": [0.6]}
        | {"accuracy": [0.7], "val_accuracy": [0.6]}
    )
    return ReportInputs(
        guards=guards(patient=0, identical=0, dropped=0),
        settings=leaves(params.model_dump()),
        evaluate=params.evaluate.model_copy(update={"min_recall": 0.9, "n_bootstrap": 100}),
        splits=splits,
        predictions=predictions,
        unlikeness=unlike,
        groups=groups.accuracy_by_group(
            predictions, of_images, dict.fromkeys(VARIANTS, metrics.HALF)
        ),
        evaluation=found,
        intervals=Intervals(
            val=bootstrap_intervals(of_split["val"], *chosen),
            test=bootstrap_intervals(of_split["test"], *chosen),
            tuning=bootstrap_intervals(tuning, *chosen, 0.9),
        ),
        shift=Shift(
            domain_auc=aucs,
            single_feature_auc=shortcuts.single_feature_auc(splits),
        ),
        confusions=metrics.confusions(of_split["test"], found.thresholds),
        histories=dict.fromkeys(VARIANTS, history),
        experiments=pd.DataFrame(columns=COLUMNS),
    )


@pytest.fixture(scope="module")
def results() -> ReportInputs:
    return made_up()


def with_index(results: ReportInputs, **columns: str) -> ReportInputs:
    """The same with other columns in the index of every split."""
    splits = {n: Split(s.images, s.index.assign(**columns)) for n, s in results.splits.items()}
    return replace(results, splits=splits)


def text_of(results: ReportInputs) -> str:
    """The Markdown, without drawing charts, which it does not contain."""
    return report(results, defaultdict(str)).to_markdown()


def test_figures_for_other_pages(results: ReportInputs) -> None:
    virus = results.groups.assign(kind="pathogen", label="PNEUMONIA", group="virus")
    named = replace(results, groups=virus[virus["split"] == "test"].drop_duplicates("variant"))
    styles_only = replace(results, groups=results.groups.query("kind == 'style'"))
    assert "groups" not in render_charts(styles_only)
    svgs = render_charts(named)
    for name in FIGURES:
        ElementTree.fromstring(svgs[name])
        assert "<image" not in svgs[name]  # they go into git


def test_settings_are_reported(results: ReportInputs) -> None:
    text = text_of(results)
    for key in ("data.source", "split.test", "transfer.weights", "transfer.preprocessing", "seed"):
        assert f"`{key}` {results.settings[key]}" in section(text, "Recommendation")
    for source in ("phantom", "kaggle"):
        of_source = replace(results, settings={**results.settings, "data.source": source})
        is_reported = "Synthetic images" in section(text_of(of_source), "Recommendation")
        assert is_reported == (source == "phantom")
    training = section(text, "Training")
    assert all(f" {part}" in training for part in ("filters [32, 32]", "batch_norm false"))
    keys = [key for key in results.settings if key.split(".")[0] in ("model", "augment")]
    assert len(keys) > 10
    assert all(f" {key.split('.')[1]} " in training for key in keys)


def test_a_training_on_three_classes_is_reported(results: ReportInputs) -> None:
    note = "loss and accuracy here are of three classes"
    assert note in section(text_of(results), "Training")
    settings = results.settings | {"finetune.classes": "label"}
    assert note not in section(text_of(replace(results, settings=settings)), "Training")


def test_shift_of_an_official_and_of_a_redrawn_test(results: ReportInputs) -> None:
    official = section(text_of(results), "Dataset shift between validation and test")
    assert "Test is the data set's own split (`split.test` official)" in official
    assert "Test sampled like validation" in official
    settings = results.settings | {"split.test": "redrawn"}
    text = text_of(replace(results, settings=settings))
    redrawn = section(text, "Dataset shift between validation and test")
    assert "both sampled from all images (`split.test` redrawn)" in redrawn
    assert "data set's own" not in redrawn
    assert "sampled like" not in redrawn


def test_recorded_redrawn_test_has_its_commit_and_no_other_change(
    results: ReportInputs,
) -> None:
    numbers = dict.fromkeys([name for name in COLUMNS if name.startswith("test_")], 0.25)
    rows = [
        {"commit": "1234e56", "changed": "split.test=redrawn", "seed": 1, "test_recall": 0.875},
        {"commit": "7654321", "changed": "split.test=redrawn", "seed": 2},
        {"commit": "abcdef0", "changed": "image.input_size=128 split.test=redrawn", "seed": 1},
        {"commit": "bcdef01", "changed": "", "seed": 1},
    ]
    known = pd.DataFrame([{"variant": "transfer"} | numbers | row for row in rows])
    text = text_of(replace(results, experiments=known))
    row = r"\| `1234e56` +\| `split.test=redrawn` +\| transfer +\| 0.875 +\| 0.250 "
    assert re.search(row, text)
    assert not any(commit in text for commit in ("7654321", "abcdef0", "bcdef01"))
    assert "as recorded in `docs/experiments.csv`" in text
    phantom = results.settings | {"data.source": "phantom"}
    for other in (
        replace(results, experiments=known, settings=phantom),
        replace(results, experiments=known[1:]),
    ):
        text = text_of(other)
        assert "1234e56" not in text
        assert "resamples the splits" in text


def test_pathogens_are_omitted_if_file_names_do_not_give_them(results: ReportInputs) -> None:
    text = text_of(results)
    assert "| virus " in section(text, "Errors by pathogen and image size")
    unnamed = replace(results, predictions=results.predictions.assign(pathogen="none"))
    text = text_of(unnamed)
    assert "pathogen" not in section(text, "Errors by image size")


def test_patients_with_one_image_each_are_reported(results: ReportInputs) -> None:
    note = "Every patient has one image here"
    assert note not in text_of(results)
    splits = {
        n: Split(s.images, s.index.assign(patient=s.index["path"]))
        for n, s in results.splits.items()
    }
    assert note in section(text_of(replace(results, splits=splits)), "Recommendation")


def test_size_equivalent_to_the_aspect_ratio_is_reported(results: ReportInputs) -> None:
    note = "The shorter side of every image has 200 pixels, so"
    assert "The shorter side" not in text_of(results)
    assert note in text_of(with_index(results, height="200"))
    equal = with_index(results, height="200", width="300")
    assert "The shorter side" not in text_of(equal)  # the aspect ratio is constant


def test_file_names_are_shown_literally(results: ReportInputs) -> None:
    text = text_of(results)
    assert text.count("`test/") > 3
    assert re.search(r"[^`]test/\d", text) is None


def test_calibration_error_has_no_interval(results: ReportInputs) -> None:
    error = results.evaluation.variants["transfer"].test.ece
    table = section(text_of(results), "Calibration and prevalence")
    assert re.search(rf"\| transfer +\| at 0.5 +\| [^|]*\| {error:.3f} +\|", table)


def test_rates_without_any_case_reach_the_report() -> None:
    """A variant without positive predictions at 0.5 has no precision there."""
    found = made_up(probability=0.25)
    assert found.intervals.test.columns["baseline"].at_half.precision.low is None
    json.dumps(found.intervals.model_dump(), allow_nan=False)
    assert "0.000 (undefined)" in report(found, render_charts(found)).to_markdown()


def test_classes_of_few_patients_have_no_most_atypical_images(results: ReportInputs) -> None:
    assert "Most atypical" in text_of(results)
    few = Shift(
        domain_auc={"val": {}, "test": {}},
        single_feature_auc=results.shift.single_feature_auc,
    )
    text = text_of(
        replace(
            results,
            shift=few,
            unlikeness=results.unlikeness[:0],
            groups=results.groups[results.groups["kind"] != "typicality"],
        )
    )
    assert "Most atypical" not in text
    assert "too few patients" in text


@pytest.mark.parametrize(
    ("sizes", "names"),
    [
        ([256.0] * 5, ["256 pixels"]),
        ([7.2], ["7 pixels"]),
        ([1.0, 2.0], ["1 pixels", "2 pixels"]),
        ([5.0] * 8 + [9.0], ["5 pixels", "9 pixels"]),
        ([5.0] * 3 + [9.0] * 3, ["5 pixels", "9 pixels"]),
        ([100.1, 100.2, 100.3, 100.4], ["100 pixels"]),  # equal as they are printed
        ([100.4, 100.6, 101.4, 101.6], ["100 pixels", "101 pixels", "102 pixels"]),
        (
            [float(size) for size in range(100, 400)],
            ["100 to 199 pixels", "200 to 299 pixels", "300 to 399 pixels"],
        ),
    ],
)
def test_terciles_of_sizes(sizes: list[float], names: list[str]) -> None:
    found = _terciles(pd.Series(sizes))
    assert found.drop_duplicates().tolist() == names


def test_leaks_are_reported(results: ReportInputs) -> None:
    def text(**counts: int | None) -> str:
        return section(text_of(replace(results, guards=guards(**counts))), "Data")

    assert "conflicting labels): none found." in text(patient=0, near_identical=0, dropped=0)
    some = text(patient=0, near_identical=3, dropped=3)
    assert "near identical 3 image(s); 3 excluded." in some
    assert "patient 0" not in some
    assert "not compared" not in some
    unchecked = text(patient=None, near_identical=0, dropped=0)
    assert "none found. Patients were not compared" in unchecked
