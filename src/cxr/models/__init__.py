"""Keras networks: the small CNN, pretrained backbones, and their frozen and trained parts."""
