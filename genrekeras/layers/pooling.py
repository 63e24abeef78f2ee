"""A layer for pooling over time."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("genrekeras")
class AttentiveStatisticsPooling(keras.layers.Layer):
    """Pool frames by their mean, standard deviation, attention-weighted mean and, optionally, maximum.

    Source: Okabe et al., "Attentive Statistics Pooling for Deep Speaker Embedding", Interspeech 2018. There are two
    differences from this paper. The standard deviation is not weighted, and each head has its own part of the channels.

    Args:
        heads: `> 0`, number of attention heads.
        units: `> 0`, size of the hidden layer that computes the attention.
        maximum: whether to append the maximum over the frames.

    Input shape: `(batch, frames, channels)`. The number of channels must be a multiple of `heads`.

    Output shape: `(batch, 3 * channels)`; `(batch, 4 * channels)` with `maximum`.

    Raises:
        ValueError: the number of channels is not a multiple of `heads`.
    """

    def __init__(self, heads: int = 4, units: int = 64, maximum: bool = False, **kwargs: Any):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.heads = heads
        self.units = units
        self.maximum = maximum
        self.hidden = keras.layers.Dense(units, activation="tanh", name="hidden", dtype=self.dtype_policy)
        self.scores = keras.layers.Dense(heads, name="scores", dtype=self.dtype_policy)

    def build(self, input_shape):
        if input_shape[-1] % self.heads:
            raise ValueError(
                f"The number of channels must be a multiple of `heads`, {self.heads}. "
                f"Received: input_shape={input_shape}"
            )
        self.hidden.build(input_shape)
        self.scores.build((*input_shape[:-1], self.units))

    def call(self, x):  # (batch, frames, channels)
        mean = ops.mean(x, axis=1, keepdims=True)
        variance = ops.mean(ops.square(x - mean), axis=1)
        weights = ops.softmax(self.scores(self.hidden(x)), axis=1)  # (batch, frames, heads)
        by_head = ops.reshape(x, (-1, x.shape[1], self.heads, x.shape[-1] // self.heads))
        attended = ops.reshape(ops.sum(weights[..., None] * by_head, axis=1), (-1, x.shape[-1]))
        pooled = [mean[:, 0], ops.sqrt(variance + 1e-4), attended]
        return ops.concatenate([*pooled, ops.max(x, axis=1)] if self.maximum else pooled, axis=-1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], (4 if self.maximum else 3) * input_shape[-1])

    def get_config(self):
        return {**super().get_config(), "heads": self.heads, "units": self.units, "maximum": self.maximum}
