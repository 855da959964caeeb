"""The README's figures are those of metrics/evaluation.json, and its links lead somewhere."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cxr import experiments, paths, readme
from cxr.demo import PROJECT
from cxr.errors import CxrError
from cxr.variants import VARIANTS

README = (PROJECT / "README.md").read_text(encoding="utf-8")
USE = (PROJECT / "docs/use.md").read_text(encoding="utf-8")
EVALUATION: dict[str, Any] = json.loads(
    (PROJECT / "metrics/evaluation.json").read_text(encoding="utf-8")
)
GROUPS = pd.read_csv(PROJECT / paths.GROUPS)
RECORD = experiments.read_record(PROJECT / paths.EXPERIMENTS)
BENCHMARKS = json.loads((PROJECT / paths.BENCHMARKS).read_text(encoding="utf-8"))


def with_results(text: str, evaluation: dict[str, Any] = EVALUATION) -> str:
    return readme.with_results(text, evaluation, GROUPS, RECORD, BENCHMARKS)


def test_tables_are_the_results() -> None:
    """`make readme` writes them."""
    assert with_results(README) == README
    assert len(readme.at_half(EVALUATION)) == len(VARIANTS) + len(readme.NOTEBOOK) + 1
    assert readme.with_speed(USE, BENCHMARKS) == USE


def test_another_result_is_another_table() -> None:
    other = json.loads(json.dumps(EVALUATION))
    other["transfer"]["test"]["recall"] = 0.12345
    other["baseline"]["operating_point"]["selection"]["precision"] = 0.54321
    changed = set(with_results(README, other).split("\n")) - set(README.split("\n"))
    assert sorted(line.split()[1] for line in changed) == ["baseline", "transfer"]
    assert "| 0.123 " in "".join(changed)
    assert "| 0.543 " in "".join(changed)


def test_a_lost_comment_is_named() -> None:
    with pytest.raises(CxrError, match=r"no <!-- results at 0\.5 -->"):
        with_results("no table")


def test_shares_of_groups() -> None:
    row = {"split": "test", "kind": "acquisition", "label": "NORMAL", "group": "other"}
    shares = [row | {"images": 66, "variant": v, "right": 0.1 * n} for n, v in enumerate(VARIANTS)]
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


def test_speed_says_what_was_missed() -> None:
    row = {"what": "x", "ours": 1.0, "notebook": 2.0, "unit": "s", "ratio": 0.5, "sizes": "all"}
    row |= {"repeats": 3, "target": 0.4, "at_least": False, "reached": False}
    alone = row | {"notebook": None, "ratio": 0.3, "reached": True}
    found = readme.speed({"a": {"rows": [row]}, "b": {"rows": [alone]}})
    assert found["target"].tolist() == ["at most 0.4, missed", "at most 0.4"]
    assert found["notebook's way"].tolist() == ["2 s", ""]
    assert found["pipeline"].tolist() == ["1 s", "1 s"]


def write_inputs() -> None:
    readme.README.write_text(README, encoding="utf-8")
    paths.GROUPS.parent.mkdir()
    GROUPS.to_csv(paths.GROUPS, index=False)
    paths.EXPERIMENTS.parent.mkdir()
    RECORD.to_csv(paths.EXPERIMENTS, index=False)
    readme.USE.write_text(USE, encoding="utf-8")
    paths.BENCHMARKS.parent.mkdir()
    paths.BENCHMARKS.write_text(json.dumps(BENCHMARKS))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read"),
        ("<<<<<<< HEAD", "cannot be read"),
        ("[]", "is of other code"),
        ('{"baseline": {}}', "is of other code"),
    ],
)
def test_metrics_that_make_no_table_leave_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_inputs()
    paths.EVALUATION.parent.mkdir()
    if content:
        paths.EVALUATION.write_text(content)
    with pytest.raises(CxrError, match=rf"metrics/evaluation\.json .*{told}"):
        readme.main()
    assert readme.README.read_text(encoding="utf-8") == README


def test_the_command_writes_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    other = json.loads(json.dumps(EVALUATION))
    other["baseline"]["operating_point"]["threshold"] = 0.98765
    write_inputs()
    paths.EVALUATION.parent.mkdir()
    paths.EVALUATION.write_text(json.dumps(other))
    readme.main()
    assert readme.README.read_text(encoding="utf-8") == with_results(README, other)
    assert readme.USE.read_text(encoding="utf-8") == USE
    assert "| 0.9877 " in readme.README.read_text(encoding="utf-8")


def test_evaluation_covers_every_image_once() -> None:
    data = json.loads((PROJECT / "metrics/data.json").read_text(encoding="utf-8"))
    for variant in VARIANTS:
        test = EVALUATION[variant]["test"]
        assert test["n"] == data["test"]["images"] == sum(test[k] for k in ("tn", "fp", "fn", "tp"))


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "SECURITY.md",
        *(f"docs/{page.name}" for page in (PROJECT / "docs").glob("*.md")),
    ],
)
def test_links_lead_to_files(page: str) -> None:
    text = (PROJECT / page).read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    assert all(((PROJECT / page).parent / target).exists() for target in targets)
    if page == "README.md":
        assert targets


def test_every_make_target_named_exists() -> None:
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`?make ([a-z-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
