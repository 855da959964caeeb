"""The model card (Mitchell 2019, 10.1145/3287560.3287596) of the recommended variant.

Every number comes from the metrics of the run, so that the card cannot become outdated.
"""

import json
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cxr import paths
from cxr.common.names import EVALUATED, LABELS, SPLITS
from cxr.data.known_sets import KNOWN_SETS
from cxr.evaluation.groups import reported_groups
from cxr.evaluation.selection import best_variant
from cxr.reporting import tables
from cxr.reporting.document import Document
from cxr.reporting.formatting import span

Metrics = dict[str, Any]

SOURCES = {
    **{source: known.description for source, known in KNOWN_SETS.items()},
    "directory": "radiographs of a local folder (`data.source: directory`)",
    "phantom": "synthetic images, not radiographs (`data.source: phantom`): no medical meaning",
}
COUNTS = ("images", "patients", *LABELS)
CONDITION_COLUMNS = {"recall": "recall", "specificity": "specificity", "roc_auc": "ROC AUC"}


@dataclass(frozen=True)
class CardInputs:
    """Results of the previous stages.

    Attributes:
        settings: parameters of the run by their full names.
        data: content of metrics/data.json.
        evaluation: content of metrics/evaluation.json.
        intervals: content of metrics/intervals.json.
        groups: content of plots/groups.csv.
        export: content of metrics/export.json.
    """

    settings: Metrics
    data: Metrics
    evaluation: Metrics
    intervals: Metrics
    groups: pd.DataFrame
    export: Metrics

    @property
    def variant(self) -> str:
        """The recommended variant."""
        return best_variant(self.evaluation)


def read_inputs(settings: Metrics, export: Metrics) -> CardInputs:
    """Read the outputs of the previous stages."""
    data, evaluation, intervals = (
        json.loads(path.read_text(encoding="utf-8"))
        for path in (paths.DATA_METRICS, paths.EVALUATION, paths.INTERVALS)
    )
    groups = pd.read_csv(paths.GROUPS, dtype={"group": str})
    return CardInputs(settings, data, evaluation, intervals, groups, export)


def card(inputs: CardInputs) -> Document:
    """The model card; equal inputs give equal documents."""
    variant = inputs.variant
    columns = {split: inputs.intervals[split]["columns"][variant] for split in EVALUATED}
    points = {split: column["operating_point"] for split, column in columns.items()}
    groups = reported_groups(inputs.groups)
    values = {
        **vars(inputs),
        "variant": variant,
        "threshold": inputs.evaluation[variant]["operating_point"]["threshold"],
        "source": SOURCES[inputs.settings["data.source"]],
        "counts": pd.DataFrame(
            {"split": split} | {name: inputs.data[split][name] for name in COUNTS}
            for split in SPLITS
        ),
        "metrics": tables.summary({"test": columns["test"], "validation": columns["val"]}),
        "values": {name: span(points["test"][name]) for name in ("ppv", "npv")},
        "specificity": {split: of["specificity"]["value"] for split, of in points.items()},
        "groups": groups.reindex(columns=["images", variant])
        .rename(columns={variant: "accuracy"})
        .rename_axis("subgroup"),
        "stress": pd.DataFrame(
            {"condition": name.replace("_", " ")}
            | {title: of[key] for key, title in CONDITION_COLUMNS.items()}
            for name, of in inputs.evaluation[variant]["stress"].items()
        ),
    }
    return Document("model_card.md.j2", values)
