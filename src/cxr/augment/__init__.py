"""Images in, perturbed images out: augmentation for training and the stress-test set."""
