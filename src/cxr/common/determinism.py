"""Seeds and deterministic operations: equal code, data and seeds give equal bytes."""

import keras
import tensorflow as tf


def make_deterministic(seed: int) -> None:
    """Seed Python, NumPy and Keras, and let TensorFlow use only repeatable operations."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
