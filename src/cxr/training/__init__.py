"""Training of the models, with checkpoints, over one or several devices."""
