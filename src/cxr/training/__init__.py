"""Arrays or features and a network in, a trained model and its history out."""
