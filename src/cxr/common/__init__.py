"""Shared by all stages: atomic writes, memory-mapped arrays, names, determinism."""
