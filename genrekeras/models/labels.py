"""Kinds of labels, and the labels from which the genre of a track is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from genrekeras.models.thresholds import NEVER
from genrekeras.models.track_classifier import TrackClassifier

GENRE = "genre"  # kind of the labels that are genres


def label_kinds(model: TrackClassifier) -> dict[str, str]:
    """Return the kind of each label of a model, such as "genre" or "mood".

    The entry `labels` of the card contains the kinds. A label without a kind is a genre.
    """
    kinds = model.card.get("labels")
    kinds = kinds if isinstance(kinds, Mapping) else {}
    return {label: str(kinds.get(label, GENRE)) for label in model.genres}


def genre_labels(model: TrackClassifier) -> list[str]:
    """Return the labels of a model that are genres, or all labels if none is a genre."""
    kinds = label_kinds(model)
    return [label for label, kind in kinds.items() if kind == GENRE] or list(kinds)


def candidate_labels(model: TrackClassifier, class_thresholds: Sequence[float] | None) -> np.ndarray:
    """Return the labels from which the genre of a track is chosen, as `(k,)` int, indices of the genres of the model.

    They are the labels of the kind "genre" without those that are never predicted. If there are none, they are all
    labels of the kind "genre". If there are none of these either, they are all labels.

    Args:
        model: the model.
        class_thresholds: see `Thresholds`.
    """
    is_genre = np.array([kind == GENRE for kind in label_kinds(model).values()])
    can_be_predicted = np.array(class_thresholds or [0.0] * len(is_genre)) < NEVER
    masks = (is_genre & can_be_predicted, is_genre)
    return next((np.flatnonzero(mask) for mask in masks if mask.any()), np.arange(len(is_genre)))
