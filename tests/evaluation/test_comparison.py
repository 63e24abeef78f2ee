"""Comparison of models: differences and their intervals, against an explicit bootstrap."""

import dataclasses

import numpy as np
import pytest
from genrekeras.evaluation import Report
from genrekeras.evaluation.comparison import compare
from genrekeras.visualization import comparison

GENRES = ("x", "y", "z")


def report(is_correct, rng, order=None, name="test"):
    """A report with correct predictions for some clips."""
    count = len(is_correct)
    labels = np.arange(count) % 3
    probabilities = rng.uniform(0.1, 0.2, (count, 3))
    probabilities[np.arange(count), np.where(is_correct, labels, (labels + 1) % 3)] = 0.7
    order = np.arange(count) if order is None else order
    return Report(GENRES, name, "official", (100 + np.arange(count))[order], labels[order], probabilities[order], "all")


def test_differences(rng):
    count = 200
    first = rng.uniform(size=count) < 0.5
    second = np.where(rng.uniform(size=count) < 0.2, True, first)  # better on the same clips
    reports = {"a": report(first, rng), "b": report(second, rng, order=rng.permutation(count)), "c": report(first, rng)}
    table = compare(reports)
    assert list(table.index) == ["a", "b", "c"] and table["clips"].tolist() == [count] * 3
    assert table["accuracy"].tolist() == [first.mean(), second.mean(), first.mean()]
    assert np.isnan(table.loc["a", "difference"])
    assert table.loc["c", ["difference", "difference_low", "difference_high"]].tolist() == [0, 0, 0]
    differences = second.astype(int) - first
    samples = differences[np.random.default_rng(5).integers(count, size=(20_000, count))].mean(axis=1)
    expected = [differences.mean(), *np.quantile(samples, [0.025, 0.975])]
    row = table.loc["b", ["difference", "difference_low", "difference_high"]].tolist()
    np.testing.assert_allclose(row, expected, atol=1 / count)
    assert row[1] > 0  # the paired difference is significant, although the two intervals overlap
    assert table.loc["a", "high"] > table.loc["b", "low"]


@pytest.mark.parametrize("artists", [5, 20, 100])
def test_artists_are_independent_of_each_other(artists, rng):
    """Each artist has six clips with the same two predictions, as if there was only one clip of each."""
    first, second = rng.uniform(size=(2, artists)) < [[0.4], [0.7]]
    groups, one_each = np.repeat(np.arange(artists), 6), np.arange(artists)
    reports = {name: report(np.repeat(x, 6), rng) for name, x in (("a", first), ("b", second))}
    reports["a"] = dataclasses.replace(reports["a"], groups=groups)
    row = compare(reports).loc["b", ["difference", "difference_low", "difference_high"]].tolist()
    assert row[0] == pytest.approx(second.mean() - first.mean())
    if artists == 5:
        assert np.isnan(row[1:]).all()  # too few artists
        return
    reports = {name: report(x, rng) for name, x in (("a", first), ("b", second))}
    reports["a"] = dataclasses.replace(reports["a"], groups=one_each)
    assert compare(reports).loc["b", ["difference", "difference_low", "difference_high"]].tolist() == pytest.approx(row)
    differences = second.astype(int) - first
    half = 1.96 * differences.std() / np.sqrt(artists)  # the normal approximation
    np.testing.assert_allclose(row[1:], row[0] + np.array([-half, half]), atol=0.15 * half + 1 / artists)


def test_figure(rng, tmp_path):
    first = "a run with a long name that lists all of its settings"
    shares = {first: 0.3, "b": 0.9, "c": 0.35}
    table = compare({name: report(rng.uniform(size=60) < share, rng) for name, share in shares.items()})
    accuracies, differences = comparison(table, tmp_path / "c.png").axes
    assert [label.get_text() for label in accuracies.get_yticklabels()] == [first, "b", "c"]
    assert "60 clips" in accuracies.get_title() and "from the first" in differences.get_title()
    accuracies.figure.draw_without_rendering()
    for axes in (accuracies, differences):  # the titles fit into the figure
        title, figure = axes.title.get_window_extent(), axes.figure.bbox
        assert figure.x0 <= title.x0 and title.x1 <= figure.x1
    drawn = np.concatenate([points.get_offsets() for points in differences.collections if hasattr(points, "get_sizes")])
    assert 100 * table.loc["b", "difference"] in drawn[:, 0]
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"


def test_invalid_arguments(rng):
    is_correct = np.ones(9, bool)
    one = report(is_correct, rng)
    with pytest.raises(ValueError, match="two or more"):
        compare({"a": one})
    with pytest.raises(ValueError, match="The clips of b differ from those of a"):
        compare({"a": one, "b": report(is_correct[:6], rng)})
    other = Report(GENRES, "test", "official", one.track_ids, one.labels[::-1], one.probabilities)
    with pytest.raises(ValueError, match="only scores on the same clips can be compared"):
        compare({"a": one, "b": other})
    with pytest.raises(ValueError, match="The genres of b differ from those of a"):
        compare(
            {"a": one, "b": Report(("x", "y", "w"), "test", "official", one.track_ids, one.labels, one.probabilities)}
        )
