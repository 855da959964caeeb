"""The classes and splits of the data set."""

LABELS = ("NORMAL", "PNEUMONIA")  # the position is the class number; 1 is the positive class
SPLITS = ("train", "val", "test")
