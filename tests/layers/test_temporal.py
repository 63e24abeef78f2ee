"""Layers that select frames."""

import genrekeras as gk
import numpy as np
import pytest
from conftest import numpy
from genrekeras.layers.temporal import RandomTemporalCrop, RandomTemporalSubsample


@pytest.mark.backends
@pytest.mark.parametrize("frames", [1, 5, 7, 128, 431, 2584])
@pytest.mark.parametrize("num_samples", [1, 7, 128])
def test_uniform_frames(frames, num_samples):
    spectrogram = np.arange(frames, dtype="float32")[None, None] * np.ones((2, 3, 1), "float32")
    layer = gk.layers.UniformTemporalSubsample(num_samples)
    sampled = numpy(layer(spectrogram))
    assert sampled.shape == layer.compute_output_shape(spectrogram.shape)
    exact = [(2 * i + 1) * frames // (2 * num_samples) for i in range(num_samples)]
    np.testing.assert_array_equal(sampled[1, 2], exact)


@pytest.mark.backends
@pytest.mark.parametrize("layer_class", [RandomTemporalSubsample, RandomTemporalCrop])
def test_random_frames(layer_class):
    images = np.broadcast_to(np.arange(40.0, dtype="float32")[None, None, :, None], (200, 3, 40, 1))
    layer = layer_class(12, seed=1)
    assert layer(images, training=False).shape == images.shape
    selected = numpy(layer(images, training=True))
    assert selected.shape == (200, 3, 12, 1)
    np.testing.assert_array_equal(selected, np.broadcast_to(selected[:, :1], selected.shape))  # the same for all mels
    steps = np.diff(selected[:, 0, :, 0], axis=1)
    if layer_class is RandomTemporalCrop:
        assert (steps == 1).all()
    else:
        assert (steps >= 1).all() and (steps > 1).any()
    assert len(np.unique(selected[:, 0, :, 0], axis=0)) > 20 and selected.min() == 0 and selected.max() == 39
    short = images[:, :, :12]
    np.testing.assert_array_equal(numpy(layer(short, training=True)), short)
    assert layer_class.from_config(layer.get_config()).count == 12
    with pytest.raises(ValueError, match="must be an integer > 0 or a share"):
        layer_class(0)
    share = layer_class.from_config(layer_class(0.3, seed=1).get_config())
    np.testing.assert_array_equal(numpy(share(images, training=True)), selected)
