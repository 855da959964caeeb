"""The report of a finished pipeline: what it says, and how the page stands in a browser."""

import base64
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import Project
from playwright.sync_api import Browser, sync_playwright

from cxr import report as module
from cxr.report import _thirds

SECTIONS = [
    *("Recommendation", "The variants side by side", "Confusion and thresholds"),
    *("Calibration and prevalence", "Training", "Errors by pathogen and image size"),
    *("Most confident mistakes", "Why is test not like validation?", "The data at a glance"),
]
CHARTS = [
    *("Metrics on test at 0.5", "ROC curves", "Precision-recall curves", "Confusion on test"),
    *("Recall and precision by threshold", "Calibration on test", "Loss by epoch"),
    *("Accuracy by epoch", "Images by split and class", "Aspect ratio by split and class"),
    "Size by split and class",
]


@pytest.fixture(scope="module")
def markdown(finished: Project) -> str:
    return (finished.folder / "reports/report.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(finished: Project) -> Path:
    return finished.folder / "reports/index.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


def read(finished: Project, name: str) -> Any:
    return json.loads((finished.folder / "metrics" / name).read_text())


def section(markdown: str, title: str) -> str:
    return markdown.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.mark.slow
def test_sections(markdown: str) -> None:
    assert re.findall("^## (.*)$", markdown, re.MULTILINE) == SECTIONS


@pytest.mark.slow
def test_numbers_are_the_measured_ones(finished: Project, markdown: str) -> None:
    evaluation = read(finished, "evaluation.json")
    intervals = read(finished, "intervals.json")
    for variant in ("baseline", "augmented", "transfer"):
        found = intervals["test"]["columns"][variant]["at_half"]["recall"]
        assert found["value"] == pytest.approx(evaluation[variant]["test"]["recall"])
        shown = f"{found['value']:.3f} ({found['low']:.3f}-{found['high']:.3f})"
        line = re.search(rf"^\| {variant} +\| {re.escape(shown)} +\|.*$", markdown, re.MULTILINE)
        assert line
        cells = [evaluation[variant]["test"][name] for name in ("tn", "fp", "fn", "tp")]
        row = r" +\| ".join(map(str, cells))
        assert re.search(rf"\| {variant} +\| at 0.5 +\| {row} ", markdown)
    shift = read(finished, "shift.json")["label_alone"]["aspect_ratio"]
    row = r" +\| ".join(f"{shift[split]:.3f}" for split in ("train", "val", "test"))
    assert re.search(rf"\| aspect ratio +\| {row} ", markdown)


@pytest.mark.slow
def test_errors_by_pathogen_count_the_test_images(finished: Project, markdown: str) -> None:
    table = pd.read_csv(finished.folder / "data/predictions.csv", keep_default_na=False)
    ill = table[(table["split"] == "test") & (table["label"] == "PNEUMONIA")]
    for pathogen, rows in ill.groupby("pathogen"):
        share = (rows["baseline"] >= 0.5).mean()
        assert re.search(rf"\| {pathogen} +\| {len(rows)} +\| {share:.3f} ", markdown)


@pytest.mark.slow
def test_mistakes_are_mistakes(finished: Project, markdown: str) -> None:
    table = pd.read_csv(finished.folder / "data/predictions.csv").set_index("path")
    text = section(markdown, "Most confident mistakes")
    for part in re.split(r"\*\*(?=baseline|augmented|transfer)", text)[1:]:
        variant = part.split("*")[0]
        rows = re.findall(r"^\| (test/\S+) +\| (\S+) +\| (\S+) +\|$", part, re.MULTILINE)
        assert rows
        for path, label, probability in rows:
            assert table.loc[path, "label"] == label
            assert f"{table.loc[path, variant]:.4f}" == probability
            assert (label == "PNEUMONIA") != (table.loc[path, variant] >= 0.5)


@pytest.mark.slow
def test_the_same_results_give_the_same_report(finished: Project, page: Path) -> None:
    before = page.read_bytes()
    finished.run("dvc repro --force --single-item report")
    assert page.read_bytes() == before


@pytest.mark.slow
def test_recorded_redrawn_test_is_shown_for_the_kaggle_set_alone(
    finished: Project, markdown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "split.test=redrawn` splits all images anew" in markdown
    monkeypatch.chdir(finished.folder)
    params = module.EvaluateParams(min_recall=0.98, prevalence=0.2, resamples=100)
    for settings, told in (
        ({"data.source": "kaggle", "split.test": "official"}, "docs/experiments.csv, gives"),
        ({"data.source": "phantom", "split.test": "redrawn"}, "is itself redrawn"),
    ):
        text = module.report(module.read_results(settings, params)).to_markdown()
        assert told in text


@pytest.mark.slow
def test_charts_are_well_formed(page: Path) -> None:
    sources = re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page.read_text())
    assert len(sources) == len(CHARTS)
    for source in sources:
        assert ElementTree.fromstring(base64.b64decode(source)).tag.endswith("svg")


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1400])
def test_page_in_a_browser(browser: Browser, page: Path, width: int) -> None:
    told: list[str] = []
    with browser.new_page(viewport={"width": width, "height": 900}) as tab:
        tab.on("console", lambda message: told.append(message.text))
        tab.on("pageerror", lambda error: told.append(str(error)))
        tab.on("request", lambda request: told.append(request.url))
        tab.goto(page.as_uri())
        outside = [entry for entry in told if not entry.startswith(("data:", page.as_uri()))]
        assert outside == []
        titles = tab.locator(".charts figcaption").all_inner_texts()
        assert [t for t, start in zip(titles, CHARTS, strict=True) if not t.startswith(start)] == []
        broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
        assert tab.evaluate(broken) == 0
        # No sideways scrolling of the page, and charts large enough to read.
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        boxes = [figure.bounding_box() for figure in tab.locator(".charts figure").all()]
        assert all(box and 300 <= box["width"] <= 700 for box in boxes)
        assert tab.evaluate("getComputedStyle(document.querySelector('td')).fontSize") == "14px"


def test_thirds_of_any_sizes() -> None:
    assert _thirds(pd.Series([256.0] * 5)).unique().tolist() == ["256 pixels"]
    assert _thirds(pd.Series([1.0, 2.0])).notna().all()
    assert _thirds(pd.Series([5.0] * 8 + [9.0])).str.match(r"\d+ to \d+ pixels").all()
    found = _thirds(pd.Series(range(100, 400)).astype(float))
    assert found.value_counts().tolist() == [100, 100, 100]
