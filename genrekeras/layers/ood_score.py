"""Out-of-distribution score of a clip: the Mahalanobis distance of its features under probabilistic PCA.

A model assigns a genre to speech, noise and tones as well, often with a high probability, so probabilities alone do not
show that a clip differs from the training data. The features of held-out clips are modelled by a normal distribution,
whose covariance has some principal directions and the same variance in all other directions. The score is high for
features that are improbable under this distribution.

Sources: Tipping and Bishop, "Probabilistic Principal Component Analysis", JRSS B 1999; Lee et al., "A Simple Unified
Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks", NeurIPS 2018 (Mahalanobis distance of
features).
"""

import keras
import numpy as np
from keras import ops

_DIRECTIONS = 20  # number of principal directions
_FOLDS = 20


@keras.saving.register_keras_serializable("genrekeras")
class OODScore(keras.layers.Layer):
    """Compute the squared Mahalanobis distance of features from the features that the layer was fitted on.

    The distances are scaled such that their mean over the fitted features is about 1. Before `fit`, all scores are 0.

    Input shape: `(batch, features)`.

    Output shape: `(batch,)`.
    """

    def __init__(self, **kwargs):
        super().__init__(**{"dtype": "float32", "trainable": False, **kwargs})

    def build(self, input_shape):
        size = input_shape[-1]
        for name, shape in (("mean", (size,)), ("scale", (size,)), ("directions", (size, min(_DIRECTIONS, size)))):
            setattr(self, name, self.add_weight(shape=shape, initializer="zeros", trainable=False, name=name))

    def call(self, features):
        whitened = (features - self.mean) * self.scale
        projected = ops.matmul(whitened, self.directions)
        return ops.sum(ops.square(whitened), axis=-1) - ops.sum(ops.square(projected), axis=-1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0],)

    def fit(self, features, groups=None):
        """Fit the distribution.

        Args:
            features: `(tracks, clips, size)` array of finite numbers.
            groups: `(tracks,)` int array, index of the group of each track, such as its artist; `None` for one group
                per track.

        Returns:
            `(tracks,)` array, the mean score of the clips of each track, by 20-fold cross-validation over groups.
            `None` with fewer than 20 groups, too few to estimate a distribution; the layer then does not change.

        Raises:
            ValueError: `features` are not finite numbers.
        """
        if not np.isfinite(features).all():
            raise ValueError("`features` must be finite numbers.")
        _, groups = np.unique(np.arange(len(features)) if groups is None else groups, return_inverse=True)
        count = groups.max(initial=-1) + 1
        if count < _FOLDS:
            return None
        fold = (np.random.default_rng(0).permutation(count) % _FOLDS)[groups]
        size, directions = features.shape[-1], self.directions.shape[1]
        scores = np.zeros(len(features))
        for number in range(_FOLDS):
            training, held_out = features[fold != number], features[fold == number]
            distribution = _fit_normal(training.reshape(-1, size), directions)
            distances = _distances(held_out.reshape(-1, size), *distribution)
            scores[fold == number] = distances.reshape(len(held_out), -1).mean(axis=1)
        self.set_weights(_fit_normal(features.reshape(-1, size), directions))
        return scores


def _fit_normal(features, count):
    """Return the weights of the layer: mean, reciprocal deviation, and scaled principal directions."""
    from sklearn.utils.extmath import randomized_svd  # a slow import, not needed for predictions

    features = features.astype("float64")
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    typical = np.median(deviation[deviation > 0]) if deviation.any() else 1.0
    deviation = np.maximum(deviation, 0.1 * typical)  # a constant feature would have an infinite weight
    standard = (features - mean) / deviation
    size, estimated = standard.shape[1], min(count, len(features) // 4)
    # Directions of the largest variances, and the mean variance in all other directions.
    _, values, vectors = randomized_svd(standard, estimated, n_iter=7, random_state=0)
    variances = values**2 / len(features)
    noise = ((standard**2).sum() / len(features) - variances.sum()) / max(1, size - estimated)
    noise = max(noise, 1e-3)
    directions = np.zeros((size, count))
    directions[:, :estimated] = vectors.T * np.sqrt(1 - noise / np.maximum(variances, noise))
    return [mean, 1 / (deviation * np.sqrt(noise * size)), directions]


def _distances(features, mean, scale, directions):
    """Return the scores of features, as `OODScore.call` computes them, in float64."""
    whitened = (features - mean) * scale
    return (whitened**2).sum(axis=1) - ((whitened @ directions) ** 2).sum(axis=1)
