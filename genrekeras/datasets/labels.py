"""Labels of tracks with one genre or several: columns of a table, rows of a matrix, and class weights."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

if TYPE_CHECKING:  # These modules import this module.
    from genrekeras.datasets.spectrograms import SpectrogramSplit
    from genrekeras.datasets.splits import Split


def add_labels(tracks: pd.DataFrame, genres: Sequence[str]) -> pd.DataFrame:
    """Return a table of tracks with an additional column for the labels.

    Args:
        tracks: table with the column `genre` (str) or, for tracks with several genres, `genres` (tuple of str).
        genres: in the order of the labels.

    Returns:
        The table with the column `label` (int, index of the genre) or `labels` (tuple of int, indices of the genres).
    """
    index = {genre: label for label, genre in enumerate(genres)}
    if "genres" in tracks:
        return tracks.assign(labels=[tuple(index[genre] for genre in names) for names in tracks["genres"]])
    return tracks.assign(label=tracks["genre"].map(index))


def label_array(tracks: pd.DataFrame, count: int) -> np.ndarray:
    """Return the labels of a table of tracks as an array.

    Args:
        tracks: table of n rows with the column `label` or `labels`, see `add_labels`.
        count: number of genres.

    Returns:
        `(n,)` int32. With the column `labels`, `(n, count)` float32, 1 for the genres of a track and 0 for the others.
    """
    if "labels" not in tracks:
        return tracks["label"].to_numpy("int32")
    rows = np.zeros((len(tracks), count), "float32")
    for row, labels in zip(rows, tracks["labels"], strict=True):
        row[list(labels)] = 1
    return rows


def label_rows(labels: np.ndarray, count: int) -> np.ndarray:
    """Return labels as `(n, count)` float32 rows: one-hot rows of `(n,)` int labels. A matrix is returned unchanged."""
    return np.eye(count, dtype="float32")[labels] if labels.ndim == 1 else labels


def checked_label(label: Any, count: int, multi_label: bool, track_id: int) -> np.int32 | np.ndarray:
    """Return the label of an element of a split as int32 or, if tracks have several labels, as a float32 row.

    Args:
        label: the label.
        count: number of genres.
        multi_label: whether a track may have several labels.
        track_id: track of the label, for the message.

    Raises:
        ValueError: the label is not in 0..count - 1. With `multi_label`: it is not a row of `count` values in [0, 1].
    """
    if not multi_label:
        if np.ndim(label) or not 0 <= label < count:
            raise ValueError(f"The label of track {track_id} must be in 0..{count - 1}. Received: {label}")
        return np.int32(label)
    row = np.asarray(label, "float32")
    if row.shape != (count,) or not ((row >= 0) & (row <= 1)).all():
        raise ValueError(f"The label of track {track_id} must be {count} values in [0, 1]. Received: {label}")
    return row


def stratification_labels(tracks: pd.DataFrame, groups: np.ndarray | None = None) -> np.ndarray:
    """Return one label of each track, for a stratified random assignment of tracks.

    For a track with several labels, the label that the fewest tracks of the table have is returned. Otherwise a split
    might lack a rare genre. In case of a tie, the smallest label is returned.

    Args:
        tracks: table of n rows with the column `label` or `labels`, see `add_labels`.
        groups: `(n,)` int, group of each track. With the column `labels`, all tracks of a group get the rarest label of
            the group. `None` means that each track is a group. It has no effect with the column `label`.

    Returns:
        `(n,)` int array. The value is -1 for tracks without labels.
    """
    if "labels" not in tracks:
        return tracks["label"].to_numpy()
    counts = collections.Counter(itertools.chain.from_iterable(tracks["labels"]))
    groups = np.arange(len(tracks)) if groups is None else groups
    labels = collections.defaultdict(set)
    for group, row in zip(groups, tracks["labels"], strict=True):
        labels[group].update(row)
    rarest = {group: min(row, key=lambda label: (counts[label], label), default=-1) for group, row in labels.items()}
    return np.array([rarest[group] for group in groups], int)


def class_weights(split: Split | Any) -> np.ndarray:
    """Return class weights that balance the genres of a split.

    The weight of a genre is inversely proportional to the number of its clips, and the mean weight of the clips is 1
    (see `sample_weights` for clips with several labels). If each clip has one label, all genres have the same total
    weight. The weight of a genre without clips is 0.

    Args:
        split: `Split`, or another object with the attributes `labels` and `genres`.

    Returns:
        `(len(genres),)` float32 array.
    """
    if not hasattr(split, "labels"):
        raise ValueError(f"`split` must have the attribute `labels`. Received: {type(split).__name__}")
    rows = label_rows(split.labels, len(split.genres))
    rows = rows[rows.any(axis=1)]
    if not len(rows):
        return np.zeros(len(split.genres), "float32")
    counts = rows.sum(axis=0, dtype="float64")
    weights = np.divide(1, counts, out=np.zeros_like(counts), where=counts > 0)
    return (weights / sample_weights(rows, weights).mean()).astype("float32")


def checked_weights(
    class_weight: Literal["balanced"] | npt.ArrayLike | None, split: Split | SpectrogramSplit | Any
) -> np.ndarray | None:
    """Return the argument `class_weight` of `batches` as a `(len(split.genres),)` float32 array, or `None`.

    Raises:
        ValueError: `class_weight` is not a value that `batches` allows.
    """
    if class_weight is None:
        return None
    if isinstance(class_weight, str) and class_weight == "balanced":
        return class_weights(split)
    try:
        weights = np.asarray(class_weight, "float32")
    except (TypeError, ValueError):
        weights = np.zeros(0)
    if weights.shape != (len(split.genres),) or not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError(
            f'`class_weight` must be None, "balanced", or {len(split.genres)} numbers >= 0, one per genre. '
            f"Received: class_weight={class_weight!r}"
        )
    return weights


def sample_weights(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weight of each clip: the mean of the class weights of its labels.

    Args:
        rows: `(n, genres)` float32 array, labels. The mean is weighted by these values.
        weights: `(genres,)` array, class weights.

    Returns:
        `(n,)` array. The weight of a clip without labels is 1.
    """
    totals = rows.sum(axis=1)
    return np.divide(rows @ weights, totals, out=np.ones(len(rows), weights.dtype), where=totals > 0)
