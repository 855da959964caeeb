"""A source of radiographs in; a verified manifest, leakage-free splits and resized arrays out."""
