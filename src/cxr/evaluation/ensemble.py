"""The variant `ensemble`: the mean of its members' calibrated probabilities.

Networks are unequally sure of themselves, so their probabilities are brought to one scale before
they are averaged, by Platt scaling (`calibration`), fitted on plain and stressed validation
together.
"""

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from cxr.common.names import TUNING
from cxr.evaluation import metrics
from cxr.evaluation.calibration import Scale, calibrate, logit


def mean_of_calibrated(predictions: pd.DataFrame, scales: dict[str, Scale]) -> pd.Series:
    """Probability of the ensemble for each row.

    Args:
        predictions: a column of probabilities (0 to 1) for each key of `scales`.
        scales: {member: slope and intercept}.
    """
    parts = {name: calibrate(predictions[name].to_numpy(), scale) for name, scale in scales.items()}
    return pd.DataFrame(parts, index=predictions.index).mean(axis=1)


def fit_scales(predictions: pd.DataFrame, members: tuple[str, ...]) -> dict[str, Scale]:
    """Slope and intercept of each member, from the rows of plain and stressed validation."""
    return {name: fit_scale(*metrics.columns(predictions, TUNING, name)) for name in members}


def fit_scale(y_true: metrics.Labels, y_prob: metrics.Probabilities) -> Scale:
    """Slope and intercept of the logistic regression of the labels (N,) on the logits (N,)."""
    fitted = LogisticRegression(C=np.inf).fit(logit(y_prob)[:, np.newaxis], y_true)
    return {"slope": float(fitted.coef_[0, 0]), "intercept": float(fitted.intercept_[0])}
