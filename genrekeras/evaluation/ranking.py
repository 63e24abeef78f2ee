"""ROC-AUC and average precision of labels, for many samples of weighted tracks at once.

The functions of scikit-learn compute the same scores for one sample. Intervals need up to a thousand samples.
"""

import numpy as np


def ranking_scores(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ROC-AUC and average precision of each label, for samples in which tracks have weights.

    The scores equal `sklearn.metrics.roc_auc_score` and `average_precision_score` with `sample_weight`.

    Args:
        labels: `(n, labels)` bool, whether a track has a label.
        scores: `(n, labels)`, such as probabilities.
        weights: `(n, samples)` float, `>= 0`, such as the numbers of times that a track is drawn.

    Returns:
        ROC-AUC and average precision, `(samples, labels)` float64 each. Both are NaN for a sample in which no track has
        the label. ROC-AUC is also NaN if all tracks have it.
    """
    pairs = [_score_label(labels[:, i], scores[:, i], weights) for i in range(labels.shape[1])]
    roc_auc, average_precision = (np.stack(values, axis=1) for values in zip(*pairs, strict=True))
    return roc_auc, average_precision


def mean_over_labels(scores: np.ndarray) -> np.ndarray:
    """Return the mean over labels, `(samples,)`, of scores `(samples, labels)`. NaN is left out.

    If all scores of a sample are NaN, the mean is NaN.
    """
    is_valid = ~np.isnan(scores)
    with np.errstate(invalid="ignore"):
        return np.where(is_valid, scores, 0).sum(axis=1) / is_valid.sum(axis=1)


def _score_label(is_positive, scores, weights):
    """Return the two scores of a label in each sample, `(samples,)` each."""
    order = np.argsort(-scores, kind="stable")
    cumulated = np.cumsum(weights[order], axis=0)  # (n, samples); exact in float32 for numbers of tracks
    ranked, positives = -scores[order], order[is_positive[order]]
    # Tracks of equal score have one threshold. Only thresholds at which there are positive tracks contribute.
    values, first = np.unique(-scores[positives], return_index=True)
    if not len(values):
        return np.full((2, weights.shape[1]), np.nan)
    start, end = np.searchsorted(ranked, values, "left"), np.searchsorted(ranked, values, "right")
    total = cumulated[-1].astype("float64")
    at_least = cumulated[end - 1].astype("float64")  # weight of the tracks with this score or a higher one
    above = np.where(start[:, None] > 0, cumulated[start - 1], 0.0)
    hits = np.add.reduceat(weights[positives], first, axis=0, dtype="float64")  # positive weight at this score
    all_hits = np.cumsum(hits, axis=0)
    positive, negative = all_hits[-1], total - all_hits[-1]
    negative_at_least = at_least - all_hits
    negative_above = above - (all_hits - hits)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(at_least > 0, all_hits / at_least, 0.0)
        average_precision = (hits * precision).sum(axis=0) / positive
        wins = hits * (negative - (negative_above + negative_at_least) / 2)  # ties count half
        roc_auc = wins.sum(axis=0) / (positive * negative)
    return roc_auc, average_precision
