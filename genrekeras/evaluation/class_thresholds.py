"""Choose the thresholds above which the genres of a multi-label model are predicted."""

import warnings
from collections.abc import Sequence

import numpy as np
from genrekeras.models.thresholds import NEVER

MIN_CLIPS = 5  # a genre with fewer clips gets the threshold that is chosen on all genres together


def choose_class_thresholds(
    labels: np.ndarray, probabilities: np.ndarray, genres: Sequence[str], precision: float | None = None
) -> np.ndarray:
    """Choose a threshold for each genre, for the best F1 score or for a precision.

    A genre with fewer than 5 clips gets the threshold that is chosen on all pairs of a clip and a genre.

    Args:
        labels: `(n, genres)` in {0, 1}.
        probabilities: `(n, genres)` in [0, 1].
        genres: names of the genres, for warnings.
        precision: in (0, 1). The lowest threshold with at least this precision is chosen. `None` chooses the threshold
            with the best F1 score.

    Returns:
        `(genres,)` float64, in (0, 1]. A genre is predicted if its probability is above its threshold. If no threshold
        has the precision, the threshold is 1, and the genre is never predicted.

    Raises:
        ValueError: `precision` is out of range.

    Warns:
        UserWarning: genres have fewer than 5 clips, or are never predicted.
    """
    check_precision(precision)
    is_true = labels == 1
    is_rare = is_true.sum(axis=0) < MIN_CLIPS
    pooled = _choose(is_true.ravel(), probabilities.ravel(), precision) if is_rare.any() else NEVER
    columns = zip(is_rare, is_true.T, probabilities.T, strict=True)
    thresholds = np.array([pooled if rare else _choose(true, values, precision) for rare, true, values in columns])
    for mask, text in (
        (is_rare, f"have fewer than {MIN_CLIPS} clips, so their threshold is chosen for all genres together"),
        (thresholds == NEVER, f"are never predicted, because no threshold has a precision of {precision}"),
    ):
        if mask.any():
            names = ", ".join(genre for genre, is_named in zip(genres, mask, strict=True) if is_named)
            warnings.warn(f"These genres {text}: {names}", stacklevel=4)
    return thresholds


def check_precision(precision: float | None) -> None:
    """Raise `ValueError` if a precision is neither `None` nor in (0, 1)."""
    if precision is not None and not 0 < precision < 1:
        raise ValueError(f"`precision` must be None or lie in (0, 1). Received: precision={precision}")


def _choose(is_true, probabilities, precision):
    """Return the threshold of one genre, the midpoint of two neighbouring probabilities."""
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order].astype("float64")
    last = np.flatnonzero(np.append(ranked[1:] < ranked[:-1], True))  # the last clip of each distinct probability
    hits = np.cumsum(is_true[order])[last]
    predicted = last + 1
    if precision is None:
        best = np.argmax(hits / (predicted + is_true.sum()))  # F1 / 2; the highest of equally good thresholds
    else:
        has_precision = np.flatnonzero(hits >= precision * predicted)
        if not len(has_precision):
            return NEVER
        best = has_precision[-1]
    values = np.append(ranked[last], 0.0)
    threshold = (values[best] + values[best + 1]) / 2
    return float(np.clip(threshold, np.finfo("float64").tiny, 1 - np.finfo("float64").epsneg))
