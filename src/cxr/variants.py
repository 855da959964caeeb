"""The models that are compared, and what they are compared on."""

TRAINED = ("baseline", "augmented", "transfer", "finetuned")
VARIANTS = (*TRAINED, "ensemble")
SELECTION = ("val", "stress")  # what every choice is made on: validation, plain and stressed
EVALUATED = ("val", "test")  # the splits that they are scored on; train is what they know
