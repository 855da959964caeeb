"""Covariate shift between splits, measured by a domain classifier (Ben-David 2010, Rabanser 2019).

It only describes the data: nothing is chosen by it.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.random_projection import SparseRandomProjection

from cxr.common.arrays import Split, evenly_spaced
from cxr.common.names import LABELS

FOLDS = 5
SEED = 1  # of the folds and of the projection
STRENGTH = 0.001  # inverse regularization: there are more features than test images of one class
WIDEST = 4096  # features; more, such as flattened feature maps, are projected to half of that
MAX_IMAGES = 10_000  # images of a class and split to compare: of 2048 features, 80 MB

Rows = NDArray[np.floating[Any]]


def domain_probabilities(train: Rows, other: Rows, patients: pd.Series) -> NDArray[np.float64]:
    """Cross-validated probabilities of a linear classifier that separates another split from train.

    Logistic regression on standardized features, with 5 folds by patient.

    Args:
        train: features (N, D).
        other: features (M, D).
        patients: of the N and the M images, in this order.

    Returns:
        Each image's probability (0 to 1) of belonging to the other split, (N + M,).
    """
    rows = np.concatenate([train, other])
    if rows.shape[1] > WIDEST:
        rows = SparseRandomProjection(WIDEST // 2, random_state=SEED).fit_transform(rows)
    is_other = np.repeat([0, 1], [len(train), len(other)])
    classifier = make_pipeline(
        StandardScaler(), LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=1000)
    )
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=SEED)
    return cross_val_predict(
        classifier, rows, is_other, groups=patients, cv=folds, method="predict_proba"
    )[:, 1]


def domain_auc(
    splits: dict[str, Split], features: dict[str, Rows]
) -> tuple[dict[str, dict[str, float]], pd.DataFrame]:
    """Compare validation and test with train, each class by itself.

    Returns:
        `{split: {class: ROC AUC}}` of the domain classifier, about 0.5 without shift (a class of
        fewer than 5 patients is omitted), and a table of the test images with the columns path,
        label, unlikeness: the probability of not being a training image. Of each class at most
        `MAX_IMAGES` images are compared, evenly spaced.
    """
    aucs: dict[str, dict[str, float]] = {"val": {}, "test": {}}
    tables = [pd.DataFrame(columns=["path", "label", "unlikeness"])]
    train = splits["train"].index
    for name, label in [(name, label) for name in aucs for label in LABELS]:
        index = splits[name].index
        train_rows, rows = (_sample(table, label) for table in (train, index))
        patients = [train["patient"].iloc[train_rows], index["patient"].iloc[rows]]
        if min(names.nunique() for names in patients) < FOLDS:
            continue
        probabilities = domain_probabilities(
            features["train"][train_rows], features[name][rows], pd.concat(patients)
        )
        is_other = np.repeat([0, 1], [len(train_rows), len(rows)])
        aucs[name][label] = float(roc_auc_score(is_other, probabilities))
        if name == "test":
            table = index[["path", "label"]].iloc[rows]
            tables.append(table.assign(unlikeness=probabilities[len(train_rows) :]))
    return aucs, pd.concat(tables, ignore_index=True)


def _sample(index: pd.DataFrame, label: str) -> NDArray[np.int64]:
    """Row numbers of at most `MAX_IMAGES` images of a class, evenly spaced."""
    rows = np.flatnonzero(index["label"] == label)
    return rows[evenly_spaced(len(rows), MAX_IMAGES)]
