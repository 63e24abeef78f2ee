"""Statistics of a spectrogram over time. They are features that are not trained.

Only the differences of successive frames depend on the order of the frames. Therefore frames may be a quarter of a
second apart (`UniformTemporalSubsample`). Gradients are stopped. The layer uses only matrix products, sorting and
elementwise operations, because all export formats support these.

Source: Li et al., "Towards Faster Training of Global Covariance Pooling Networks by Iterative Matrix Square Root
Normalization", CVPR 2018 (square roots of covariance matrices).
"""

import keras
import numpy as np
import scipy.fft
from genrekeras.layers.base import Float32Layer, matmul, to_device_of
from keras import ops

_DECIBELS_PER_GRAY_LEVEL = 80 / 255
_NEWTON_SCHULZ_STEPS = 20  # enough for condition numbers up to about 1e5
# Number of cepstral coefficients, and number of those whose covariance is computed.
_CEPSTRA, _COVARIANCE_CEPSTRA = 40, 24


@keras.saving.register_keras_serializable("genrekeras")
class CepstralStatistics(Float32Layer):
    """Compute statistics over time of the cepstral coefficients of images.

    - For 40 coefficients: mean, log standard deviation, percentiles 10, 50, 90 and 100, log mean absolute difference of
      successive frames, and skewness.
    - For the first 24 coefficients, and for their differences between successive frames: square root of the covariance
      matrix.

    Input shape: `(batch, mels, frames, 1)`, at least 24 mels and 2 frames. Gray values 0 to 255 represent a range of
    80 dB.

    Output shape: `(batch, 920)`. Images with fewer than 40 mels have fewer features.

    Raises:
        ValueError: the image has fewer than 24 mels or 2 frames.
    """

    def build(self, input_shape):
        if input_shape[1] < _COVARIANCE_CEPSTRA or input_shape[2] < 2:
            raise ValueError(
                f"Images must have at least {_COVARIANCE_CEPSTRA} mels and 2 frames. "
                f"Received: input_shape={input_shape}"
            )
        self.add_constant("_cosines", _cepstral_transform(input_shape[1]))
        self.add_constant("_upper", _upper_triangle(_COVARIANCE_CEPSTRA))

    def call(self, image):
        spectrum = ops.stop_gradient(image[..., 0])  # (batch, mels, frames)
        cepstra = matmul(self._cosines, spectrum)
        frames = cepstra.shape[2]
        mean, deviation, skewness = _moments(cepstra)
        differences = cepstra[:, :, 1:] - cepstra[:, :, :-1]
        ascending = ops.sort(cepstra, axis=2)
        parts = [
            mean,
            ops.log(deviation),
            *(ascending[:, :, index] for index in (frames // 10, frames // 2, 9 * frames // 10, frames - 1)),
            _log_mean_difference(differences),
            skewness,
            *(self._covariance_features(values) for values in (cepstra, differences)),
        ]
        return ops.concatenate(parts, axis=1)

    def _covariance_features(self, values):
        root = _square_root(_covariance(values[:, :_COVARIANCE_CEPSTRA]))
        return ops.matmul(ops.reshape(root, (-1, self._upper.shape[0])), to_device_of(self._upper, root))

    def compute_output_shape(self, input_shape):
        covariances = _COVARIANCE_CEPSTRA * (_COVARIANCE_CEPSTRA + 1)  # two upper triangles
        return (input_shape[0], 8 * min(_CEPSTRA, input_shape[1]) + covariances)


def _cepstral_transform(mels):
    """Return the `(coefficients, mels)` matrix that computes cepstral coefficients, in dB, from gray levels."""
    return (scipy.fft.dct(np.eye(mels), axis=0, norm="ortho")[:_CEPSTRA] * _DECIBELS_PER_GRAY_LEVEL).astype("float32")


def _upper_triangle(size):
    """Return a `(size * size, n)` matrix of 0 and 1 that selects the n elements in the upper triangle of a matrix.

    The flattened matrix is multiplied by it. All export formats support this product, but some do not support indexing.
    """
    return np.eye(size * size, dtype="float32")[:, np.flatnonzero(np.triu(np.ones((size, size))))]


def _identity(matrix):
    """Return the identity matrix of the size of `matrix`. OpenVINO does not support TensorFlow's `ops.eye`."""
    return to_device_of(ops.convert_to_tensor(np.eye(matrix.shape[1], dtype="float32")), matrix)


def _moments(values):
    """Return mean, standard deviation and skewness over the last axis."""
    mean = ops.mean(values, axis=2)
    centered = values - mean[:, :, None]
    deviation = ops.sqrt(ops.maximum(ops.mean(ops.square(centered), axis=2), 1e-4))
    return mean, deviation, ops.mean(centered**3, axis=2) / (deviation**3 + 1e-3)


def _log_mean_difference(differences):
    """Return the logarithm of the mean absolute difference of successive frames."""
    return ops.log(ops.maximum(ops.mean(ops.abs(differences), axis=2), 1e-2))


def _covariance(values):
    """Return the covariance matrices of the rows: `(batch, rows, rows)`. 1 is added to the diagonal to regularize."""
    values = values - ops.mean(values, axis=2, keepdims=True)
    covariance = ops.matmul(values, ops.transpose(values, (0, 2, 1))) / values.shape[2]
    return covariance + _identity(covariance)


def _square_root(matrix):
    """Return the square roots of positive definite matrices, computed by the Newton-Schulz iteration."""
    identity = _identity(matrix)
    scale = ops.sqrt(ops.sum(ops.square(matrix), axis=(1, 2), keepdims=True))
    root, inverse = matrix / scale, identity
    for _ in range(_NEWTON_SCHULZ_STEPS):
        correction = 1.5 * identity - 0.5 * ops.matmul(inverse, root)
        root, inverse = ops.matmul(root, correction), ops.matmul(correction, inverse)
    return root * ops.sqrt(scale)
