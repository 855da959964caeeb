"""The tables of the docs match the metrics, and all links lead to files."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cxr import paths
from cxr.common.names import VARIANTS
from cxr.data import leakage, manifest
from cxr.errors import CxrError
from cxr.evaluation.results import Evaluation, Intervals
from cxr.export import drift
from cxr.inference import output
from cxr.reporting.document import with_table
from cxr.tools import experiments, readme
from cxr.tools.project_copy import PROJECT
from tests.support.results import changed

README = (PROJECT / "README.md").read_text(encoding="utf-8")
RESULTS = (PROJECT / "docs/results.md").read_text(encoding="utf-8")
USE = (PROJECT / "docs/use.md").read_text(encoding="utf-8")
EVALUATION = Evaluation.read(PROJECT / paths.EVALUATION)
INTERVALS = Intervals.read(PROJECT / paths.INTERVALS)
GROUPS = pd.read_csv(PROJECT / paths.GROUPS)
RECORD = experiments.read_record(PROJECT / paths.EXPERIMENTS)
BENCHMARKS = json.loads((PROJECT / paths.BENCHMARKS).read_text(encoding="utf-8"))


PAGES_WITH_TABLES = {readme.README: README, readme.RESULTS: RESULTS, readme.USE: USE}


def written(evaluation: Evaluation = EVALUATION) -> dict[Path, str]:
    """The pages with tables from an evaluation."""
    texts = dict(PAGES_WITH_TABLES)
    for page, tables in readme.tables(evaluation, INTERVALS, GROUPS, RECORD, BENCHMARKS).items():
        for name, table in tables.items():
            texts[page] = with_table(texts[page], name, table)
    return texts


@pytest.mark.parametrize("page", PAGES_WITH_TABLES, ids=str)
def test_tables_match_the_results(page: Path) -> None:
    """As written by `make readme`."""
    assert written()[page] == PAGES_WITH_TABLES[page]


def test_missing_marker_comments_are_named() -> None:
    with pytest.raises(CxrError, match=r"<!-- results --> .* not found"):
        with_table("no table", "results", GROUPS)


def test_accuracy_by_group() -> None:
    row = {"split": "test", "kind": "acquisition", "label": "NORMAL", "group": "other"}
    shares = [
        row | {"images": 66, "variant": v, "accuracy": 0.1 * n} for n, v in enumerate(VARIANTS)
    ]
    found = readme.by_group(pd.DataFrame(shares))
    assert list(found["variant"]) == list(VARIANTS)
    assert list(found["NORMAL, other acquisition (66)"][:3]) == ["0.000", "0.100", "0.200"]


def test_seeds_of_the_last_commit_are_averaged() -> None:
    row = dict.fromkeys(experiments.COLUMNS, 0.5) | {"variant": "transfer", "changed": ""}
    runs = [
        ("old", 1, "", 0.1),
        ("new", 1, "", 0.6),
        ("new", 2, "", 0.8),
        ("new", 3, "model.epochs=9", 0.9),
    ]
    rows = [
        row | {"commit": commit, "seed": seed, "changed": changed, "test_roc_auc": number}
        for commit, seed, changed, number in runs
    ]
    found = readme.over_seeds(pd.DataFrame(rows))
    assert found["seeds"].tolist() == [2]
    assert found["test ROC AUC"].tolist() == ["0.700 ± 0.141"]
    assert readme.over_seeds(pd.DataFrame(rows[:0], columns=experiments.COLUMNS)).empty


def test_missed_speed_targets_are_marked() -> None:
    row = {"what": "x", "ours": 1.0, "notebook": 2.0, "unit": "s", "ratio": 0.5, "sizes": "all"}
    row |= {"repeats": 3, "target": 0.4, "at_least": False, "reached": False}
    alone = row | {"notebook": None, "ratio": 0.3, "reached": True}
    found = readme.speed({"a": {"rows": [row]}, "b": {"rows": [alone]}})
    assert found["target"].tolist() == ["at most 0.4, missed", "at most 0.4"]
    assert found["notebook's way"].tolist() == ["2 s", ""]
    assert found["pipeline"].tolist() == ["1 s", "1 s"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the pages and the inputs of their tables."""
    monkeypatch.chdir(tmp_path)
    inputs = (paths.EVALUATION, paths.INTERVALS, paths.GROUPS, paths.EXPERIMENTS, paths.BENCHMARKS)
    for path in (*PAGES_WITH_TABLES, *inputs):
        path.parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / path, path)
    return tmp_path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("<<<<<<< HEAD", "cannot be read"),
        ("[]", "different version"),
        ('{"baseline": {}}', "different version"),
    ],
)
def test_invalid_metrics_leave_the_pages_unchanged(
    project: Path, content: str | None, message: str
) -> None:
    paths.EVALUATION.unlink()
    if content:
        paths.EVALUATION.write_text(content)
    with pytest.raises(CxrError, match=rf"metrics/evaluation\.json.*{message}"):
        readme.main()
    assert all(page.read_text("utf-8") == text for page, text in PAGES_WITH_TABLES.items())


