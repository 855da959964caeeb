"""Trained models in, OpenVINO networks and their predictions out; the detector of outliers."""
