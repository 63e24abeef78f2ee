"""Thresholds of the genres of a multi-label model."""

import numpy as np
import pytest
from genrekeras.evaluation.class_thresholds import choose_class_thresholds
from genrekeras.models.thresholds import NEVER
from sklearn import metrics

# From high to low probability: clips 1, 2, 4, 5 and 8 of ten have the genre.
HITS = np.array([1, 1, 0, 1, 1, 0, 0, 1, 0, 0])
PROBABILITIES = np.linspace(0.95, 0.05, 10)


@pytest.mark.parametrize(
    "precision, predicted",
    [
        (None, 5),  # F1: 2 * 4 / (5 + 5) is higher than 2 * 5 / (8 + 5)
        (0.95, 2),
        (0.8, 5),  # the precision is 2/3 at three clips, and 4/5 at five
        (0.62, 8),
        (0.5, 10),
    ],
)
def test_constructed_cases(precision, predicted):
    order = np.random.default_rng(0).permutation(10)
    [threshold] = choose_class_thresholds(HITS[order, None], PROBABILITIES[order, None], ("x",), precision)
    assert (PROBABILITIES > threshold).sum() == predicted
    if predicted < 10:
        assert threshold == pytest.approx(PROBABILITIES[predicted - 1 : predicted + 1].mean())  # halfway


def test_no_threshold_has_the_precision():
    with pytest.warns(UserWarning, match=r"These genres are never predicted, .* a precision of 0\.9: x"):
        [threshold] = choose_class_thresholds(1 - HITS[:, None], PROBABILITIES[:, None] ** 0.01, ("x",), 0.9)
    assert threshold == NEVER


def test_rare_genres_have_the_threshold_of_all_genres(rng):
    labels = rng.random((200, 4)) < [0.3, 0.3, 0.3, 0.01]
    labels[:, 3] = np.arange(200) < 4
    probabilities = np.clip(0.2 + 0.3 * labels + rng.normal(0, 0.15, (200, 4)), 0.01, 0.99)
    with pytest.warns(UserWarning, match="fewer than 5 clips, .* for all genres together: d$"):
        thresholds = choose_class_thresholds(labels, probabilities, tuple("abcd"))
    assert len(set(thresholds)) == 4
    pooled = choose_class_thresholds(labels.reshape(-1, 1), probabilities.reshape(-1, 1), ("all",))
    assert thresholds[3] == pooled[0]
    labels[4, 3] = True  # five clips are enough
    assert choose_class_thresholds(labels, probabilities, tuple("abcd"))[3] != pooled[0]


def test_no_other_threshold_has_a_higher_f1_score(rng):
    """With ties: all possible sets of predictions are tried."""
    for _ in range(20):
        labels = rng.random((40, 1)) < 0.4
        probabilities = np.round(np.clip(0.3 + 0.2 * labels + rng.normal(0, 0.2, (40, 1)), 0.02, 0.98), 1).astype(
            "float32"
        )
        [threshold] = choose_class_thresholds(labels, probabilities, ("x",))
        scores = [metrics.f1_score(labels, probabilities > limit) for limit in np.arange(-0.05, 1, 0.1)]
        assert metrics.f1_score(labels, probabilities > threshold) == max(scores)


@pytest.mark.parametrize("precision", [None, 0.5])
@pytest.mark.parametrize("labels", [[1, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1]])
def test_probabilities_of_exactly_0_and_1(labels, precision):
    probabilities = np.array([[1.0], [1.0], [1.0], [1.0], [0.0], [0.0]])
    [threshold] = choose_class_thresholds(np.array(labels)[:, None], probabilities, ("x",), precision)
    assert 0 < threshold < 1


@pytest.mark.parametrize("precision", [0, 1, 1.5, -1])
def test_invalid_arguments(precision):
    with pytest.raises(ValueError, match=rf"`precision` must .* lie in \(0, 1\)\. Received: precision={precision}"):
        choose_class_thresholds(np.ones((6, 1)), np.ones((6, 1)), ("x",), precision)
