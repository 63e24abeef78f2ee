"""Intervals that take artists as independent: their coverage, in simulations with a known truth."""

import numpy as np
import pytest
import scipy.stats
from genrekeras.evaluation import intervals
from genrekeras.evaluation.ranking import mean_over_labels, ranking_scores
from sklearn import metrics

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


def draw_scores(sizes, labels, spread, rng):
    """Return artists, labels and scores of clips. The scores of an artist are shifted by a normal number.

    The probability of a label differs between artists, and is 0.1 on average. The scores of clips with and without a
    label are normal, 1.2 apart, with the variance 1 + spread^2.
    """
    artists = np.repeat(np.arange(len(sizes)), sizes)
    is_true = rng.random((len(artists), labels)) < rng.beta(0.3, 2.7, (len(sizes), labels))[artists]
    shift = spread * rng.standard_normal((len(sizes), labels))[artists]
    return artists, is_true, 1.2 * is_true + shift + rng.standard_normal(is_true.shape)


def true_scores(spread):
    """Return ROC-AUC and average precision of the distribution of `draw_scores`."""
    deviation = np.sqrt(1 + spread**2)
    positive = scipy.stats.norm(1.2, deviation).ppf((np.arange(100_000) + 0.5) / 100_000)
    hits, false = (scipy.stats.norm(mean, deviation).sf(positive) for mean in (1.2, 0))
    return (1 - false).mean(), (0.1 * hits / (0.1 * hits + 0.9 * false)).mean()


@pytest.mark.parametrize(
    "sizes, labels, spread",
    [
        (np.tile(np.arange(1, 9), 12), 1, 0.7),  # 96 artists; about 35 have clips with the label
        (np.full(80, 8), 1, 3.0),
        (np.full(30, 8), 8, 0.7),
        (np.tile(np.arange(1, 9), 12), 8, 0.7),
    ],
)
def test_coverage_of_ranking_scores(sizes, labels, spread, rng):
    """Mean ROC-AUC and average precision of labels. Intervals that take clips as independent are too narrow."""
    truth, draws, covered, covered_by_clips = np.array(true_scores(spread)), 300 // labels, np.zeros(2), np.zeros(2)
    for _ in range(draws):
        artists, is_true, scores = draw_scores(sizes, labels, spread, rng)

        def score(weights, is_true=is_true, scores=scores):
            return np.stack([mean_over_labels(values) for values in ranking_scores(is_true, scores, weights)], axis=1)

        support = np.repeat(is_true.any(axis=1, keepdims=True), 2, axis=1)
        kinds = [(artists, covered)] + [(np.arange(len(artists)), covered_by_clips)] * (spread > 1)
        for groups, count in kinds:
            bounds = np.array(intervals.weighted_intervals(score, groups, support))
            count += (bounds[:, 0] <= truth) & (truth <= bounds[:, 1])
    assert covered[0] >= 0.9 * draws and covered[1] >= 0.85 * draws
    if spread > 1:
        assert (covered_by_clips < 0.85 * draws).all()


def test_ranking_scores_equal_scikit_learn(rng):
    """To 1e-12, with ties, for integer weights, some of which are 0."""
    is_true = rng.random((200, 5)) < [0.02, 0.1, 0.5, 0.9, 0]
    scores = np.round(rng.random((200, 5)) + 0.3 * is_true, 2)
    weights = rng.integers(0, 3, (200, 4)).astype("float32")
    weights[is_true[:, 0], 3] = 0  # a sample in which no clip has the first label
    roc_auc, average_precision = ranking_scores(is_true, scores, weights)
    for sample, label in np.ndindex(4, 4):
        arguments = is_true[:, label], scores[:, label]
        if (sample, label) == (3, 0):
            assert np.isnan([roc_auc[3, 0], average_precision[3, 0]]).all()
            continue
        expected = metrics.roc_auc_score(*arguments, sample_weight=weights[:, sample])
        assert roc_auc[sample, label] == pytest.approx(expected, abs=1e-12)
        expected = metrics.average_precision_score(*arguments, sample_weight=weights[:, sample])
        assert average_precision[sample, label] == pytest.approx(expected, abs=1e-12)
    assert np.isnan(roc_auc[:, 4]).all() and np.isnan(average_precision[:, 4]).all()
    np.testing.assert_allclose(mean_over_labels(roc_auc), np.nanmean(roc_auc, axis=1))


def test_a_weighted_jackknife_by_a_loop(rng):
    """Clips are removed, not weighted by 0; the bias is corrected on the logit scale."""
    artists, is_true, scores = draw_scores(np.arange(1, 31), 1, 0.7, rng)
    found = intervals.weighted_intervals(lambda weights: ranking_scores(is_true, scores, weights)[1], artists, is_true)

    def logit(rows):
        value = metrics.average_precision_score(is_true[rows, 0], scores[rows, 0])
        return np.log(value / (1 - value))

    without = np.array([logit(artists != artist) for artist in range(30)])
    center = 30 * logit(artists >= 0) - 29 * without.mean()
    counts = np.bincount(artists[is_true[:, 0]])
    degrees = counts.sum() ** 2 / (counts**2).sum() - 1
    half = scipy.stats.t.ppf(0.975, degrees) * np.sqrt(29 / 30 * ((without - without.mean()) ** 2).sum())
    assert found[0] == pytest.approx((1 / (1 + np.exp(half - center)), 1 / (1 + np.exp(-half - center))), abs=1e-9)


def test_groups_of_artists_are_left_out_if_there_are_many(rng):
    """1,500 artists: the interval is about that of leaving out each artist."""
    _, is_true, scores = draw_scores(np.ones(1500, int), 1, 0.7, rng)
    roc_auc = metrics.roc_auc_score(is_true, scores)
    [(low, high)] = intervals.weighted_intervals(
        lambda weights: ranking_scores(is_true, scores, weights)[0], np.arange(1500), is_true
    )
    positive, negative = scores[is_true], scores[~is_true]  # the standard error of DeLong et al., Biometrics 1988
    wins = (positive[:, None] > negative).astype(float)
    parts = [wins.mean(axis=axis).var(ddof=1) / wins.shape[1 - axis] for axis in (0, 1)]
    assert (high - low) / 2 == pytest.approx(1.97 * np.sqrt(sum(parts)), rel=0.1)
    assert (high + low) / 2 == pytest.approx(roc_auc, abs=0.01)


def test_scores_without_an_interval():
    is_true = np.zeros((40, 3), bool)
    is_true[:9, 0] = is_true[:12, 1] = True  # nine artists have the first label, none has the third
    scores = np.linspace(1, 0, 40)[:, None] * np.ones(3)

    def score(weights):
        return ranking_scores(is_true, scores, weights)[0]

    found = intervals.weighted_intervals(score, np.arange(40), is_true)
    assert found == [None, intervals.wilson_interval(12, 12), None]
    assert intervals.weighted_intervals(score, np.zeros(40), is_true) == [None] * 3
