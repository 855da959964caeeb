"""The model card has the metrics of the run, whatever its data."""

import json
from dataclasses import replace

import pandas as pd
import pytest

from cxr import paths
from cxr.evaluation.results import Evaluation, Intervals
from cxr.export.model_card import SOURCES, CardInputs, card
from cxr.tools.project_copy import PROJECT
from tests.support.results import changed, interval

SETTINGS = {
    "data.source": "kaggle",
    "split.val_fraction": 0.1,
    "evaluate.min_recall": 0.98,
    "evaluate.prevalence": 0.16,
}
EXPORT = {
    "ood": {
        "false_positive_rate": {"val": 0.0111, "test": 0.0222},
        "detection_rate": {"negative": 0.333},
    }
}


@pytest.fixture(scope="module")
def inputs() -> CardInputs:
    """From the committed results."""
    data = json.loads((PROJECT / paths.DATA_METRICS).read_text())
    evaluation = Evaluation.read(PROJECT / paths.EVALUATION)
    intervals = Intervals.read(PROJECT / paths.INTERVALS)
    groups = pd.read_csv(PROJECT / paths.GROUPS, dtype={"group": str})
    return CardInputs(SETTINGS, data, evaluation, intervals, groups, EXPORT)


def text(inputs: CardInputs) -> str:
    return card(inputs).to_markdown()


def test_it_excludes_clinical_use(inputs: CardInputs) -> None:
    assert "**Not for clinical use" in text(inputs)


@pytest.mark.parametrize("metric", ["recall", "precision", "specificity", "ppv"])
def test_a_metric_has_its_value_and_interval(inputs: CardInputs, metric: str) -> None:
    key = f"test.columns.{inputs.variant}.operating_point.{metric}"
    intervals = changed(inputs.intervals, {key: interval(0.1234, 0.1111, 0.1357)})
    before, after = text(inputs), text(replace(inputs, intervals=intervals))
    assert "0.123 (0.111-0.136)" in after
    assert "0.123 (0.111-0.136)" not in before


def test_it_is_about_the_recommended_variant(inputs: CardInputs) -> None:
    point = "transfer.operating_point"
    values = {f"{point}.tuning.precision": 1.0, f"{point}.threshold": 0.777}
    evaluation = changed(inputs.evaluation, values)
    told = text(replace(inputs, evaluation=evaluation))
    assert "variant transfer" in told and "at least 0.777" in told
    recall = inputs.intervals.test.columns["transfer"].operating_point.recall
    assert f"{recall.value:.3f}" in told


def test_counts_subgroups_conditions_and_ood_rates_are_those_of_the_run(inputs: CardInputs) -> None:
    told = text(inputs)
    for name in ("train", "test"):
        assert str(inputs.data[name]["patients"]) in told
    for name, of in inputs.evaluation.variants[inputs.variant].stress.items():
        row = next(line for line in told.splitlines() if f"| {name.replace('_', ' ')} " in line)
        assert f"{of.recall:.3f}" in row and f"{of.roc_auc:.3f}" in row
    assert "1.1 % on validation and 2.2 % on test" in told and "negative 33 %" in told
    assert "virus" in told.lower()


@pytest.mark.parametrize("source", SOURCES)
def test_the_data_source_is_described(inputs: CardInputs, source: str) -> None:
    content = text(replace(inputs, settings=inputs.settings | {"data.source": source}))
    assert SOURCES[source] in content
    assert ("Guangzhou" in content) == (source in ("kaggle", "mendeley"))


def test_unknown_subgroups_are_stated(inputs: CardInputs) -> None:
    assert "No subgroups are known" in text(replace(inputs, groups=inputs.groups.iloc[:0]))
