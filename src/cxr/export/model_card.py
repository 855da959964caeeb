"""The model card (Mitchell 2019, 10.1145/3287560.3287596) of the recommended variant.

Every number comes from the metrics of the run, so that the card cannot become outdated.
"""

import json
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cxr import paths
from cxr.common.names import LABELS, SPLITS
from cxr.data.known_sets import KNOWN_SETS
from cxr.evaluation.groups import reported_groups
from cxr.evaluation.results import Evaluation, Intervals
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
    evaluation: Evaluation
    intervals: Intervals
    groups: pd.DataFrame
    export: Metrics

    @property
    def variant(self) -> str:
        """The recommended variant."""
        return best_variant(self.evaluation)


def read_inputs(settings: Metrics, export: Metrics) -> CardInputs:
    """Read the outputs of the previous stages."""
    return CardInputs(
        settings=settings,
        data=json.loads(paths.DATA_METRICS.read_text(encoding="utf-8")),
        evaluation=Evaluation.read(),
        intervals=Intervals.read(),
        groups=pd.read_csv(paths.GROUPS, dtype={"group": str}),
        export=export,
    )


def card(inputs: CardInputs) -> Document:
    """The model card; equal inputs give equal documents."""
    variant = inputs.variant
    metrics = inputs.evaluation.variants[variant]
    test, val = (split.columns[variant] for split in (inputs.intervals.test, inputs.intervals.val))
    groups = reported_groups(inputs.groups)
    values = {
        **vars(inputs),
        "variant": variant,
        "threshold": metrics.operating_point.threshold,
        "source": SOURCES[inputs.settings["data.source"]],
        "counts": pd.DataFrame(
            {"split": split} | {name: inputs.data[split][name] for name in COUNTS}
            for split in SPLITS
        ),
        "metrics": tables.summary({"test": test, "validation": val}),
        "values": {"ppv": span(test.operating_point.ppv), "npv": span(test.operating_point.npv)},
        "specificity": {
            split: column.operating_point.specificity.value
            for split, column in {"val": val, "test": test}.items()
        },
        "groups": groups.reindex(columns=["images", variant])
        .rename(columns={variant: "accuracy"})
        .rename_axis("subgroup"),
        "stress": pd.DataFrame(
            {"condition": name.replace("_", " ")}
            | {title: getattr(of, key) for key, title in CONDITION_COLUMNS.items()}
            for name, of in metrics.stress.items()
        ),
    }
    return Document("model_card.md.j2", values)
