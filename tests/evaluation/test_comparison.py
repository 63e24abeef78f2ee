"""Runs beside each other: differences with their intervals, by hand and by drawing clips."""

import numpy as np
import pytest
from genrekeras.evaluation import Report
from genrekeras.evaluation.comparison import compare
from genrekeras.visualization import comparison

GENRES = ("x", "y", "z")


def report(hits, rng, order=None, name="test"):
    """A report of clips of which those in `hits` are right."""
    count = len(hits)
    labels = np.arange(count) % 3
    probabilities = rng.uniform(0.1, 0.2, (count, 3))
    probabilities[np.arange(count), np.where(hits, labels, (labels + 1) % 3)] = 0.7
    order = np.arange(count) if order is None else order
    return Report(GENRES, name, "official", (100 + np.arange(count))[order], labels[order], probabilities[order], "all")


def test_differences(rng):
    count = 200
    first = rng.uniform(size=count) < 0.5
    second = np.where(rng.uniform(size=count) < 0.2, True, first)  # better, on the same clips
    reports = {"a": report(first, rng), "b": report(second, rng, order=rng.permutation(count)), "c": report(first, rng)}
    table = compare(reports)
    assert list(table.index) == ["a", "b", "c"] and table["clips"].tolist() == [count] * 3
    assert table["accuracy"].tolist() == [first.mean(), second.mean(), first.mean()]
    assert np.isnan(table.loc["a", "difference"])
    assert table.loc["c", ["difference", "difference_low", "difference_high"]].tolist() == [0, 0, 0]
    better = second.astype(int) - first
    drawn = better[np.random.default_rng(5).integers(count, size=(20_000, count))].mean(axis=1)
    expected = [better.mean(), *np.quantile(drawn, [0.025, 0.975])]
    found = table.loc["b", ["difference", "difference_low", "difference_high"]].tolist()
    np.testing.assert_allclose(found, expected, atol=1 / count)
    assert found[1] > 0  # paired, it is more than chance; the two intervals overlap
    assert table.loc["a", "high"] > table.loc["b", "low"]
    same = compare({"a": reports["a"], "again": reports["a"]})
    assert same.loc["again", ["difference", "difference_low", "difference_high"]].tolist() == [0, 0, 0]


def test_the_picture(rng, tmp_path):
    first = "a run with a name that says all that was changed"
    shares = {first: 0.3, "b": 0.9, "c": 0.35}
    table = compare({name: report(rng.uniform(size=60) < share, rng) for name, share in shares.items()})
    ours, theirs = comparison(table, tmp_path / "c.png").axes
    assert [label.get_text() for label in ours.get_yticklabels()] == [first, "b", "c"]
    assert "60 clips" in ours.get_title() and "from the first" in theirs.get_title()
    ours.figure.draw_without_rendering()
    for axes in (ours, theirs):  # the titles fit, whatever the runs are called
        title, figure = axes.title.get_window_extent(), axes.figure.bbox
        assert figure.x0 <= title.x0 and title.x1 <= figure.x1
    drawn = np.concatenate([points.get_offsets() for points in theirs.collections if hasattr(points, "get_sizes")])
    assert 100 * table.loc["b", "difference"] in drawn[:, 0]
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"


def test_what_cannot_be_compared(rng):
    hits = np.ones(9, bool)
    one = report(hits, rng)
    with pytest.raises(ValueError, match="two or more"):
        compare({"a": one})
    with pytest.raises(ValueError, match="b was scored on other clips than a"):
        compare({"a": one, "b": report(hits[:6], rng)})
    other = Report(GENRES, "test", "official", one.track_ids, one.labels[::-1], one.probabilities)
    with pytest.raises(ValueError, match="other clips"):
        compare({"a": one, "b": other})
    with pytest.raises(ValueError, match="b has other genres"):
        compare(
            {"a": one, "b": Report(("x", "y", "w"), "test", "official", one.track_ids, one.labels, one.probabilities)}
        )
