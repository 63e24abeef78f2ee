"""Statistics of spectra against NumPy and SciPy."""

import numpy as np
import pytest
import scipy.fft
import scipy.stats
from conftest import numpy
from genrekeras.layers.statistics import CepstralStatistics, SpectralStatistics


def root_of(matrices, power=0.5):
    eigenvalues, vectors = np.linalg.eigh(matrices)
    return (vectors * eigenvalues[:, None] ** power) @ vectors.transpose(0, 2, 1)


def covariances(values):
    return np.stack([np.cov(clip, bias=True) for clip in values]) + np.eye(values.shape[1])


@pytest.mark.parametrize("shape", [(2, 23, 40, 1), (2, 64, 1, 1)])
def test_too_little_to_say(shape):
    with pytest.raises(ValueError, match="at least 24 mels and 2 frames"):
        CepstralStatistics()(np.zeros(shape, "float32"))


def test_cepstral_statistics(images):
    found = numpy(CepstralStatistics()(images))
    cepstra = scipy.fft.dct(images[..., 0].astype("float64") * 80 / 255, axis=1, norm="ortho")[:, :40]
    steps, deviation = np.diff(cepstra, axis=2), np.maximum(cepstra.std(axis=2), 1e-2)
    centered = cepstra - cepstra.mean(axis=2, keepdims=True)
    expected = [cepstra.mean(axis=2), np.log(deviation)]
    expected += [np.sort(cepstra, axis=2)[:, :, place] for place in (4, 20, 36, 39)]
    expected += [np.log(np.maximum(np.abs(steps).mean(axis=2), 1e-2))]
    expected += [(centered**3).mean(axis=2) / (deviation**3 + 1e-3)]
    for values in (cepstra[:, :24], steps[:, :24]):
        expected.append(root_of(covariances(values))[:, *np.triu_indices(24)])
    expected = np.concatenate(expected, axis=1)
    assert found.shape == expected.shape == (6, 920) == CepstralStatistics().compute_output_shape(images.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=5e-3)


def test_spectral_statistics(images):
    layer = SpectralStatistics()
    found = numpy(layer(images))
    spectrum = images[..., 0].astype("float64") * 80 / 255
    cepstra = scipy.fft.dct(spectrum, axis=1, norm="ortho")
    steps, deviation = np.diff(cepstra, axis=2), np.maximum(cepstra.std(axis=2), 1e-2)
    bands, ordered = spectrum.reshape(6, 32, 2, 40).mean(axis=2), np.sort(spectrum, axis=2)
    covariance = covariances(bands)
    spread = np.sqrt(np.einsum("nii->ni", covariance))
    upper = np.triu_indices(40)
    expected = [
        spectrum.mean(axis=2),
        np.maximum(spectrum.std(axis=2), 1e-2),
        *(ordered[:, :, place] for place in (2, 10, 20, 29, 37, 39)),  # rounded of 39 * 5 %, 25 %, ...
        cepstra.mean(axis=2),
        np.log(deviation),
        ((cepstra - cepstra.mean(axis=2, keepdims=True)) ** 3).mean(axis=2) / (deviation**3 + 1e-3),
        np.log(np.maximum(np.abs(steps).mean(axis=2), 1e-2)),
        root_of(covariances(cepstra[:, :40]))[:, *upper],
        root_of(covariances(steps[:, :40]))[:, *upper],
        root_of(covariances(cepstra[:, :40]), 0.25)[:, *upper],
        (covariance / spread[:, :, None] / spread[:, None])[:, *np.triu_indices(32, 1)],
    ]
    assert layer.sizes(64) == [64, 64, 384, *4 * [64], *3 * [820], 496]
    assert found.shape == layer.compute_output_shape(images.shape) == (6, sum(layer.sizes(64)))
    np.testing.assert_allclose(found, np.concatenate(expected, axis=1), rtol=2e-3, atol=5e-3)


def test_few_mels(images):
    assert np.isfinite(numpy(SpectralStatistics()(images[:, :43]))).all()
    with pytest.raises(ValueError, match="need at least 40 mels"):
        SpectralStatistics()(images[:, :39])


@pytest.mark.parametrize("layer", [CepstralStatistics(), SpectralStatistics()])
def test_extremes_are_finite_and_a_clip_is_heard_alone(layer, images, extremes):
    both = np.concatenate([images, extremes])
    together = numpy(layer(both))
    assert np.isfinite(together).all()
    alone = np.concatenate([numpy(layer(image[None])) for image in both])
    np.testing.assert_allclose(alone, together, rtol=1e-3, atol=1e-2)
