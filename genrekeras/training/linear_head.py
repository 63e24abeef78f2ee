"""Logistic regression on the features of tracks: the last layer of a model, trained in seconds.

The classifier is trained on the mean features of the clips of each track, so that each track has the same weight and
training is fast. It is applied to each clip, and the probabilities of the clips are averaged, as in the prediction of
files (`genrekeras.inference.predict`). All scores are computed in this way.

The features are standardized, and the weights have an L2 penalty. The penalty is chosen by cross-validation in which no
group (artist) is in two folds: the one with the lowest log-loss on the held-out tracks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import threadpoolctl
from genrekeras.datasets.groups import assign_folds, group_tracks
from genrekeras.datasets.labels import label_array, label_rows, stratification_labels
from genrekeras.datasets.splits import as_positions
from scipy import optimize, special

PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)  # of the mean loss of a track, the strongest first
FOLDS = 5
_MIN_PROBABILITY = 1e-3  # limits the log-loss of a genre that the training tracks of a fold do not have
_MAX_ITERATIONS = 200


@dataclasses.dataclass(frozen=True)
class FeatureSplit:
    """Labelled tracks with the features of their clips. It has the attributes of `genrekeras.datasets.Split`.

    Attributes:
        tracks: table with a row for each track, see `genrekeras.datasets.Split`. The column `artist_id` is the group of
            the track.
        features: for each track, `(clips, feature_dim)` float32.
        genres: in the order of the labels.
        name: name of the split.
        protocol: protocol by which tracks are assigned to training and evaluation.
    """

    tracks: pd.DataFrame
    features: Sequence[np.ndarray]
    genres: tuple[str, ...]
    name: str = "test"
    protocol: str = "artist_folds"

    def __len__(self):
        return len(self.tracks)

    @property
    def labels(self) -> np.ndarray:
        """Labels, see `genrekeras.datasets.Split`."""
        return label_array(self.tracks, len(self.genres))

    @property
    def multi_label(self) -> bool:
        """Whether tracks have several labels."""
        return "labels" in self.tracks

    @property
    def track_ids(self) -> np.ndarray:
        """`(n,)` int64."""
        return self.tracks.index.to_numpy("int64")

    @property
    def groups(self) -> np.ndarray:
        """Group of each track, see `genrekeras.datasets.groups.group_tracks`."""
        return group_tracks(self.tracks)

    def select(self, positions: Sequence[int] | np.ndarray) -> FeatureSplit:
        """Return a split with some of the tracks, given by their indices."""
        positions = as_positions(positions)
        return dataclasses.replace(
            self, tracks=self.tracks.iloc[positions], features=[self.features[position] for position in positions]
        )

    def few_clips(self, count: int = 3) -> list[np.ndarray]:
        """Return the features of at most `count` evenly spaced clips of each track."""
        return [clips[np.linspace(0, len(clips) - 1, min(count, len(clips))).astype(int)] for clips in self.features]


class LinearHead(NamedTuple):
    """Last layer of a model, trained on features.

    Attributes:
        kernel: `(feature_dim, genres)` float64.
        bias: `(genres,)` float64.
        penalty: the L2 penalty that was chosen.
    """

    kernel: np.ndarray
    bias: np.ndarray
    penalty: float

    def logits(self, features: Sequence[np.ndarray]) -> np.ndarray:
        """Return the logits of the clips of tracks.

        Args:
            features: for each track, `(clips, feature_dim)`.

        Returns:
            `(n, max_clips, genres)` float64. Rows of NaN fill up the tracks with fewer clips.
        """
        counts = np.array([len(clips) for clips in features])
        result = np.full((len(features), counts.max(), len(self.bias)), np.nan)
        result[np.arange(counts.max()) < counts[:, None]] = np.concatenate(features) @ self.kernel + self.bias
        return result


def fit_linear_head(split: FeatureSplit, seed: int = 0) -> LinearHead:
    """Train the last layer on the tracks of a split. See the description of this module.

    Args:
        split: the training tracks. If all of them have the same artist, the strongest penalty is used.
        seed: seed of the assignment to folds.
    """
    folds = max_folds(split)
    losses = np.zeros(len(PENALTIES))
    # The matrices are small. With several threads, the threads would mostly wait for each other.
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        if folds > 1:
            assigned = assign_folds(split, folds, seed)
            for fold in range(folds):
                held_out = split.select(np.flatnonzero(assigned == fold))
                heads = _fit_path(split.select(np.flatnonzero(assigned != fold)), PENALTIES)
                losses += [_log_loss(head, held_out) for head in heads]
        best = int(np.argmin(losses))
        return list(_fit_path(split, PENALTIES[: best + 1]))[-1]


def max_folds(split: FeatureSplit) -> int:
    """Return the number of folds into which `assign_folds` can divide a split, at most `FOLDS`."""
    largest_genre = np.unique(stratification_labels(split.tracks), return_counts=True)[1].max()
    return min(FOLDS, len(np.unique(split.groups)), int(largest_genre))


def _fit_path(split, penalties):
    """Yield a `LinearHead` for each penalty. Each fit starts from the weights of the previous one."""
    means = np.stack([clips.mean(axis=0, dtype="float64") for clips in split.features])
    center, scale = means.mean(axis=0), means.std(axis=0)
    scale[scale < 1e-6 * max(scale.max(), 1e-30)] = 1.0
    x = (means - center) / scale
    targets = label_rows(split.labels, len(split.genres)).astype("float64")
    weights = np.zeros((x.shape[1] + 1, targets.shape[1]))  # the last row is the bias
    for penalty in penalties:
        arguments = (x, targets, penalty, split.multi_label)
        options = {"maxiter": _MAX_ITERATIONS, "gtol": 1e-5}
        weights = optimize.minimize(_loss, weights.ravel(), arguments, "L-BFGS-B", jac=True, options=options).x
        weights = weights.reshape(-1, targets.shape[1])
        kernel = weights[:-1] / scale[:, None]
        yield LinearHead(kernel, weights[-1] - center @ kernel, penalty)


def _loss(weights, x, targets, penalty, multi_label):
    """Return the mean cross-entropy of the tracks plus the penalty, and its gradient."""
    weights = weights.reshape(-1, targets.shape[1])
    logits = x @ weights[:-1] + weights[-1]
    if multi_label:
        loss = np.logaddexp(0, logits).sum() - (targets * logits).sum()
        errors = special.expit(logits) - targets
    else:
        logits -= logits.max(axis=1, keepdims=True)
        odds = np.exp(logits)
        sums = odds.sum(axis=1, keepdims=True)
        loss = np.log(sums).sum() - (targets * logits).sum()
        errors = odds / sums - targets
    errors /= len(x)
    gradient = np.concatenate([x.T @ errors + penalty * weights[:-1], errors.sum(axis=0, keepdims=True)])
    return loss / len(x) + penalty / 2 * (weights[:-1] ** 2).sum(), gradient.ravel()


def _log_loss(head, split):
    """Return the log-loss of the mean probabilities of the clips, summed over tracks."""
    logits, targets = head.logits(split.features), label_rows(split.labels, len(split.genres))
    probabilities = np.nanmean(special.expit(logits) if split.multi_label else special.softmax(logits, -1), axis=1)
    loss = -(targets * np.log(np.maximum(probabilities, _MIN_PROBABILITY))).sum()
    if split.multi_label:
        loss -= ((1 - targets) * np.log(np.maximum(1 - probabilities, _MIN_PROBABILITY))).sum()
    return loss
