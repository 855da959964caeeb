"""The variant `ensemble`: the mean of its members' calibrated probabilities.

Networks are unequally sure of themselves, so their probabilities are brought to one scale before
they are averaged: by Platt scaling (Platt 1999), a logistic regression of the label on the logit,
fitted on plain and stressed validation together. It keeps the order of the images, so no member's
ROC AUC changes by it.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from cxr import scores
from cxr.variants import SELECTION

SMALLEST = 1e-6  # probabilities nearer to 0 or 1 than this count as this far

Scale = dict[str, float]  # slope and intercept


def mean_of_calibrated(predictions: pd.DataFrame, scales: dict[str, Scale]) -> pd.Series:
    """Probability of the ensemble for each row.

    Args:
        predictions: a column of probabilities (0 to 1) for each key of `scales`; a column
            `<key>_mirrored` takes part like a further member of the same scale.
        scales: {member: slope and intercept}.
    """
    parts = {
        column: rescaled(predictions[column].to_numpy(), scale)
        for name, scale in scales.items()
        for column in (name, f"{name}_mirrored")
        if column in predictions
    }
    return pd.DataFrame(parts, index=predictions.index).mean(axis=1)


def fit_scales(predictions: pd.DataFrame, members: tuple[str, ...]) -> dict[str, Scale]:
    """Slope and intercept of each member, from the rows of plain and stressed validation."""
    return {name: fit_scale(*scores.columns(predictions, SELECTION, name)) for name in members}


def fit_scale(y_true: scores.Labels, y_prob: scores.Probabilities) -> Scale:
    """Slope and intercept of the logistic regression of the labels (N,) on the logits (N,)."""
    fitted = LogisticRegression(C=np.inf).fit(_logit(y_prob)[:, np.newaxis], y_true)
    return {"slope": float(fitted.coef_[0, 0]), "intercept": float(fitted.intercept_[0])}


def rescaled(y_prob: scores.Probabilities, scale: Scale) -> NDArray[np.float64]:
    """Probabilities (N,) after Platt scaling."""
    return 1 / (1 + np.exp(-(scale["slope"] * _logit(y_prob) + scale["intercept"])))


def _logit(y_prob: scores.Probabilities) -> NDArray[np.float64]:
    clipped = y_prob.clip(SMALLEST, 1 - SMALLEST)
    return np.log(clipped / (1 - clipped))
