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
_LEAST_CLIPS = 20


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

    def load_own_variables(self, store):
        if len(store.keys()):  # models that were saved by versions before 0.3 have none
            super().load_own_variables(store)

    def compute_output_shape(self, input_shape):
        return (input_shape[0],)

    def fit(self, features):
        """Learn what is known.

        Args:
            features: `(tracks, clips, size)` array.

        Returns:
            `(tracks,)` array, the mean strangeness of each track's clips as others' clips tell it: a fifth of the
            tracks at a time is measured by the other four fifths. `None` if there are fewer than 20 tracks; all is
            strange or nothing to so few, and the layer stays as it was.
        """
        if len(features) < _LEAST_CLIPS:
            return None
        size = features.shape[-1]
        fold = np.random.default_rng(0).permutation(len(features)) % 5
        found = np.zeros(len(features))
        for number in range(5):
            others = _normal(features[fold != number].reshape(-1, size), self.directions.shape[1])
            own = features[fold == number]
            found[fold == number] = _distances(own.reshape(-1, size), *others).reshape(len(own), -1).mean(axis=1)
        self.set_weights(_normal(features.reshape(-1, size), self.directions.shape[1]))
        return found


def _normal(features, count):
    """The weights of the layer: mean, 1 / deviation, and directions, such that less is subtracted along wide ones."""
    features = features.astype("float64")
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    typical = np.median(deviation[deviation > 0]) if deviation.any() else 1.0
    deviation = np.maximum(deviation, 0.1 * typical)  # one that never moved would make a trifle infinitely strange
    standard = (features - mean) / deviation
    _, values, vectors = np.linalg.svd(standard, full_matrices=False)
    variances = values**2 / len(features)
    size, known = standard.shape[1], min(count, len(features) // 4)
    rest = variances[known:].sum() / max(1, size - known)  # in each of the other directions
    rest = max(rest, 1e-3)
    directions = np.zeros((size, count))
    directions[:, :known] = vectors[:known].T * np.sqrt(np.maximum(0.0, 1 - rest / np.maximum(variances[:known], rest)))
    return [mean, 1 / (deviation * np.sqrt(rest * size)), directions]


def _distances(features, mean, scale, directions):
    whitened = (features - mean) * scale
    return (whitened**2).sum(axis=1) - ((whitened @ directions) ** 2).sum(axis=1)
