"""Image perturbations: random for training augmentation, fixed for the stress-test set."""
