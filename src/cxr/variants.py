"""The models that are compared."""

VARIANTS = ("baseline", "augmented", "transfer")
EVALUATED = ("val", "test")  # the splits that they are scored on; train is what they know
