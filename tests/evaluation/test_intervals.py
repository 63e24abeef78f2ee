"""Intervals that take artists as independent: their coverage, in simulations with a known truth."""

import numpy as np
import pytest
from genrekeras.evaluation import intervals

# Numbers of artists with 1, 2, ... clips, in the official splits of fma_small (FMA's metadata, CC BY 4.0).
VALIDATION = {1: 111, 2: 32, 3: 19, 4: 13, 5: 10, 6: 8, 7: 6, 8: 4, 9: 1, 10: 2, 11: 3}
VALIDATION |= dict.fromkeys((15, 16, 17, 18, 21, 23, 29, 41, 47, 55), 1)
TEST = {1: 114, 2: 23, 3: 18, 4: 9, 5: 8, 6: 8, 7: 2, 8: 4, 9: 2, 10: 3, 11: 1, 13: 1, 15: 2}
TEST |= dict.fromkeys((19, 24, 27, 29, 56, 68, 91), 1)
TRAINING = {1: 973, 2: 237, 3: 162, 4: 125, 5: 77, 6: 70, 7: 50, 8: 27, 9: 36, 10: 29, 11: 23, 12: 19, 13: 7, 14: 4}
TRAINING |= {15: 5, 16: 8, 17: 3, 18: 2, 19: 4, 20: 2, 21: 4, 24: 2, 26: 2, 28: 2, 29: 2, 33: 2}
TRAINING |= dict.fromkeys((23, 25, 30, 36, 38, 39, 42, 44, 45, 54, 208), 1)


def sizes_of(*counts):
    return np.concatenate([np.repeat(list(count), list(count.values())) for count in counts])


SIZES = {
    "100 artists, 8 clips each": np.full(100, 8),
    "20 artists, 40 clips each": np.full(20, 40),
    "official validation": sizes_of(VALIDATION),
    "official test": sizes_of(TEST),
    "cross-validation": sizes_of(TRAINING, VALIDATION),
}


def test_sizes_of_fma_small():
    """The totals that docs/results/fma-small.md states."""
    sizes = {name: (len(x), x.sum(), round(intervals.effective_size(x))) for name, x in SIZES.items()}
    assert sizes["official validation"] == (219, 800, 53) and sizes["official test"] == (202, 800, 30)
    assert sizes["cross-validation"][:2] == (2107, 7200)
    methods = [intervals.interval_method(x) for x in SIZES.values()]
    assert methods == ["bootstrap", "jackknife", "bootstrap", "jackknife", "bootstrap"]


def simulate(sizes, spread, draws, rng):
    """Return in how many draws an interval by artist, and a Wilson interval, contain the true accuracy.

    The accuracy of each artist is drawn from a distribution on the logit scale, with the standard deviation `spread`.
    """
    normal = np.random.default_rng(0).standard_normal(1_000_000)
    truth = (1 / (1 + np.exp(-(0.3 + spread * normal)))).mean()
    covered = np.zeros(2)
    for _ in range(draws):
        accuracies = 1 / (1 + np.exp(-(0.3 + spread * rng.standard_normal(len(sizes)))))
        hits = rng.binomial(sizes, accuracies)
        by_artist = intervals.artist_interval(intervals.mean, np.stack([hits, sizes], axis=1), sizes)
        wilson = intervals.wilson_interval(hits.sum(), sizes.sum())
        covered += [low <= truth <= high for low, high in (by_artist, wilson)]
    return covered


@pytest.mark.slow  # a minute
@pytest.mark.parametrize("spread", [0.5, 1.5, 3.0])
@pytest.mark.parametrize("name", SIZES)
def test_coverage(name, spread, rng):
    by_artist, wilson = simulate(SIZES[name], spread, 1000, rng)
    assert by_artist >= 910
    assert wilson <= by_artist - 30 and (spread < 1 or wilson < 750)


@pytest.mark.parametrize("name", ["20 artists, 40 clips each", "official test", "official validation"])
def test_coverage_quickly(name, rng):
    by_artist, wilson = simulate(SIZES[name], 1.5, 200, rng)
    assert by_artist >= 176 and wilson < 150  # 176: 91 % minus a standard error and a half


def test_sums_by_artist(rng):
    artists, values = rng.integers(-3, 4, 50) * 10, rng.normal(size=(50, 3))
    sums, sizes = intervals.sums_by_artist(artists, values)
    for row, artist in enumerate(np.unique(artists)):
        np.testing.assert_allclose(sums[row], values[artists == artist].sum(axis=0))
        assert sizes[row] == (artists == artist).sum()


def test_too_few_artists():
    sums = np.ones((9, 2))
    assert intervals.artist_interval(intervals.mean, sums, np.ones(9)) is None
    assert intervals.interval_method(np.ones(9)) == "too few artists"


@pytest.mark.parametrize("sizes", [np.arange(1, 21), np.full(200, 4)])
def test_all_clips_alike(sizes):
    """The spread between artists is 0, but the interval has the width that the number of artists justifies."""
    low, high = intervals.artist_interval(intervals.mean, np.stack([sizes, sizes], axis=1), sizes)
    assert high == pytest.approx(1) and 1 - 5 / intervals.effective_size(
        sizes
    ) < low < 1 - 3 / intervals.effective_size(sizes)
    mirrored = intervals.artist_interval(intervals.mean, np.stack([0 * sizes, sizes], axis=1), sizes)
    assert mirrored == pytest.approx((1 - high, 1 - low))


def test_bootstrap_by_a_loop(rng):
    """Against a plain loop that draws artists and concatenates their clips."""
    sizes = rng.integers(1, 5, 120)
    hits = rng.binomial(sizes, rng.beta(2, 2, 120))
    interval = intervals.artist_interval(intervals.mean, np.stack([hits, sizes], axis=1), sizes)
    drawn = rng.integers(0, 120, (4000, 120))
    low, high = np.quantile(hits[drawn].sum(axis=1) / sizes[drawn].sum(axis=1), [0.025, 0.975])
    assert interval == pytest.approx((low, high), abs=0.01)


def test_jackknife_by_hand():
    """Ten artists with one clip each, six of them correct: the standard error on the logit scale by the formula."""
    hits, ones = np.array([1.0] * 6 + [0.0] * 4), np.ones(10)
    low, high = intervals.artist_interval(intervals.mean, np.stack([hits, ones], axis=1), ones)
    left_out = np.array([np.log(p / (1 - p)) for p in [5 / 9] * 6 + [6 / 9] * 4])
    error = np.sqrt(9 / 10 * ((left_out - left_out.mean()) ** 2).sum())
    bounds = np.log(0.6 / 0.4) + np.array([-1, 1]) * 2.262157 * error  # t with 9 degrees of freedom
    assert (low, high) == pytest.approx(tuple(1 / (1 + np.exp(-bounds))), abs=1e-5)
