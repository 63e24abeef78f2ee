"""Logistic regression on features: comparison with scikit-learn, choice of the penalty, tracks of different lengths."""

import numpy as np
import pandas as pd
import pytest
from genrekeras.datasets.labels import add_labels
from genrekeras.training import linear_head
from genrekeras.training.linear_head import FeatureSplit, fit_linear_head
from scipy import special
from sklearn import linear_model, pipeline, preprocessing

GENRES = ("Folk", "Pop", "Rock")


def make_split(rng, multi_label=False, noise=1.0, artists=40, clips=(1, 4)):
    """Four tracks of each artist, with different numbers of clips."""
    artist = np.repeat(np.arange(artists), 4)
    labels = artist % 3
    means = rng.normal(size=(3, 12))[labels] + noise * rng.normal(size=(artists, 12))[artist]
    counts = rng.integers(*clips, len(artist))
    features = [
        (3 + 5 * mean + rng.normal(size=(count, 12))).astype("float32")
        for mean, count in zip(means, counts, strict=True)
    ]
    index = pd.RangeIndex(len(artist), name="track_id")
    tracks = pd.DataFrame({"artist_id": artist, "album_id": -1}, index)
    if multi_label:
        tracks["genres"] = [
            (GENRES[label], *[GENRES[0]] * (label and number % 4 == 0)) for number, label in enumerate(labels)
        ]
    else:
        tracks["genre"] = [GENRES[label] for label in labels]
    return FeatureSplit(add_labels(tracks, GENRES), features, GENRES)


@pytest.mark.parametrize("multi_label", [False, True])
def test_comparison_with_scikit_learn(rng, monkeypatch, multi_label):
    monkeypatch.setattr(linear_head, "PENALTIES", (0.01,))
    split = make_split(rng, multi_label)
    head = fit_linear_head(split)
    means = np.stack([clips.mean(axis=0) for clips in split.features])
    logits = head.logits([mean[None] for mean in means])[:, 0]
    classifier = linear_model.LogisticRegression(C=1 / (0.01 * len(split)), tol=1e-8, max_iter=1000)
    reference = pipeline.make_pipeline(preprocessing.StandardScaler(), classifier)
    if multi_label:
        expected = [reference.fit(means, column).predict_proba(means)[:, 1] for column in split.labels.T]
        np.testing.assert_allclose(special.expit(logits), np.transpose(expected), atol=2e-3)
    else:
        expected = reference.fit(means, split.labels).predict_proba(means)
        np.testing.assert_allclose(special.softmax(logits, axis=1), expected, atol=2e-3)


def test_logits_of_tracks_with_different_numbers_of_clips(rng):
    split = make_split(rng)
    head = fit_linear_head(split)
    logits = head.logits(split.features)
    for row, clips in zip(logits, split.features, strict=True):
        np.testing.assert_allclose(row[: len(clips)], clips @ head.kernel + head.bias)
        assert np.isnan(row[len(clips) :]).all()


def test_the_penalty_fits_the_data(rng):
    weak = fit_linear_head(make_split(rng, noise=0.1)).penalty
    strong = fit_linear_head(make_split(rng, noise=6.0)).penalty
    assert weak < strong == linear_head.PENALTIES[0]


def test_one_artist_and_constant_features(rng):
    split = make_split(rng, artists=3)
    split = split.select(np.flatnonzero(split.groups == 0))
    split = FeatureSplit(split.tracks, [np.ones((2, 12), "float32")] * len(split), GENRES)
    head = fit_linear_head(split)
    assert head.penalty == linear_head.PENALTIES[0] and np.isfinite(head.logits(split.features)).all()


def test_features_that_are_zero_in_all_but_one_genre(rng):
    """A fold may lack a genre, and features may separate genres completely. The weights stay finite."""
    split = make_split(rng, artists=6, noise=0.0)
    head = fit_linear_head(split)
    assert np.isfinite(head.kernel).all() and np.abs(head.kernel).max() < 100
    assert (np.nanmean(head.logits(split.features), axis=1).argmax(axis=1) == split.labels).mean() > 0.9
