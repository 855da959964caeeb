"""Networks and results in, a folder out with all that prediction needs, without Keras."""
