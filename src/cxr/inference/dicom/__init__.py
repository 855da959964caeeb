"""Bytes of a DICOM file in; its 8-bit display and warnings out."""
