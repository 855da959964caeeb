"""Calibration of the members of the variant `ensemble`, fitted on the tuning set.

The members' probabilities are brought to one scale (`calibration`) before they are averaged, as
networks differ in confidence.
"""

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from cxr.common.names import TUNING
from cxr.evaluation import metrics
from cxr.evaluation.calibration import Scale, logit


def fit_scales(predictions: pd.DataFrame, members: tuple[str, ...]) -> dict[str, Scale]:
    """Slope and intercept of each member, from the rows of the tuning set."""
    return {name: fit_scale(*metrics.columns(predictions, TUNING, name)) for name in members}


def fit_scale(y_true: metrics.Labels, y_prob: metrics.Probabilities) -> Scale:
    """Slope and intercept of the logistic regression of the labels (N,) on the logits (N,)."""
    fitted = LogisticRegression(C=np.inf).fit(logit(y_prob)[:, np.newaxis], y_true)
    return {"slope": float(fitted.coef_[0, 0]), "intercept": float(fitted.intercept_[0])}
