"""The README's figures are those of metrics/evaluation.json, and its links lead somewhere."""

import json
import re
from typing import Any

import pytest

from cxr.demo import PROJECT
from cxr.variants import VARIANTS

README = (PROJECT / "README.md").read_text(encoding="utf-8")
EVALUATION: dict[str, Any] = json.loads(
    (PROJECT / "metrics/evaluation.json").read_text(encoding="utf-8")
)


def figures(metrics: dict[str, float], names: str) -> str:
    return " | ".join(f"{metrics[name]:.3f}" for name in names.split())


@pytest.mark.parametrize("variant", VARIANTS)
def test_results_at_half(variant: str) -> None:
    test = EVALUATION[variant]["test"]
    counts = " / ".join(str(test[name]) for name in ("tn", "fp", "fn", "tp"))
    val = EVALUATION[variant]["val"]
    row = (
        f"| {variant} | {figures(test, 'recall precision accuracy specificity roc_auc')} "
        f"| {counts} | {figures(val, 'recall precision accuracy roc_auc')} |"
    )
    assert row in README


@pytest.mark.parametrize("variant", VARIANTS)
def test_results_at_the_operating_point(variant: str) -> None:
    point = EVALUATION[variant]["operating_point"]
    row = (
        f"| {variant} | {point['threshold']:.4f} | {figures(point['val'], 'recall precision')} "
        f"| {figures(point['test'], 'recall precision accuracy specificity')} |"
    )
    assert row in README


def test_majority() -> None:
    accuracy = EVALUATION["majority"]["test"]["accuracy"]
    assert f"| always PNEUMONIA | 1.000 | {accuracy:.3f} | {accuracy:.3f} | 0.000 |" in README


@pytest.mark.parametrize(
    ("variant", "tn", "fp", "fn", "tp"),
    [
        ("baseline", 116, 130, 6, 404),
        ("augmented", 162, 84, 12, 398),
        ("transfer", 140, 106, 16, 394),
    ],
)
def test_figures_of_the_notebook_follow_from_its_counts(
    variant: str, tn: int, fp: int, fn: int, tp: int
) -> None:
    rates = (tp / (tp + fn), tp / (tp + fp), (tp + tn) / (tp + tn + fp + fn), tn / (tn + fp))
    row = f"| notebook: {variant} | {' | '.join(f'{rate:.3f}' for rate in rates)} |"
    assert row in README
    assert f"{tn} / {fp} / {fn} / {tp}" in README


def test_evaluation_covers_every_image_once() -> None:
    data = json.loads((PROJECT / "metrics/data.json").read_text(encoding="utf-8"))
    for variant in VARIANTS:
        test = EVALUATION[variant]["test"]
        assert test["n"] == data["test"]["images"] == sum(test[k] for k in ("tn", "fp", "fn", "tp"))


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md", "docs/experiments.md"])
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
