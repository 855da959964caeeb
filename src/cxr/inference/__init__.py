"""Radiographs in (JPEG, PNG, DICOM), predictions, heatmaps and reports out."""
