"""Calibration of probabilities by Platt scaling, and the ensemble's mean; NumPy only, so that
prediction starts at once.

Platt scaling (Platt 1999) is a logistic regression of the label on the logit of the probability. It
keeps the order of the images, so it does not change the ROC AUC.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

EPSILON = 1e-6  # probabilities are clipped to this distance from 0 and 1

Scale = dict[str, float]  # slope and intercept
Probabilities = NDArray[np.float64]


def calibrate(y_prob: Probabilities, scale: Scale) -> Probabilities:
    """Platt-scaled probabilities (N,)."""
    return 1 / (1 + np.exp(-(scale["slope"] * logit(y_prob) + scale["intercept"])))


def mean_of_calibrated(
    probabilities: Mapping[str, Probabilities], scales: Mapping[str, Scale]
) -> Probabilities:
    """Probabilities (N,) of the ensemble: the mean of its members' calibrated probabilities.

    Args:
        probabilities: of each member (N,), 0 to 1.
        scales: slope and intercept of each member.
    """
    return np.mean([calibrate(probabilities[name], scales[name]) for name in scales], axis=0)


def logit(y_prob: Probabilities) -> Probabilities:
    """Log odds (N,) of probabilities (N,), finite for all."""
    clipped = y_prob.clip(EPSILON, 1 - EPSILON)
    return np.log(clipped / (1 - clipped))
