"""Arrays and a frozen network in, features and activations out, computed once per image."""
