"""The bytes of a DICOM file in; the 8-bit image that a viewer shows, and warnings about it, out."""
