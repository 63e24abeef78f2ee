"""Fixed statistics of a spectrogram over time: what is typical of a clip, and how it varies.

They ask nothing of the order of the columns but for the step from each to the next, so that these may lie a quarter of
a second apart (`UniformTemporalSubsample`). No gradient goes through them. All is matrix products and sorting, which every export
format has.

Source: Li et al., "Towards Faster Training of Global Covariance Pooling Networks by Iterative Matrix Square Root
Normalization", CVPR 2018 (roots of covariance matrices).
"""

import keras
import numpy as np
import scipy.fft
from genrekeras.layers.base import Float32Layer, beside, multiply
from keras import ops

_DECIBELS = 80 / 255  # of a gray level
_CEPSTRA, _COVARIANCE_CEPSTRA = 40, 24
_ROOT_STEPS = 20  # of Newton and Schulz, for condition numbers up to about 1e5
_MORE_CEPSTRA, _MORE_COVARIANCE_CEPSTRA, _BROAD_BANDS = 64, 40, 32
_PERCENTILES = (5, 25, 50, 75, 95, 100)


@keras.saving.register_keras_serializable("genrekeras")
class CepstralStatistics(Float32Layer):
    """Fixed statistics of the cepstra of an image over time; no gradient goes through them.

    Of 40 cepstra: mean, log deviation, the values below which a tenth, half, nine tenths and all of the frames lie, log
    mean step from frame to frame, and skewness. Of the first 24, and of their steps: the square root of the covariance
    matrix, which is to it what a deviation is to a variance.

    Input shape: `(batch, mels, frames, 1)`, 0..255 for 80 dB; at least 24 mels and 2 frames.

    Output shape: `(batch, 920)`; fewer of fewer than 40 mels.
    """

    def build(self, input_shape):
        if input_shape[1] < _COVARIANCE_CEPSTRA or input_shape[2] < 2:
            raise ValueError(
                f"Statistics of cepstra need at least {_COVARIANCE_CEPSTRA} mels and 2 frames. Received: {input_shape}"
            )
        self.add_constant("_cosines", _cosines(input_shape[1], _CEPSTRA))
        self.add_constant("_upper", _upper_triangle(_COVARIANCE_CEPSTRA))

    def call(self, image):
        spectrum = ops.stop_gradient(image[..., 0])  # (batch, mels, frames)
        cepstra = multiply(self._cosines, spectrum)
        frames = cepstra.shape[2]
        mean, deviation, skewness = _moments(cepstra)
        steps = cepstra[:, :, 1:] - cepstra[:, :, :-1]
        ordered = ops.sort(cepstra, axis=2)
        parts = [
            mean,
            ops.log(deviation),
            *(ordered[:, :, place] for place in (frames // 10, frames // 2, 9 * frames // 10, frames - 1)),
            _log_step(steps),
            skewness,
            *(_flat(_root(_covariance(values[:, :_COVARIANCE_CEPSTRA])), self._upper) for values in (cepstra, steps)),
        ]
        return ops.concatenate(parts, axis=1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], 8 * min(_CEPSTRA, input_shape[1]) + 2 * _upper_size(_COVARIANCE_CEPSTRA))


@keras.saving.register_keras_serializable("genrekeras")
class SpectralStatistics(Float32Layer):
    """More of them, for a kernel machine, which takes no harm from many: of the bands too, and finer covariances.

    Of each band: mean, deviation, six percentiles. Of 64 cepstra: mean, log deviation, skewness, log mean step. Of the
    first 40, and of their steps: the square root of the covariance matrix; of the former also its fourth root. The
    correlations of 32 broad bands.

    Input shape: `(batch, mels, frames, 1)`, 0..255 for 80 dB; at least 40 mels.

    Output shape: `(batch, 4236)` of 128 mels.
    """

    def build(self, input_shape):
        mels = input_shape[1]
        if mels < _MORE_COVARIANCE_CEPSTRA:
            raise ValueError(f"Spectral statistics need at least {_MORE_COVARIANCE_CEPSTRA} mels. Received: {mels}")
        broad = _broad_bands(mels)
        self.add_constant("_cosines", _cosines(mels, _MORE_CEPSTRA))
        self.add_constant("_upper", _upper_triangle(_MORE_COVARIANCE_CEPSTRA))
        self.add_constant("_broad", broad)
        self.add_constant("_pairs", _upper_triangle(len(broad), 1))

    def call(self, image):
        image = ops.stop_gradient(image[..., 0])  # (batch, mels, frames)
        spectrum, cepstra = image * _DECIBELS, multiply(self._cosines, image)
        steps = cepstra[:, :, 1:] - cepstra[:, :, :-1]
        root = _root(_covariance(cepstra[:, :_MORE_COVARIANCE_CEPSTRA]))
        root_of_steps = _root(_covariance(steps[:, :_MORE_COVARIANCE_CEPSTRA]))
        band_mean, band_deviation, _ = _moments(spectrum)
        mean, deviation, skewness = _moments(cepstra)
        return ops.concatenate(
            [
                band_mean,
                band_deviation,
                self._percentiles(spectrum),
                mean,
                ops.log(deviation),
                skewness,
                _log_step(steps),
                _flat(root, self._upper),
                _flat(root_of_steps, self._upper),
                _flat(_root(root), self._upper),
                self._correlations(spectrum),
            ],
            axis=1,
        )

    def sizes(self, mels):
        """list of int, how many numbers each kind of statistic has, in their order."""
        cepstra, covariance = min(_MORE_CEPSTRA, mels), _upper_size(_MORE_COVARIANCE_CEPSTRA)
        pairs = _upper_size(min(_BROAD_BANDS, mels), 1)
        return [mels, mels, len(_PERCENTILES) * mels, *4 * [cepstra], *3 * [covariance], pairs]

    @staticmethod
    def _percentiles(spectrum):
        ordered, last = ops.sort(spectrum, axis=2), spectrum.shape[2] - 1
        return ops.concatenate([ordered[:, :, (percent * last + 50) // 100] for percent in _PERCENTILES], axis=1)

    def _correlations(self, spectrum):
        covariance = _covariance(multiply(self._broad, spectrum))  # 1 more on its diagonal
        deviation = ops.sqrt(ops.sum(covariance * _identity(covariance), axis=2))
        return _flat(covariance / (deviation[:, :, None] * deviation[:, None]), self._pairs)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], sum(self.sizes(input_shape[1])))


def _cosines(mels, count):
    """`(count, mels)` array: decibels of the cepstra of gray levels."""
    return (scipy.fft.dct(np.eye(mels), axis=0, norm="ortho")[:count] * _DECIBELS).astype("float32")


def _broad_bands(mels):
    """`(bands, mels)` array: means of neighbouring mels."""
    parts = np.array_split(np.eye(mels, dtype="float32"), min(_BROAD_BANDS, mels))
    return np.stack([part.mean(axis=0) for part in parts])


def _upper_size(size, offset=0):
    return len(np.triu_indices(size, offset)[0])


def _upper_triangle(size, offset=0):
    """`(size * size, ...)` array of 0 and 1 that takes the upper triangle of a flat matrix, in a way one can export."""
    return np.eye(size * size, dtype="float32")[:, np.flatnonzero(np.triu(np.ones((size, size)), offset))]


def _flat(matrix, triangle):
    return ops.matmul(ops.reshape(matrix, (-1, triangle.shape[0])), beside(triangle, matrix))


def _identity(matrix):
    """Return the identity of the size of `matrix`; OpenVINO lacks the operation of `ops.eye` on TensorFlow."""
    return beside(ops.convert_to_tensor(np.eye(matrix.shape[1], dtype="float32")), matrix)


def _moments(values):
    """Mean, deviation and skewness over the last axis."""
    mean = ops.mean(values, axis=2)
    centered = values - mean[:, :, None]
    deviation = ops.sqrt(ops.maximum(ops.mean(ops.square(centered), axis=2), 1e-4))
    return mean, deviation, ops.mean(centered**3, axis=2) / (deviation**3 + 1e-3)


def _log_step(steps):
    return ops.log(ops.maximum(ops.mean(ops.abs(steps), axis=2), 1e-2))


def _covariance(values):
    """`(batch, rows, rows)`, of the rows over the columns, and 1 more on its diagonal."""
    values = values - ops.mean(values, axis=2, keepdims=True)
    covariance = ops.matmul(values, ops.transpose(values, (0, 2, 1))) / values.shape[2]
    return covariance + _identity(covariance)


def _root(matrix):
    """The square root of positive definite matrices, by matrix products alone."""
    identity = _identity(matrix)
    scale = ops.sqrt(ops.sum(ops.square(matrix), axis=(1, 2), keepdims=True))
    root, inverse = matrix / scale, identity
    for _ in range(_ROOT_STEPS):
        correction = 1.5 * identity - 0.5 * ops.matmul(inverse, root)
        root, inverse = ops.matmul(root, correction), ops.matmul(correction, inverse)
    return root * ops.sqrt(scale)
