"""Equivalents of Keras layers and of Adam that are faster on CPUs, used in training only.

They share the weights of the Keras layers. Saved models consist of the latter, so that they load
without this module. `benchmarks/` measures the speed-up.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

BYTE = 256  # values


def for_training(stack: Sequence[keras.Layer]) -> list[keras.Layer]:
    """Replace the slow layers of the small CNN: same function of the same weights, same gradients.

    Args:
        stack: built layers, applied in sequence.
    """
    fast: list[keras.Layer] = []
    for layer in stack:
        if isinstance(layer, layers.MaxPooling2D) and isinstance(fast[-1], layers.Conv2D):
            fast[-1] = ConvPool(fast[-1], layer.pool_size)
        elif isinstance(layer, layers.Dropout):
            fast.append(ByteDropout(layer.rate))
        else:
            fast.append(layer)
    return fast


class ConvPool(layers.Layer):
    """Convolution, max-pooling, and only then the bias of the convolution.

    max(x + b) = max(x) + b, so the bias is added to the pooled maps only, and its gradient is a sum
    over as few values.

    Args:
        convolution: built, without padding.
        pool_size: height and width in pixels of the windows, which do not overlap.
    """

    def __init__(self, convolution: layers.Conv2D, pool_size: tuple[int, int]) -> None:
        super().__init__(name=f"{convolution.name}_pool")
        self.convolution, self.pool_size = convolution, pool_size

    def call(self, images: Any) -> Any:
        maps = ops.conv(images, self.convolution.kernel)
        # Without strides, Keras's JAX backend derives wrong ones from the pool size.
        pooled = ops.max_pool(maps, self.pool_size, strides=self.pool_size)
        return pooled + self.convolution.bias


class ByteDropout(layers.Layer):
    """Dropout with one random byte for each activation instead of a 32-bit number.

    Args:
        rate: fraction to drop, rounded to 1/256.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.dropped = min(round(rate * BYTE), BYTE - 1)
        self.seed_generator = keras.random.SeedGenerator()

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not training or not self.dropped:
            return inputs
        count = math.prod(inputs.shape[1:])
        shape = (ops.shape(inputs)[0], math.ceil(count / 4))
        random_words = keras.random.randint(shape, -(2**31), 2**31 - 1, seed=self.seed_generator)
        random_bytes = ops.view(random_words, "uint8")[:, :count]
        kept = ops.reshape(random_bytes, (-1, *inputs.shape[1:])) >= self.dropped
        scale = BYTE / (BYTE - self.dropped)  # keeps the mean
        return inputs * (ops.cast(kept, inputs.dtype) * scale)


class OneKernelAdam(keras.optimizers.Adam):
    """Adam that updates a weight array in one pass over memory instead of a dozen."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        if keras.backend.backend() != "tensorflow":
            super().update_step(gradient, variable, learning_rate)
            return
        import tensorflow as tf  # only with this backend

        # Private: Keras has no public way from a variable to what the optimizer keeps for it.
        number = self._get_variable_index(variable)
        beta_1, beta_2 = (ops.cast(beta, variable.dtype) for beta in (self.beta_1, self.beta_2))
        step = ops.cast(self.iterations + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[number].value.handle,
            v=self._velocities[number].value.handle,
            beta1_power=beta_1**step,
            beta2_power=beta_2**step,
            lr=ops.cast(learning_rate, variable.dtype),
            beta1=beta_1,
            beta2=beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )
