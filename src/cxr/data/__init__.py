"""Data sources, verified manifest, leakage-free splits, preprocessed arrays."""
