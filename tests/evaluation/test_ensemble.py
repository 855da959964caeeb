"""The ensemble: Platt scaling against the known truth, and the mean of its members."""

import numpy as np
import pandas as pd
import pytest

from cxr.evaluation import calibration, ensemble, metrics


def overconfident(count=20_000):
    """Labels drawn by true probabilities, and probabilities of twice the true logit plus 1."""
    rng = np.random.default_rng(2)
    logit = rng.normal(0, 2, count)
    y_true = (rng.random(count) < 1 / (1 + np.exp(-logit))).astype(int)
    return y_true, 1 / (1 + np.exp(-(2 * logit + 1)))


def test_scaling_finds_the_true_probabilities():
    y_true, y_prob = overconfident()
    scale = ensemble.fit_scale(y_true, y_prob)
    assert scale["slope"] == pytest.approx(0.5, rel=0.05)
    assert scale["intercept"] == pytest.approx(-0.5, rel=0.1)
    before, after = (
        metrics.calibration(y_true, p)["ece"]
        for p in (y_prob, calibration.calibrate(y_prob, scale))
    )
    assert before > 0.05
    assert after < 0.012


def test_certain_probabilities_stay_finite():
    found = calibration.calibrate(np.array([0.0, 1.0]), {"slope": 1.0, "intercept": 0.0})
    np.testing.assert_allclose(found, [0, 1], atol=1e-5)


def table():
    y_true, y_prob = overconfident(300)
    split = np.repeat(["val", "stress", "test"], 100)
    label = np.where(y_true == 1, "PNEUMONIA", "NORMAL")
    return pd.DataFrame({"split": split, "label": label, "a": y_prob, "b": 1 - y_prob, "c": 0.3})


def test_scales_come_from_the_tuning_set_alone():
    one, other, third = table(), table(), table()
    other.loc[other["split"] == "test", ["a", "b"]] = 0.5
    third.loc[third["split"] == "stress", ["a", "b"]] = 0.5
    scales = [ensemble.fit_scales(t, ("a", "b")) for t in (one, other, third)]
    assert scales[0] == scales[1]
    assert scales[0] != scales[2]
    assert scales[0]["b"]["slope"] == pytest.approx(-scales[0]["a"]["slope"], rel=1e-3)


def test_the_ensemble_is_the_mean_of_its_members():
    scales = {"a": {"slope": 1.0, "intercept": 0.0}, "c": {"slope": 1.0, "intercept": 0.0}}
    members = {name: table()[name].to_numpy() for name in ("a", "b", "c")}
    found = calibration.mean_of_calibrated(members, scales)
    np.testing.assert_allclose(found, (table()["a"] + 0.3) / 2, atol=1e-5)
