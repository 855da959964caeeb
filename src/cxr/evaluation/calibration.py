"""Probabilities of unequally sure networks brought to one scale; NumPy only, to load at once.

Platt scaling (Platt 1999): a logistic regression of the label on the logit of the probability. It
keeps the order of the images, so no ROC AUC changes by it.
"""

import numpy as np
from numpy.typing import NDArray

EPSILON = 1e-6  # probabilities nearer to 0 or 1 than this count as this far

Scale = dict[str, float]  # slope and intercept
Probabilities = NDArray[np.float64]


def calibrate(y_prob: Probabilities, scale: Scale) -> Probabilities:
    """Probabilities (N,) after Platt scaling."""
    return 1 / (1 + np.exp(-(scale["slope"] * logit(y_prob) + scale["intercept"])))


def logit(y_prob: Probabilities) -> Probabilities:
    """Log odds (N,) of probabilities (N,), finite for all."""
    clipped = y_prob.clip(EPSILON, 1 - EPSILON)
    return np.log(clipped / (1 - clipped))
