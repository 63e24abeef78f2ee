"""Pooling over time, compared with NumPy."""

import numpy as np
import pytest
from conftest import numpy
from genrekeras.layers.pooling import AttentiveStatisticsPooling


@pytest.mark.backends
def test_attentive_statistics_pooling(rng):
    layer = AttentiveStatisticsPooling(heads=2, units=5, maximum=True)
    x = rng.normal(0, 1, (3, 7, 4)).astype("float32")
    pooled = numpy(layer(x))
    kernel, bias, score_kernel, score_bias = layer.get_weights()
    weights = np.exp(np.tanh(x @ kernel + bias) @ score_kernel + score_bias)
    weights = np.repeat(weights / weights.sum(axis=1, keepdims=True), 2, axis=2)
    expected = [x.mean(axis=1), np.sqrt(x.var(axis=1) + 1e-4), (weights * x).sum(axis=1), x.max(axis=1)]
    np.testing.assert_allclose(pooled, np.concatenate(expected, axis=1), atol=1e-5)
    assert pooled.shape == layer.compute_output_shape(x.shape)
    assert AttentiveStatisticsPooling.from_config(layer.get_config()).get_config() == layer.get_config()


def test_channels_that_are_not_a_multiple_of_the_heads():
    with pytest.raises(ValueError, match="must be a multiple of `heads`, 4"):
        AttentiveStatisticsPooling(heads=4)(np.zeros((1, 5, 6), "float32"))
