"""Metrics and predictions in, reports as Markdown and HTML out."""
