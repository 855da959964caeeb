"""The model card (Mitchell 2019, 10.1145/3287560.3287596) of the recommended variant.

Every number comes from the metrics of the run, so that the card cannot go stale.
"""

import json
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cxr import paths
from cxr.comparison import best_variant
from cxr.document import Document, Section, Table
from cxr.known_sets import KNOWN_SETS
from cxr.labels import SPLITS
from cxr.recommendation import span
from cxr.styles import named_groups

Metrics = dict[str, Any]

SOURCES = {
    **{source: known.description for source, known in KNOWN_SETS.items()},
    "directory": "radiographs of a folder of its own (`data.source: directory`)",
    "phantom": "drawn images, no radiographs (`data.source: phantom`); of no medical meaning",
}
RATES = {
    **{"recall": "recall (sensitivity)", "specificity": "specificity", "precision": "precision"},
    **{"accuracy": "accuracy", "f1": "F1"},
}


@dataclass(frozen=True)
class Facts:
    """What a card is made of.

    Attributes:
        settings: parameters of the run by their full names.
        data: content of metrics/data.json.
        evaluation: content of metrics/evaluation.json.
        intervals: content of metrics/intervals.json.
        groups: content of plots/groups.csv.
        export: what the stage export found.
    """

    settings: Metrics
    data: Metrics
    evaluation: Metrics
    intervals: Metrics
    groups: pd.DataFrame
    export: Metrics

    @property
    def variant(self) -> str:
        """The recommended one."""
        return best_variant(self.evaluation)


def read_facts(settings: Metrics, export: Metrics) -> Facts:
    """Read what the stages before have written."""
    data, evaluation, intervals = (
        json.loads(path.read_text(encoding="utf-8"))
        for path in (paths.DATA_METRICS, paths.EVALUATION, paths.INTERVALS)
    )
    groups = pd.read_csv(paths.GROUPS, dtype={"group": str})
    return Facts(settings, data, evaluation, intervals, groups, export)


def card(facts: Facts) -> Document:
    """The whole card; the same facts give the same document."""
    return Document(
        f"Model card: pneumonia on pediatric chest radiographs, variant {facts.variant}",
        [
            _use(facts),
            _data(facts),
            _results(facts),
            _groups(facts),
            _stress(facts),
            _limits(facts),
        ],
    )


def _use(facts: Facts) -> Section:
    threshold = facts.evaluation[facts.variant]["operating_point"]["threshold"]
    return Section(
        "What it is for",
        [
            "Research on classifiers of chest radiographs. **Not for clinical use:** it is no "
            "medical device, and nobody has tried it on patients.",
            "From one frontal chest radiograph of a child it computes a probability of PNEUMONIA, "
            f"and says PNEUMONIA from {threshold:.3f} on. This operating point has the highest "
            "precision on plain and stressed validation with a recall of at least "
            f"{facts.settings['evaluate.min_recall']:g} there; test had no part in it.",
        ],
    )


def _data(facts: Facts) -> Section:
    counts = pd.DataFrame(
        {"split": name, **{key: facts.data[name][key] for key in ("images", "patients")}}
        | {label: facts.data[name][label] for label in ("NORMAL", "PNEUMONIA")}
        for name in SPLITS
    )
    fraction = facts.settings["split.val_fraction"]
    return Section(
        "Data",
        [
            f"Trained on {SOURCES[facts.settings['data.source']]}. As published:",
            Table(counts),
            f"For the training, validation is drawn anew by patient ({fraction:g} of those who are "
            "not in test). No patient is in two splits, as far as file names tell patients.",
        ],
    )


def _results(facts: Facts) -> Section:
    of_test, of_val = (facts.intervals[s]["columns"][facts.variant] for s in ("test", "val"))
    points = of_test["operating_point"], of_val["operating_point"]
    rows = [
        {"metric": title, "test": span(points[0][name]), "validation": span(points[1][name])}
        for name, title in RATES.items()
    ]
    for name, title in {"roc_auc": "ROC AUC", "brier": "Brier score"}.items():
        rows.append(
            {"metric": title, "test": span(of_test[name]), "validation": span(of_val[name])}
        )
    prevalence = facts.settings["evaluate.prevalence"]
    values = {name: span(of_test["operating_point"][name]) for name in ("ppv", "npv")}
    return Section(
        "Results",
        [
            "At the operating point, value and 95 % interval of a bootstrap over patients. It does "
            "not hold the chance of training: another seed gives another model.",
            Table(pd.DataFrame(rows)),
            f"Where {prevalence:.0%} of the patients are ill, {values['ppv']} of those called "
            f"PNEUMONIA are (positive predictive value), and {values['npv']} of those called "
            "NORMAL are well.",
        ],
    )


def _groups(facts: Facts) -> Section:
    table = named_groups(facts.groups)
    if table.empty:
        return Section("Groups", ["The data tell no groups of patients or of images apart."])
    shares = table[facts.variant].map("{:.3f}".format)
    rows = pd.DataFrame({"group": table.index, "images": table["images"], "right": shares})
    return Section(
        "Groups",
        [
            "Share of right calls on test at the operating point. Age, sex and origin are not "
            "known, so nothing can be said of them.",
            Table(rows),
        ],
    )


def _stress(facts: Facts) -> Section:
    found = facts.evaluation[facts.variant]["stress"]
    rows = [
        {"condition": name.replace("_", " ")}
        | {key: f"{of[key]:.3f}" for key in ("recall", "specificity")}
        | {"ROC AUC": f"{of['roc_auc']:.3f}"}
        for name, of in found.items()
    ]
    return Section(
        "Other machines",
        [
            "Validation images changed as other machines and people might have made them, at the "
            "operating point:",
            Table(pd.DataFrame(rows)),
        ],
    )


def _limits(facts: Facts) -> Section:
    alarms = facts.export["false_alarms"]
    marked = ", ".join(f"{name} {of:.0%}" for name, of in facts.export["alarms"].items())
    rates = (facts.intervals[s]["columns"][facts.variant] for s in ("val", "test"))
    val, test = (of["operating_point"]["specificity"]["value"] for of in rates)
    return Section(
        "Limits",
        [
            "- Labels, patients and machines of one source: elsewhere it can be worse. Specificity "
            f"is {val:.3f} on validation and {test:.3f} on test.\n"
            "- PNEUMONIA against NORMAL alone: other diseases, tubes and implants were not "
            "labelled, and it has an answer for every image.\n"
            "- The warning about unfamiliar images is wrong for "
            f"{alarms['val']:.1%} of validation and {alarms['test']:.1%} of test. Of altered "
            f"validation images it marks: {marked}; it does not notice the others.\n"
            "- The confidence is calibrated on validation, for as many ill as there are in it.",
        ],
    )
