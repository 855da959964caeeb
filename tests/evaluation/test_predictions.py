"""Predictions of all variants and their metrics."""

import json
from pathlib import Path

import pandas as pd
import pytest

from cxr import paths
from cxr.common.files import write_csv
from cxr.common.names import TRAINED
from cxr.errors import CxrError
from cxr.evaluation.predictions import INDEX, evaluate, merge
from cxr.evaluation.results import Evaluation, SplitMetrics

VARIANTS = ["baseline", "augmented", "transfer", "finetuned", "ensemble"]


def predictions() -> pd.DataFrame:
    """Validation of 10 images, 6 of them positive; test of 8, 4 of them; one condition of the
    stress-test set with the same predictions.
    """
    labels = ["NORMAL"] * 4 + ["PNEUMONIA"] * 6 + ["NORMAL"] * 4 + ["PNEUMONIA"] * 4
    baseline = [0.1, 0.2, 0.3, 0.8, 0.4, 0.6, 0.7, 0.75, 0.9, 0.95]
    baseline += [0.1, 0.35, 0.45, 0.8, 0.3, 0.45, 0.5, 0.9]
    table = pd.DataFrame(
        {
            "path": [f"{number}.png" for number in range(18)],
            "patient": [str(number) for number in range(18)],
            "split": ["val"] * 10 + ["test"] * 8,
            "label": labels,
            "pathogen": "none",
            "condition": "plain",
            "baseline": baseline,
            "augmented": [float(label == "PNEUMONIA") for label in labels],
            "transfer": 0.4,
            "finetuned": 0.6,
            "ensemble": 0.5,
        }
    )
    stress = table[:10].assign(split="stress", condition="dark")
    return pd.concat([table, stress], ignore_index=True)


def test_structure_of_the_evaluation() -> None:
    scales = {"transfer": {"slope": 1.0, "intercept": 0.0}}
    found = evaluate(predictions(), 0.9, 0.2, scales)
    assert list(found.variants) == VARIANTS
    assert {name: of.scales for name, of in found.variants.items() if of.scales} == {
        "ensemble": scales
    }
    assert all(list(of.stress) == ["dark"] for of in found.variants.values())
    assert Evaluation.parse(json.dumps(found.model_dump(), allow_nan=False), "") == found


def test_every_variant_and_split_is_scored_by_its_own_rows() -> None:
    found = evaluate(predictions(), 0.9, 0.2)
    baseline, augmented, transfer = (found.variants[name] for name in VARIANTS[:3])

    def counts(metrics: SplitMetrics) -> list[int]:
        return [metrics.n, metrics.tn, metrics.fp, metrics.fn, metrics.tp]

    assert counts(baseline.val) == [10, 3, 1, 1, 5]
    assert counts(baseline.test) == [8, 3, 1, 2, 2]
    assert baseline.val.roc_auc == pytest.approx(20 / 24)
    assert baseline.test.roc_auc == pytest.approx(10.5 / 16)
    assert counts(augmented.test) == [8, 4, 0, 0, 4]
    assert augmented.test.average_precision == 1
    assert counts(transfer.test) == [8, 4, 0, 4, 0]
    assert transfer.test.roc_auc == 0.5


@pytest.mark.parametrize(
    ("min_recall", "threshold", "test"),
    [  # accuracy, precision, recall, specificity on test
        (1.0, 0.4, (5 / 8, 3 / 5, 3 / 4, 2 / 4)),
        (0.8, 0.4, (5 / 8, 3 / 5, 3 / 4, 2 / 4)),
        (0.3, 0.9, (5 / 8, 1, 1 / 4, 1)),
    ],
)
def test_operating_point(min_recall: float, threshold: float, test: tuple[float, ...]) -> None:
    point = evaluate(predictions(), min_recall, 0.2).variants["baseline"].operating_point
    assert point.threshold == threshold
    shown = ("accuracy", "precision", "recall", "specificity")
    assert tuple(getattr(point.test, name) for name in shown) == pytest.approx(test)
    recall, specificity = test[2:]
    predicted = 200 * recall + 800 * (1 - specificity)  # of 1000 people, 200 of them positive
    assert point.test.ppv == pytest.approx(200 * recall / predicted)
    assert point.test.npv == pytest.approx(800 * specificity / (1000 - predicted))
    assert point.val.recall >= min_recall


def test_threshold_does_not_depend_on_test() -> None:
    table = predictions()
    is_test = table["split"] == "test"
    other = table.copy()
    other.loc[is_test, "baseline"] = 1 - other.loc[is_test, "baseline"]
    changed = table.copy()
    changed.loc[~is_test, "baseline"] = 1 - changed.loc[~is_test, "baseline"]
    first, second, third = (
        evaluate(t, 0.9, 0.2).variants["baseline"].operating_point for t in (table, other, changed)
    )
    assert first.threshold == second.threshold
    assert first.val == second.val
    assert first.test != second.test
    assert first.threshold != third.threshold


def test_threshold_is_chosen_on_the_whole_tuning_set() -> None:
    table = predictions()
    positive_stress = (table["split"] == "stress") & (table["label"] == "PNEUMONIA")
    table.loc[positive_stress, "baseline"] -= 0.35
    same, lower = (evaluate(t, 1.0, 0.2).variants["baseline"] for t in (predictions(), table))
    assert same.operating_point.threshold == 0.4
    assert lower.operating_point.threshold == pytest.approx(0.05)
    assert lower.operating_point.tuning.recall == 1
    assert lower.tuning.n == 20
    assert lower.val == same.val
    # The condition alone: the positive images are now ranked below some negative ones.
    assert same.stress["dark"].roc_auc == pytest.approx(20 / 24)
    positive, negative = [0.05, 0.25, 0.35, 0.4, 0.55, 0.6], [0.1, 0.2, 0.3, 0.8]
    in_order = sum(p > n for p in positive for n in negative)
    assert lower.stress["dark"].roc_auc == pytest.approx(in_order / 24)
    assert lower.stress["dark"].specificity == 0


def test_majority_predicts_pneumonia_everywhere() -> None:
    majority = evaluate(predictions(), 0.9, 0.2).majority
    assert majority.val.accuracy == pytest.approx(0.6)
    assert majority.test.accuracy == pytest.approx(0.5)


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """The table of each variant in the folder of the pipeline; returns that of all."""
    monkeypatch.chdir(tmp_path)
    together = predictions().drop(columns="ensemble")
    for variant in TRAINED:
        write_csv(paths.predictions(variant), together[INDEX].assign(probability=together[variant]))
    return together[[*INDEX, *TRAINED]]


def test_the_tables_of_all_variants_are_merged(tables: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(merge(), tables, check_exact=True)


def test_a_table_of_other_images_is_reported(tables: pd.DataFrame) -> None:
    table = tables[INDEX].assign(probability=0.5)
    write_csv(paths.predictions("transfer"), table[::-1])
    with pytest.raises(CxrError, match=r"transfer\.csv is of other images than .*baseline\.csv"):
        merge()


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("content", [None, "", "path,label\na,b\n"])
def test_a_missing_or_damaged_table_is_reported(content: str | None) -> None:
    paths.predictions("transfer").unlink()
    if content is not None:
        paths.predictions("transfer").write_text(content)
    with pytest.raises(CxrError, match=r"transfer\.csv cannot be read .*predict@transfer"):
        merge()
