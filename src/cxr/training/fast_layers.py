"""Layers and an optimizer that do what Keras's do in less time on processors; for training alone.

The layers share the weights of Keras's own, of which saved models are made, so that these load
without this module. `benchmarks/` measures what each saves.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

BYTE = 256  # values


def for_training(stack: Sequence[keras.Layer]) -> list[keras.Layer]:
    """The same layers, those of the small CNN that take long replaced: same function of the same
    weights, same gradients.

    Args:
        stack: layers that stand one behind the other, built.
    """
    found: list[keras.Layer] = []
    for layer in stack:
        if isinstance(layer, layers.MaxPooling2D) and isinstance(found[-1], layers.Conv2D):
            found[-1] = ConvPool(found[-1], layer.pool_size)
        elif isinstance(layer, layers.Dropout):
            found.append(ByteDropout(layer.rate))
        else:
            found.append(layer)
    return found


class ConvPool(layers.Layer):
    """A convolution, the max-pooling behind it, and only then the convolution's bias.

    The largest of some values and a bias is the largest value and the bias, so the bias is added to
    a quarter of the values, and its gradient is a sum over that many.

    Args:
        convolution: built, without padding.
        pool_size: pixels, height and width of the windows, which do not overlap.
    """

    def __init__(self, convolution: layers.Conv2D, pool_size: tuple[int, int]) -> None:
        super().__init__(name=f"{convolution.name}_pool")
        self.convolution, self.pool_size = convolution, pool_size

    def call(self, images: Any) -> Any:
        maps = ops.conv(images, self.convolution.kernel)
        # Without strides, Keras's JAX backend makes wrong ones of the pool size.
        pooled = ops.max_pool(maps, self.pool_size, strides=self.pool_size)
        return pooled + self.convolution.bias


class ByteDropout(layers.Layer):
    """Dropout that draws a byte for each activation instead of a 32-bit number.

    Args:
        rate: share to drop, rounded to 1/256.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.dropped = min(round(rate * BYTE), BYTE - 1)
        self.seed_generator = keras.random.SeedGenerator()

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not training or not self.dropped:
            return inputs
        count = math.prod(inputs.shape[1:])
        words = (ops.shape(inputs)[0], math.ceil(count / 4))
        draws = keras.random.randint(words, -(2**31), 2**31 - 1, seed=self.seed_generator)
        draws = ops.reshape(ops.view(draws, "uint8")[:, :count], (-1, *inputs.shape[1:]))
        scale = BYTE / (BYTE - self.dropped)  # keeps the mean
        return inputs * (ops.cast(draws >= self.dropped, inputs.dtype) * scale)


class OneKernelAdam(keras.optimizers.Adam):
    """Adam whose update of a weight array is one pass over memory instead of a dozen."""

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
