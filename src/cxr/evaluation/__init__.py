"""Predictions of the models, and their metrics, intervals and subgroups."""
