"""Data sources, verified manifest, leakage-free splits, arrays, dataset shift and subgroups."""
