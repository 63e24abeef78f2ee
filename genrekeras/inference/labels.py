"""Predicted genres of a track."""

from __future__ import annotations

import numpy as np
from genrekeras.models.labels import GENRE, candidate_labels, label_kinds
from genrekeras.models.track_classifier import TrackClassifier

# Rule for multi-label models that are not calibrated, see `predicted_genres`.
MIN_PROBABILITY, MAX_GENRES = 0.2, 3


def most_probable_genre(model: TrackClassifier, probabilities: np.ndarray) -> str:
    """Return the label of the kind "genre" with the highest probability.

    Genres that a calibrated multi-label model never predicts (threshold 1) are left out, unless it predicts none at
    all. If the model has no labels of this kind, its most probable label is returned.

    Args:
        model: the model.
        probabilities: `(labels,)`.
    """
    candidates = candidate_labels(model, model.thresholds.class_thresholds)
    return model.genres[candidates[probabilities[candidates].argmax()]]


def predicted_genres(model: TrackClassifier, probabilities: np.ndarray) -> tuple[str, ...]:
    """Return the genres that are predicted for a track. The most probable one comes first.

    - A single-label model predicts the most probable genre.
    - A calibrated multi-label model predicts the genres whose probability is above their threshold
      (`model.thresholds.class_thresholds`). There may be none.
    - A multi-label model that is not calibrated predicts at most three genres, those with a probability of at least
      0.2. If no genre has such a probability, it predicts the most probable one.

    Labels of other kinds than "genre" are not predicted.

    Args:
        model: the model.
        probabilities: `(labels,)`, mean probabilities of the track.
    """
    best = most_probable_genre(model, probabilities)
    if not model.multi_label:
        return (best,)
    by_label = dict(zip(model.genres, probabilities.tolist(), strict=True))
    genres = ranked_genres(model, probabilities)
    if model.thresholds.class_thresholds is None:
        likely = [label for label in genres if by_label[label] >= MIN_PROBABILITY]
        return tuple(likely[:MAX_GENRES]) or (best,)
    thresholds = dict(zip(model.genres, model.thresholds.class_thresholds, strict=True))
    return tuple(label for label in genres if by_label[label] > thresholds[label])


def ranked_genres(model: TrackClassifier, probabilities: np.ndarray) -> list[str]:
    """Return the labels of the kind "genre" in order of decreasing probability.

    Args:
        model: the model.
        probabilities: `(labels,)`.
    """
    kinds, ranked = label_kinds(model), np.argsort(-probabilities, kind="stable")
    return [model.genres[index] for index in ranked if kinds[model.genres[index]] == GENRE]
