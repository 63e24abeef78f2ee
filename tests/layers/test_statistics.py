"""Statistics of spectrograms, compared with NumPy and SciPy."""

import numpy as np
import pytest
import scipy.fft
import scipy.stats
from conftest import numpy
from genrekeras.layers.statistics import CepstralStatistics


def square_root(matrices):
    eigenvalues, vectors = np.linalg.eigh(matrices)
    return (vectors * eigenvalues[:, None] ** 0.5) @ vectors.transpose(0, 2, 1)


def covariances(values):
    return np.stack([np.cov(clip, bias=True) for clip in values]) + np.eye(values.shape[1])


@pytest.mark.parametrize("shape", [(2, 23, 40, 1), (2, 64, 1, 1)])
def test_images_that_are_too_small(shape):
    with pytest.raises(ValueError, match="at least 24 mels and 2 frames"):
        CepstralStatistics()(np.zeros(shape, "float32"))


@pytest.mark.backends
def test_cepstral_statistics(images):
    statistics = numpy(CepstralStatistics()(images))
    cepstra = scipy.fft.dct(images[..., 0].astype("float64") * 80 / 255, axis=1, norm="ortho")[:, :40]
    steps, deviation = np.diff(cepstra, axis=2), np.maximum(cepstra.std(axis=2), 1e-2)
    centered = cepstra - cepstra.mean(axis=2, keepdims=True)
    expected = [cepstra.mean(axis=2), np.log(deviation)]
    expected += [np.sort(cepstra, axis=2)[:, :, index] for index in (4, 20, 36, 39)]
    expected += [np.log(np.maximum(np.abs(steps).mean(axis=2), 1e-2))]
    expected += [(centered**3).mean(axis=2) / (deviation**3 + 1e-3)]
    for values in (cepstra[:, :24], steps[:, :24]):
        expected.append(square_root(covariances(values))[:, *np.triu_indices(24)])
    expected = np.concatenate(expected, axis=1)
    assert statistics.shape == expected.shape == (6, 920) == CepstralStatistics().compute_output_shape(images.shape)
    np.testing.assert_allclose(statistics, expected, rtol=1e-3, atol=5e-3)


def test_extreme_images_and_independence_of_the_batch(images, extremes):
    layer, both = CepstralStatistics(), np.concatenate([images, extremes])
    together = numpy(layer(both))
    assert np.isfinite(together).all()
    alone = np.concatenate([numpy(layer(image[None])) for image in both])
    np.testing.assert_allclose(alone, together, rtol=1e-3, atol=1e-2)
