"""Metrics and predictions in, charts, tables and the report out."""
