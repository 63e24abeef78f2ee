"""Confidence intervals of scores. Clips of one artist are not independent of each other, but artists are.

Most scores are functions of sums over clips. Their intervals need only the sums of each artist (`artist_interval`).
ROC-AUC and average precision depend on the ranking of all clips. Their intervals need weights of the clips
(`weighted_intervals`).

An official split of fma_small has about 200 artists, and a few of them have most of the clips. If the effective size is
as small as 30, bootstrap intervals are too narrow, but jackknife intervals with a t distribution are not. The average
precision of few clips is too high on average, so its intervals are corrected for this bias.
`tests/evaluation/test_intervals.py` simulates all intervals.

Sources: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 11 and 13; Kish, "Survey Sampling",
1965 (effective size).
"""

import functools
import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy.special
import scipy.stats

MIN_ARTISTS = 10  # with fewer artists, there is no interval
MIN_EFFECTIVE_SIZE = 50  # from this effective size on, the interval is a bootstrap interval
_DRAWS = 4000
_MAX_LEFT_OUT = 1000  # number of jackknife samples of scores that are computed from weights
_BLOCK = 1 << 19  # number of weights that are computed at once


def wilson_interval(hits: float, count: float, z: float = 1.959964) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion. It assumes that trials are independent of each other.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 1927.

    Args:
        hits: `>= 0`, number of successes.
        count: `> 0`, number of trials.
        z: `> 0`, quantile of the normal distribution. The default gives a 95 % interval.

    Returns:
        Lower and upper bound, in [0, 1].
    """
    proportion = hits / count
    center = proportion + z * z / (2 * count)
    half = z * math.sqrt(proportion * (1 - proportion) / count + z * z / (4 * count * count))
    return max(0.0, (center - half) / (1 + z * z / count)), min(1.0, (center + half) / (1 + z * z / count))


def effective_size(sizes: npt.ArrayLike) -> float:
    """Return the number of independent clips that would give an equally precise mean.

    It is n^2 / sum(n_a^2), where n_a is the number of clips of an artist, and n their sum. It assumes that all clips of
    an artist have the same outcome.

    Args:
        sizes: `(artists,)`, number of clips of each artist, `> 0`.
    """
    sizes = np.asarray(sizes, "float64")
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def interval_method(sizes: npt.ArrayLike) -> Literal["bootstrap", "jackknife", "too few artists"]:
    """Return the method of `artist_interval` for artists with these numbers of clips."""
    if len(np.asarray(sizes)) < MIN_ARTISTS:
        return "too few artists"
    return "bootstrap" if effective_size(sizes) >= MIN_EFFECTIVE_SIZE else "jackknife"


def sums_by_artist(artists: npt.ArrayLike, values: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums over the clips of each artist, and the number of clips of each artist.

    Args:
        artists: `(n,)` int, artist of each clip.
        values: `(n, k)`, numbers to be summed.

    Returns:
        `(artists, k)` float64 and `(artists,)` int.
    """
    ids, index = np.unique(np.asarray(artists), return_inverse=True)
    values = np.asarray(values, "float64")
    sums = np.zeros((len(ids), values.shape[1]))
    np.add.at(sums, index, values)
    return sums, np.bincount(index, minlength=len(ids))


def artist_interval(
    score: Callable[[np.ndarray], np.ndarray],
    sums: np.ndarray,
    sizes: np.ndarray,
    scale: Literal["logit", "log", "identity"] = "logit",
    seed: int = 0,
) -> tuple[float, float] | None:
    """Return a 95 % confidence interval of a score. Artists, not clips, are taken as independent of each other.

    The method depends on the artists, see `interval_method`:

    - `"bootstrap"`, if the effective size is at least 50: the percentile interval of 4,000 bootstrap samples of
      artists.
    - `"jackknife"`, if it is smaller: the delete-one-artist jackknife on the scale `scale`. The quantiles are those of
      a t distribution with one degree of freedom less than the effective size.
    - `"too few artists"`, with fewer than 10 artists: no interval.

    A score of exactly 0 or 1 has no spread between artists. With the scale `"logit"`, its interval is the Wilson
    interval of as many trials as the effective size.

    Args:
        score: maps the sums of several samples of artists, `(samples, k)`, to their scores, `(samples,)`.
        sums: `(artists, k)`, sums over the clips of each artist.
        sizes: `(artists,)`, number of clips of each artist.
        scale: scale of the jackknife, `"logit"` for scores in [0, 1], `"log"` for positive ones, `"identity"` for
            differences.
        seed: seed of the bootstrap.

    Returns:
        Lower and upper bound, or `None` with too few artists.
    """
    method = interval_method(sizes)
    if method == "too few artists":
        return None
    total = sums.sum(axis=0, keepdims=True)
    size = effective_size(sizes)
    if scale == "logit" and float(score(total)[0]) in (0.0, 1.0):
        return wilson_interval(size * float(score(total)[0]), size)
    if method == "bootstrap":
        scores = score(_bootstrap_counts(len(sizes), seed) @ sums.astype("float32"))
        low, high = np.quantile(scores, [0.025, 0.975])
        return float(low), float(high)
    without = score(total - sums)  # one artist left out
    return _jackknife_interval(float(score(total)[0]), without, size, scale, 0.5 / sizes.sum())


