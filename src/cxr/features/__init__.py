"""Features and activations of the frozen layers, computed once per image."""
