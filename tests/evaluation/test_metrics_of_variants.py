"""Metrics, curves and confusion counts of one set of images."""

import numpy as np
import pandas as pd

from cxr.common.names import LABELS, VARIANTS
from cxr.evaluation import metrics
from tests.support import results

BASELINE = [0.1, 0.35, 0.45, 0.8, 0.3, 0.45, 0.5, 0.9]
THRESHOLDS = {"baseline": 0.4, "augmented": 1.0, "transfer": 0.4, "finetuned": 0.6, "ensemble": 0.5}


def images() -> pd.DataFrame:
    """Four images of each class."""
    label = np.repeat(LABELS, 4)
    constant = {"transfer": 0.4, "finetuned": 0.6, "ensemble": 0.5}
    perfect = (label == "PNEUMONIA").astype(float)
    return pd.DataFrame({"label": label, "baseline": BASELINE, "augmented": perfect, **constant})


def test_confusions() -> None:
    found = metrics.confusions(images(), THRESHOLDS)
    assert list(found.columns) == ["variant", "threshold", "actual", "predicted", "images"]
    sums = found.groupby(["variant", "threshold"], sort=False)["images"].sum()
    assert list(sums.index) == [(v, t) for v in VARIANTS for t in ("at 0.5", "operating point")]
    assert set(sums) == {8}
    cells = found.set_index(["variant", "threshold", "actual", "predicted"])["images"]
    order = [(a, p) for a in LABELS for p in LABELS]
    assert [cells["baseline", "at 0.5", *cell] for cell in order] == [3, 1, 2, 2]
    assert [cells["baseline", "operating point", *cell] for cell in order] == [2, 2, 1, 3]
    assert [cells["transfer", "operating point", *cell] for cell in order] == [0, 4, 0, 4]


def test_curves() -> None:
    found = metrics.curves(images())
    assert list(found) == ["roc", "precision_recall"]
    assert list(found["roc"].columns) == ["fpr", "tpr", "variant"]
    assert list(found["precision_recall"].columns) == ["recall", "precision", "variant"]
    makers = (metrics.roc_curve, metrics.precision_recall_curve)
    for table, maker in zip(found.values(), makers, strict=True):
        assert list(table["variant"].unique()) == list(VARIANTS)
        for variant, curve in table.groupby("variant"):
            wanted = maker(*metrics.labels_and_probabilities(images(), str(variant)))
            np.testing.assert_allclose(curve.drop(columns="variant"), wanted, atol=1e-5)


def test_summary_has_few_numbers_of_short_names() -> None:
    values = {"recall": 0.98765, "precision": 0.5, "accuracy": 1.0}
    evaluation = results.evaluation(
        {f"transfer.operating_point.test.{name}": value for name, value in values.items()}
        | {"transfer.test.roc_auc": 0.91236, "transfer.tuning.roc_auc": 0.95}
    )
    found = metrics.summary(evaluation)
    assert list(found) == ["b", "a", "t", "f", "e"]
    assert found["t"] == {"rec": 0.988, "pre": 0.5, "acc": 1.0, "auc": 0.912, "tun": 0.95}
    assert found["b"] == dict.fromkeys(found["t"], 0.5)
