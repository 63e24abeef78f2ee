"""Confidence intervals of scores. Clips of one artist are not independent of each other, but artists are.

Scores are functions of sums over clips. The intervals of this module need only the sums of each artist. An official
split of fma_small has some 200 artists, and a few of them have most of the clips. With as few as 30 effective artists,
the bootstrap gives intervals that are too narrow, and the jackknife with a t distribution does not
(`tests/evaluation/test_intervals.py` simulates both).

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
    """Return the number of artists with equally many clips that would give a mean as precise as these artists.

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
    - `"too few artists"`, with less than 10 artists: no interval.

    A score of exactly 0 or 1 has no spread between artists. Its interval is the Wilson interval of as many trials as
    the effective size.

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
    smallest = 0.5 / sizes.sum()  # keeps the scores 0 and 1 finite on the logit scale

    def to_scale(values):
        if scale == "identity":
            return values
        values = np.clip(values, smallest, 1 - smallest if scale == "logit" else None)
        return np.log(values) - (np.log1p(-values) if scale == "logit" else 0)

    [center] = to_scale(score(total))
    without = to_scale(score(total - sums))  # one artist left out
    count = len(sizes)
    error = math.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum())
    half = error * scipy.stats.t.ppf(0.975, size - 1)
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
        `(artists, 2 * genres)` float64. The columns are the mean scores (0 for a genre in which the artist has no
        clips), and then 1 for each genre in which the artist has clips, else 0.
    """
    is_genre = np.eye(labels.max() + 1)[labels]
    sums, _ = sums_by_artist(artists, np.concatenate([is_genre * scores[:, None], is_genre], axis=1))
    scores, counts = np.split(sums, 2, axis=1)
    return np.concatenate([scores / np.maximum(counts, 1), counts > 0], axis=1)


def mean_of_genres(sums: np.ndarray) -> np.ndarray:
    """Return the mean over the artists of each genre, averaged over genres, from `(samples, 2 * genres)` sums."""
    scores, artists = np.split(sums, 2, axis=1)
    return np.nanmean(np.divide(scores, artists, where=artists > 0, out=np.full_like(scores, np.nan)), axis=1)


@functools.lru_cache(maxsize=4)
def _bootstrap_counts(artists, seed):
    """Return how often each artist is drawn in each bootstrap sample, `(draws, artists)` float32."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(artists, np.full(artists, 1 / artists), size=_DRAWS).astype("float32")
