"""Out-of-fold predictions of a linear head: no leakage of labels, calibration, learning curve."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from genrekeras.datasets.labels import add_labels
from genrekeras.evaluation.calibration import mean_probabilities
from genrekeras.evaluation.cross_validation import calibrate_folds
from genrekeras.runs import head_scores
from genrekeras.runs.head_scores import cross_validate_head, describe_learning_curve, learning_curve
from genrekeras.training.linear_head import FeatureSplit

GENRES = ("Folk", "Jazz", "Pop", "Rock")


def make_split(rng, artists=60, tracks=4, genre_spread=1.0, artist_spread=0.5, multi_label=False):
    """Tracks with features that depend on the genre and on the artist."""
    artist = np.repeat(np.arange(artists), tracks)
    labels = artist % 4
    means = genre_spread * rng.normal(size=(4, 20))[labels] + artist_spread * rng.normal(size=(artists, 20))[artist]
    features = [(mean + rng.normal(size=(rng.integers(1, 4), 20))).astype("float32") for mean in means]
    table = pd.DataFrame({"artist_id": artist, "album_id": -1}, index=pd.RangeIndex(len(artist), name="track_id"))
    if multi_label:
        table["genres"] = [
            (GENRES[label], GENRES[number % 4])[: 1 + (label != number % 4)] for number, label in enumerate(labels)
        ]
    else:
        table["genre"] = [GENRES[label] for label in labels]
    return FeatureSplit(add_labels(table, GENRES), features, GENRES)


def relabelled(split, rows, label):
    """Return the split with another label of some tracks."""
    tracks = split.tracks.copy()
    tracks.loc[tracks.index[rows], ["label", "genre"]] = label, GENRES[label]
    return dataclasses.replace(split, tracks=tracks)


def test_predictions_do_not_depend_on_the_labels_of_the_fold(rng, monkeypatch):
    """The choice of the penalty does not use them either."""
    split = make_split(rng, artists=20)
    folds = cross_validate_head(split, "").validation.folds
    monkeypatch.setattr(head_scores, "_assign", lambda *arguments: folds)
    rows = np.flatnonzero(folds == 2)
    expected, other = (cross_validate_head(each, "").logits for each in (split, relabelled(split, rows, 0)))
    np.testing.assert_array_equal(expected[rows], other[rows])
    assert not np.array_equal(expected[folds == 1], other[folds == 1])


def test_features_that_show_only_the_artist(rng):
    """Genres are predicted by chance if the features of a genre have nothing in common."""
    result = cross_validate_head(make_split(rng, genre_spread=0.0, artist_spread=3.0), "").validation
    assert result.report.accuracy < 0.4  # 0.25 is chance
    np.testing.assert_array_equal(result.report.groups, np.repeat(np.arange(60), 4))
    for artist in range(60):
        assert len(set(result.folds[4 * artist : 4 * artist + 4])) == 1


def test_calibration_uses_the_clips(rng):
    """The probabilities of a fold are the mean over the clips, after the logits were divided by the temperature."""
    split = make_split(rng, genre_spread=0.5)
    result = cross_validate_head(split, "up to 3 clips")
    validation = result.validation
    expected = mean_probabilities(result.logits / validation.temperatures[validation.folds][:, None, None], False)
    np.testing.assert_allclose(validation.report.probabilities, expected)
    np.testing.assert_allclose(validation.uncalibrated.probabilities, mean_probabilities(result.logits, False))
    assert validation.report.input_coverage == "up to 3 clips" and validation.report.split == "cross-validation"


def test_calibration_of_single_clips_needs_no_logits(rng):
    split = make_split(rng)
    split = dataclasses.replace(split, features=[clips[:1] for clips in split.features])
    validation = cross_validate_head(split, "").validation
    without = calibrate_folds(validation.uncalibrated, validation.folds, validation.seconds)
    np.testing.assert_allclose(without.temperatures, validation.temperatures, rtol=1e-3)
    np.testing.assert_allclose(without.report.probabilities, validation.report.probabilities, atol=1e-4)


@pytest.mark.parametrize("multi_label", [False, True])
def test_learning_curve(rng, multi_label):
    split = make_split(rng, artists=48, tracks=2, artist_spread=1.2, multi_label=multi_label)
    result = cross_validate_head(split, "")
    curve = learning_curve(split, result)
    assert [row["share"] for row in curve] == [0.25, 0.5, 1.0]
    assert [row["artists"] for row in curve] == pytest.approx([9.6, 19.2, 38.4], abs=1)
    assert curve[2]["score"] == result.validation.uncalibrated.score
    for row in curve[:2]:
        assert row["gain"] == pytest.approx(curve[2]["score"] - row["score"])
        assert row["gain_low"] < row["gain"] < row["gain_high"] and row["low"] < row["score"] < row["high"]
    assert curve[0]["gain"] > 0


def test_few_artists(rng):
    split = make_split(rng, artists=4)
    result = cross_validate_head(split, "")
    assert result.validation.folds.max() == 3
    curve = learning_curve(split, result)
    assert [row["share"] for row in curve] == [1.0] and curve[0]["low"] is None
    assert "too few artists" in describe_learning_curve(curve, "accuracy")
    with pytest.raises(ValueError, match="All tracks have the same artist or album"):
        cross_validate_head(split.select(np.flatnonzero(split.groups == 0)), "")


@pytest.mark.parametrize(
    "gain, low, high, expected",
    [
        (0.08, 0.03, 0.13, "by +8 percentage points [+3, +13], so music of more artists will probably"),
        (0.01, -0.004, 0.03, "by +1 percentage points [0, +3]. This may be due to chance"),
        (-0.02, None, None, "by -2 percentage points. There are too few artists for an interval"),
    ],
)
def test_description_of_the_learning_curve(gain, low, high, expected):
    row = {"share": 0.5, "gain": gain, "gain_low": low, "gain_high": high}
    assert expected in describe_learning_curve([row, {"share": 1.0}], "accuracy").replace("+0,", "0,")