def weighted_intervals(
    score: Callable[[np.ndarray], np.ndarray],
    artists: npt.ArrayLike,
    support: np.ndarray,
    scale: Literal["logit", "identity"] = "logit",
) -> list[tuple[float, float] | None]:
    """Return 95 % confidence intervals of scores that are not functions of sums, such as ROC-AUC.

    The method is the delete-one-artist jackknife, see `artist_interval`, with a correction of the bias. The center of
    the interval is the jackknife estimate, not the score itself. With fewer than 10 artists, there is no interval. If
    there are more than 1,000 artists, they are divided into 1,000 random groups, and one group is left out at a time.

    Args:
        score: maps weights of the clips, `(n, samples)`, to scores, `(samples, k)`. A clip that is left out has the
            weight 0, and other clips have the weight 1. A score that is not defined for a sample is NaN.
        artists: `(n,)` int, artist of each clip. To take clips as independent, pass a different number for each clip.
        support: `(n, k)` bool, the clips that determine how precise each score is. Their artists are counted. For the
            ROC-AUC of a label, these are the clips with the label or the clips without it, whichever are fewer.
        scale: scale of the jackknife, see `artist_interval`.

    Returns:
        k intervals. An interval is `None` with too few artists, or if the score is NaN.
    """
    ids, index = np.unique(np.asarray(artists), return_inverse=True)
    if len(ids) < MIN_ARTISTS:
        return [None] * support.shape[1]
    count, step = min(len(ids), _MAX_LEFT_OUT), max(1, _BLOCK // len(index))
    group = (np.random.default_rng(0).permutation(len(ids)) % count)[index, None]
    blocks = np.split(np.arange(count), range(step, count, step))
    without = np.concatenate([score((group != block).astype("float32")) for block in blocks])  # one group left out
    result: list[tuple[float, float] | None] = []
    for center, scores, clips in zip(score(np.ones((len(index), 1)))[0], without.T, support.T, strict=True):
        sizes = np.unique(index[clips], return_counts=True)[1]
        if len(sizes) < MIN_ARTISTS or math.isnan(center):
            result.append(None)
        elif scale == "logit" and center in (0.0, 1.0):
            result.append(wilson_interval(effective_size(sizes) * center, effective_size(sizes)))
        else:
            scores = scores[~np.isnan(scores)]
            result.append(
                _jackknife_interval(center, scores, effective_size(sizes), scale, 0.5 / len(index), corrected=True)
            )
    return result


def _jackknife_interval(center, without, size, scale, smallest, corrected=False):
    """Return the jackknife interval of a score.

    Args:
        center: the score.
        without: `(samples,)`, the scores without one artist, or without one group of artists.
        size: effective size.
        scale: `"logit"`, `"log"` or `"identity"`.
        smallest: distance from 0 and 1 to which scores are clipped, so that they are finite on the logit scale.
        corrected: whether the center of the interval is corrected for the bias of the score.
    """

    def to_scale(values):
        if scale == "identity":
            return values
        values = np.clip(values, smallest, 1 - smallest if scale == "logit" else None)
        return np.log(values) - (np.log1p(-values) if scale == "logit" else 0)

    without, center, count = to_scale(without), to_scale(center), len(without)
    error = math.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum())
    half = error * scipy.stats.t.ppf(0.975, size - 1)
    if corrected:
        center = count * center - (count - 1) * without.mean()
    inverse = {"logit": scipy.special.expit, "log": np.exp, "identity": float}[scale]
    return float(inverse(center - half)), float(inverse(center + half))


def mean(sums: np.ndarray) -> np.ndarray:
    """Return the means of samples of artists, from `(samples, 2)` sums of a value and numbers of clips."""
    return sums[:, 0] / sums[:, 1]


def genre_sums(artists: npt.ArrayLike, labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the mean score of the clips of each artist in each genre, for `mean_of_genres`.

    Args:
        artists: `(n,)` int, artist of each clip.
        labels: `(n,)` int, genre of each clip.
        scores: `(n,)`, such as 1 for a correct prediction and 0 for a wrong one.

    Returns:
        `(artists, 2 * genres)` float64. The first columns are the mean scores, 0 for a genre in which the artist has no
        clips. The other columns are 1 for a genre in which the artist has clips, and 0 otherwise.
    """
    is_genre = np.eye(labels.max() + 1)[labels]
    sums, _ = sums_by_artist(artists, np.concatenate([is_genre * scores[:, None], is_genre], axis=1))
    scores, counts = np.split(sums, 2, axis=1)
    return np.concatenate([scores / np.maximum(counts, 1), counts > 0], axis=1)


def mean_of_genres(sums: np.ndarray) -> np.ndarray:
    """Return the mean score of the artists of each genre, averaged over genres, from `(samples, 2 * genres)` sums."""
    scores, artists = np.split(sums, 2, axis=1)
    return np.nanmean(np.divide(scores, artists, where=artists > 0, out=np.full_like(scores, np.nan)), axis=1)


@functools.lru_cache(maxsize=4)
def _bootstrap_counts(artists, seed):
    """Return how often each artist is drawn in each bootstrap sample, `(draws, artists)` float32."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(artists, np.full(artists, 1 / artists), size=_DRAWS).astype("float32")
