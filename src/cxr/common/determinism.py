"""Determinism: the same code, data and seeds give the same bytes."""

import keras
import tensorflow as tf


def make_deterministic(seed: int) -> None:
    """Seed Python, NumPy and Keras, and restrict TensorFlow to deterministic operations."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
