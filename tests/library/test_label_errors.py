"""Tracks with wrong labels are among the first, as many as were swapped."""

import genrekeras as gk
import numpy as np
import pandas as pd
import pytest
from genrekeras.datasets.labels import add_labels
from genrekeras.evaluation import MultiLabelReport, Report
from genrekeras.library.label_errors import rank_labels
from genrekeras.runs.head_scores import cross_validate_head
from genrekeras.training.linear_head import FeatureSplit

GENRES = ("a", "b", "c", "d", "e", "f")


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1, 1), (1, 2, 3, 4, 5, 6)])
def test_swapped_labels_are_found(seed, sizes):
    """5 % of the labels of 600 tracks by 150 artists are swapped."""
    rng = np.random.default_rng(seed)
    artist = np.repeat(np.arange(150), 4)
    labels = rng.choice(6, 150, p=np.array(sizes) / sum(sizes))[artist]
    means = 0.75 * rng.normal(size=(6, 40))[labels] + 0.8 * rng.normal(size=(150, 40))[artist]
    features = [(mean + 1.2 * rng.normal(size=(3, 40))).astype("float32") for mean in means]
    swapped = rng.choice(600, 30, replace=False)
    given = labels.copy()
    given[swapped] = (labels[swapped] + rng.integers(1, 6, 30)) % 6
    tracks = pd.DataFrame({"genre": [GENRES[label] for label in given], "artist_id": artist, "album_id": -1})
    split = FeatureSplit(add_labels(tracks.rename_axis("track_id"), GENRES), features, GENRES)
    report = cross_validate_head(split, "").validation.report
    assert 0.8 <= report.accuracy <= 0.94
    table = rank_labels(report)
    first = table["probability"].argsort(kind="stable")[:30]
    assert np.isin(first, swapped).mean() >= 0.5
    listed = np.flatnonzero(table["suspicious"])
    assert 10 <= len(listed) <= 60 and np.isin(listed, swapped).mean() >= 0.5
    is_right = table["suggested"].to_numpy()[swapped] == np.array(GENRES)[labels[swapped]]
    assert is_right.mean() > 0.6


def test_single_label():
    probabilities = np.array([[0.9, 0.1, 0.0], [0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.1, 0.3, 0.6]])
    labels = np.array([0, 0, 1, 1, 2], "int32")
    table = rank_labels(Report(("a", "b", "c"), "s", "p", np.arange(5), labels, probabilities))
    assert table["genre"].tolist() == ["a", "a", "b", "b", "c"]
    assert table["suggested"].tolist() == ["", "", "", "a", ""]
    np.testing.assert_allclose(table["probability"], [0.9, 0.8, 0.7, 0.3, 0.6])
    np.testing.assert_allclose(table["suggested_probability"], [0.1, 0.1, 0.2, 0.6, 0.3])
    assert not table["suspicious"].any()  # 0.6 does not reach the threshold of a, 0.85


def test_several_labels():
    probabilities = np.array([[0.9, 0.8, 0.1], [0.9, 0.1, 0.7], [0.1, 0.9, 0.9], [0.5, 0.9, 0.2]])
    labels = np.array([[1, 1, 0], [1, 1, 0], [0, 1, 1], [1, 1, 1]])
    report = MultiLabelReport(("a", "b", "c"), "s", "p", np.arange(4), labels, probabilities)
    table = rank_labels(report)
    assert table["genre"].tolist() == ["b", "b", "b", "c"]
    assert table["suggested"].tolist() == ["", "c", "", ""]
    assert table["suspicious"].sum() <= 1


def test_public_names():
    assert callable(gk.library.audit) and callable(gk.library.train_collection)
    with pytest.raises(AttributeError, match="nonsense"):
        gk.library.nonsense  # noqa: B018
