"""Predictions in; metrics, intervals and accuracy by subgroup out."""