def test_the_command_writes_the_pages(project: Path) -> None:
    values = {
        "transfer.test.recall": 0.12345,
        "baseline.operating_point.threshold": 0.98765,
        "finetuned.operating_point.test.recall": 0.43219,
    }
    other = changed(EVALUATION, values)
    other.write()
    readme.main()
    texts = {page: page.read_text("utf-8") for page in PAGES_WITH_TABLES}
    assert texts == written(other)
    new_lines = {
        page: set(text.split("\n")) - set(PAGES_WITH_TABLES[page].split("\n"))
        for page, text in texts.items()
    }
    rows = {page: sorted(line.split()[1] for line in lines) for page, lines in new_lines.items()}
    assert rows == {
        readme.README: ["finetuned"],
        readme.RESULTS: ["baseline", "finetuned", "transfer"],
        readme.USE: [],
    }
    assert "| 0.432 " in texts[readme.README]
    assert all(f"| {x} " in texts[readme.RESULTS] for x in ("0.123", "0.9877", "0.432"))


def test_evaluation_covers_every_image_once() -> None:
    data = json.loads((PROJECT / "metrics/data.json").read_text(encoding="utf-8"))
    for variant in VARIANTS:
        test = EVALUATION.variants[variant].test
        assert test.n == data["test"]["images"] == test.tn + test.fp + test.fn + test.tp


PAGES = [
    *(file.name for file in PROJECT.glob("*.md")),
    *(str(file.relative_to(PROJECT)) for file in (PROJECT / "docs").rglob("*.md")),
]
ON_THE_HOST = "../../actions/"  # of the repository's pages: the badge of its workflow


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str) -> None:
    text = (PROJECT / page).read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]+))?\)", text)
    for target, anchor in targets:
        if not target.startswith(ON_THE_HOST):
            file = (PROJECT / page).parent / target if target else PROJECT / page
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), f"{target}#{anchor}"
    if page == "README.md":
        assert targets


def anchors(page: Path) -> list[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall("^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_every_decision_is_in_the_index() -> None:
    folder = PROJECT / "docs/decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^- \[(.*)\]\((.*)\)$", index, re.MULTILINE)
    assert len(listed) == len(list(folder.glob("[a-z]*.md")))
    for title, file in listed:
        assert (folder / file).read_text(encoding="utf-8").startswith(f"# {title}\n")


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 160


def names(value: Any) -> set[str]:
    """Keys of a JSON document that do not depend on the data or the variants."""
    if not isinstance(value, dict):
        return set()
    below = set().union(*map(names, value.values()))
    return below | {key for key in value if key not in OF_THE_DATA}


OF_THE_DATA = {
    *VARIANTS,
    *(variant[0] for variant in VARIANTS),
    *EVALUATION.variants["transfer"].stress,
    *(f"{one} - {other}" for one in VARIANTS for other in VARIANTS),
    "features",
}


def test_the_data_dictionary_is_complete() -> None:
    """It describes every column and key of the results in git."""
    known = set(
        re.findall("`([^`]+)`", (PROJECT / "docs/data_dictionary.md").read_text(encoding="utf-8"))
    )
    for file in (PROJECT / "metrics").glob("*.json"):
        content = json.loads(file.read_text(encoding="utf-8"))
        assert sorted(names(content) - known) == [], file
    for file in (PROJECT / "plots").rglob("*.csv"):
        assert sorted(set(pd.read_csv(file, nrows=1).columns) - known) == [], file
    assert (
        sorted({*manifest.COLUMNS, *leakage.COLUMNS, *drift.COLUMNS, *output.COLUMNS} - known) == []
    )


def test_every_make_target_named_exists() -> None:
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    for page in PAGES:
        text = (PROJECT / page).read_text(encoding="utf-8")
        for target in re.findall(r"`make ([a-z-]+)", text):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page}: make {target}"
