"""Out-of-distribution score of a clip: the Mahalanobis distance of its features under probabilistic PCA.

A model assigns a genre to speech, noise and tones too, often with a high probability. Therefore probabilities do not
show whether a clip differs from the training data. The features of the calibration clips are modelled by a normal
distribution. Its covariance has some principal directions, and the same variance in all other directions. The number of
directions is the one with the highest likelihood in cross-validation. The score is high for features that are
improbable under this distribution.

Sources: Tipping and Bishop, "Probabilistic Principal Component Analysis", JRSS B 1999; Lee et al., "A Simple Unified
Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks", NeurIPS 2018 (Mahalanobis distance of
features).
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

_NUM_DIRECTIONS = (1, 2, 5, 10, 20, 40, 80)  # candidates for the number of principal directions
_NUM_FOLDS = 20  # number of folds of the cross-validation


@keras.saving.register_keras_serializable("genrekeras")
class OODScore(keras.layers.Layer):
    """Compute the squared Mahalanobis distance between features and the distribution that `fit` has estimated.

    The distances are scaled such that their mean over the features given to `fit` is about 1. Before `fit`, all scores
    are 0.

    Input shape: `(batch, features)`.

    Output shape: `(batch,)`.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**{"dtype": "float32", "trainable": False, **kwargs})

    def build(self, input_shape):
        size = input_shape[-1]
        width = min(_NUM_DIRECTIONS[-1], size)
        for name, shape in (("mean", (size,)), ("scale", (size,)), ("directions", (size, width))):
            setattr(self, name, self.add_weight(shape=shape, initializer="zeros", trainable=False, name=name))

    def call(self, features):
        whitened = (features - self.mean) * self.scale
        projected = ops.matmul(whitened, self.directions)
        return ops.sum(ops.square(whitened), axis=-1) - ops.sum(ops.square(projected), axis=-1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0],)

    def fit(
        self, features: np.ndarray | Sequence[np.ndarray], groups: npt.ArrayLike | None = None
    ) -> np.ndarray | None:
        """Fit the distribution to features, and compute cross-validated scores of the same features.

        Args:
            features: `(tracks, clips, size)`, finite numbers. If the tracks have different numbers of clips, a
                sequence of `(clips, size)` arrays.
            groups: `(tracks,)` int, index of the group of each track, such as its artist. `None` puts each track into a
                group of its own.

        Returns:
            `(tracks,)`, the mean score over the clips of each track. The scores are computed by 20-fold
            cross-validation over groups. With fewer than 20 groups the distribution cannot be estimated. Then `None` is
            returned, and the layer does not change.

        Raises:
            ValueError: `features` contains NaN or an infinite value.
        """
        rows = np.concatenate(list(features))
        if not np.isfinite(rows).all():
            raise ValueError("`features` must be finite numbers.")
        tracks = np.repeat(np.arange(len(features)), list(map(len, features)))
        _, indices = np.unique(np.arange(len(features)) if groups is None else groups, return_inverse=True)
        num_groups = indices.max(initial=-1) + 1
        if num_groups < _NUM_FOLDS:
            return None
        fold = (np.random.default_rng(0).permutation(num_groups) % _NUM_FOLDS)[indices][tracks]
        size = rows.shape[1]
        counts = [count for count in _NUM_DIRECTIONS if count <= min(size, len(rows) // 5)]
        distances, log_likelihoods = np.zeros((2, len(counts), len(rows)))  # log-likelihoods times 2, plus a constant
        for number in range(_NUM_FOLDS):
            held_out = rows[fold == number]
            components = _principal_components(rows[fold != number], counts[-1])
            for candidate, count in enumerate(counts):
                normal, log_determinant = _normal(components, count, counts[-1])
                distances[candidate, fold == number] = _distances(held_out, *normal)
                log_likelihoods[candidate, fold == number] = (
                    -size * distances[candidate, fold == number] - log_determinant
                )
        best = log_likelihoods.mean(axis=1).argmax()
        self.set_weights(_normal(_principal_components(rows, counts[-1]), counts[best], self.directions.shape[1])[0])
        return np.bincount(tracks, distances[best]) / np.bincount(tracks)


def _principal_components(features, count):
    """Return the mean and the deviation of features, and the `count` largest components of the standardized features.

    The components are their variances, `(count,)`, and their directions, `(size, count)`. The last value is the sum of
    all variances.
    """
    from scipy import linalg  # a slow import that predictions do not need

    features = features.astype("float64")
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    typical = np.median(deviation[deviation > 0]) if deviation.any() else 1.0
    deviation = np.maximum(deviation, 0.1 * typical)  # otherwise a constant feature would have an infinite weight
    standardized = (features - mean) / deviation
    covariance = standardized.T @ standardized / len(features)
    size = len(covariance)
    variances, directions = linalg.eigh(covariance, subset_by_index=(size - count, size - 1))  # in ascending order
    return mean, deviation, variances[::-1], directions[:, ::-1], np.trace(covariance)


def _normal(components, count, width):
    """Return the weights of the layer for `count` directions, and the logarithm of the determinant of the covariance.

    The weights are the mean, the reciprocal deviation, and the scaled directions, `(size, width)`, with zeros after the
    first `count`. The covariance is that of the standardized features.
    """
    mean, deviation, variances, vectors, total = components
    size, variances = len(mean), variances[:count]
    noise = max((total - variances.sum()) / max(1, size - count), 1e-3)  # the mean variance in all other directions
    variances = np.maximum(variances, noise)
    directions = np.zeros((size, width))
    directions[:, :count] = vectors[:, :count] * np.sqrt(1 - noise / variances)
    log_determinant = np.log(variances).sum() + (size - count) * np.log(noise)
    return [mean, 1 / (deviation * np.sqrt(noise * size)), directions], log_determinant


def _distances(features, mean, scale, directions):
    """Return the scores of features in float64. `OODScore.call` computes the same scores in float32."""
    whitened = (features - mean) * scale
    return (whitened**2).sum(axis=1) - ((whitened @ directions) ** 2).sum(axis=1)
