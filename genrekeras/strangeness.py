"""How unlike the music that a model knows a clip is: speech, noise and tones get a genre too, and often a sure one.

Features of clips that were not trained on are taken as normally distributed, with a covariance of some directions and
the same variance in all others (probabilistic principal components); strange is what is improbable then. The
probabilities themselves tell little of it: a network may be as sure of a voice that reads as of a song.

Sources: Tipping and Bishop, "Probabilistic Principal Component Analysis", JRSS B 1999; Lee et al., "A Simple Unified
Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks", NeurIPS 2018 (Mahalanobis distance of
features).
"""

import keras
import numpy as np
from keras import ops

_DIRECTIONS = 20
_FOLDS = 20


@keras.saving.register_keras_serializable("genrekeras")
class Strangeness(keras.layers.Layer):
    """Squared Mahalanobis distance of features from those of known music, such that it is about 1 on average.

    It is 0 of everything until `fit`.

    Input shape: `(batch, features)`. Output shape: `(batch,)`.
    """

    def __init__(self, **kwargs):
        super().__init__(**{"dtype": "float32", "trainable": False, **kwargs})

    def build(self, input_shape):
        size = input_shape[-1]
        for name, shape in (("mean", (size,)), ("scale", (size,)), ("directions", (size, min(_DIRECTIONS, size)))):
            setattr(self, name, self.add_weight(shape=shape, initializer="zeros", trainable=False, name=name))

    def call(self, features):
        whitened = (features - self.mean) * self.scale
        along = ops.matmul(whitened, self.directions)
        return ops.sum(ops.square(whitened), axis=-1) - ops.sum(ops.square(along), axis=-1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0],)

    def fit(self, features, groups=None):
        """Learn what is known.

        Args:
            features: `(tracks, clips, size)` array.
            groups: `(tracks,)` int array, of tracks that belong together, such as those of an artist; `None`, each is
                by itself.

        Returns:
            `(tracks,)` array, the mean strangeness of each track's clips as others' clips tell it: a twentieth of the
            groups at a time is measured by all others. `None` if there are fewer than 20 tracks or groups; to so few
            all is strange or nothing, and the layer stays as it was.

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
        found = np.zeros(len(features))
        for number in range(_FOLDS):
            others = _normal(features[fold != number].reshape(-1, size), directions)
            own = features[fold == number]
            found[fold == number] = _distances(own.reshape(-1, size), *others).reshape(len(own), -1).mean(axis=1)
        self.set_weights(_normal(features.reshape(-1, size), directions))
        return found


def _normal(features, count):
    """The weights of the layer: mean, 1 / deviation, and directions, such that less is subtracted along wide ones."""
    from sklearn.utils.extmath import randomized_svd  # not for those who only predict

    features = features.astype("float64")
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    typical = np.median(deviation[deviation > 0]) if deviation.any() else 1.0
    deviation = np.maximum(deviation, 0.1 * typical)  # one that never moved would make a trifle infinitely strange
    standard = (features - mean) / deviation
    size, known = standard.shape[1], min(count, len(features) // 4)
    _, values, vectors = randomized_svd(standard, known, n_iter=7, random_state=0)  # the widest directions alone
    variances = values**2 / len(features)
    rest = ((standard**2).sum() / len(features) - variances.sum()) / max(1, size - known)  # in each other direction
    rest = max(rest, 1e-3)
    directions = np.zeros((size, count))
    directions[:, :known] = vectors.T * np.sqrt(1 - rest / np.maximum(variances, rest))
    return [mean, 1 / (deviation * np.sqrt(rest * size)), directions]


def _distances(features, mean, scale, directions):
    whitened = (features - mean) * scale
    return (whitened**2).sum(axis=1) - ((whitened @ directions) ** 2).sum(axis=1)
