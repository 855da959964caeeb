"""Models and arrays in, predictions out; predictions in, metrics, intervals and groups out."""
