"""Parameters in, untrained Keras networks out: the small CNN, backbones and their split."""
