"""Figures: their content and their files."""

import os
import warnings

import numpy as np
import pandas as pd
import pytest
from genrekeras.evaluation import MultiLabelReport, Report
from genrekeras.evaluation.comparison import compare
from genrekeras.inference.embeddings import Embeddings
from genrekeras.visualization import collection_map, comparison, learning_curves, reliability, spectrogram, timeline
from matplotlib.text import Text


def test_confusion_matrix(tmp_path):
    probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.7, 0.3, 0.0], [0.6, 0.4, 0.0]])
    report = Report(("x", "y", "z"), "test", "random", np.arange(4), np.array([0, 0, 0, 1]), probabilities)
    figure = report.plot(tmp_path / "matrix.png")
    assert (tmp_path / "matrix.png").read_bytes()[:4] == b"\x89PNG" and os.listdir(tmp_path) == ["matrix.png"]
    axes = figure.axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["67", "2", "33", "1", "100", "1"]  # percentage of the row and clips; empty cells without clips
    assert [label.get_text() for label in axes.get_yticklabels()] == ["x  (3)", "y  (1)", "z  (0)"]
    assert "random protocol, 4 clips" in axes.get_title() and "50.0 %" in axes.get_title()


def test_label_pairs(rng):
    """The 50 of 60 genres with the most clips, in their order; cells of many genres have no numbers of clips."""
    labels = rng.random((80, 60)) < np.where(np.arange(60) % 6 == 0, 0.1, 0.5)
    genres = tuple(f"g{i}" for i in range(60))
    report = MultiLabelReport(genres, "test", "official", np.arange(80), labels, 0.4 + 0.2 * labels)
    axes = report.plot().axes[0]
    names = [text.get_text().split("  ") for text in axes.get_yticklabels()]
    assert [name for name, _ in names] == [genre for i, genre in enumerate(genres) if i % 6]
    assert names[0][1] == f"({labels[:, 1].sum()})"
    texts = [int(text.get_text()) for text in axes.texts]
    both = labels[:, 1:3].all(axis=1).sum()
    assert len(texts) == 2500 and texts[0] == 100 and texts[1] == round(100 * both / labels[:, 1].sum())
    assert "mAP 100.0 %" in axes.get_title()
    few = MultiLabelReport(genres[:3], "test", "official", np.arange(80), labels[:, :3], 0.4 + 0.2 * labels[:, :3])
    assert len(few.plot().axes[0].texts) == 18
    diagram = reliability({"x": few}).axes[0]
    assert (diagram.get_xlabel(), diagram.get_ylabel()) == ("probability in %", "share of true labels in %")


def test_learning_curves(tmp_path):
    history = {
        "loss": [2.0, 1.0, 0.5],
        "accuracy": [0.2, 0.5, 0.8],
        "val_loss": [2.1, 1.5, 1.6],
        "val_accuracy": [0.1, 0.4, 0.3],
        "learning_rate": [0.1, 0.1, 0.01],
    }
    figure = learning_curves(history, tmp_path / "curves.png", title="a run")
    assert (tmp_path / "curves.png").stat().st_size > 5000
    loss, accuracy, rate = figure.axes
    np.testing.assert_allclose(loss.lines[1].get_ydata(), history["val_loss"])
    np.testing.assert_allclose(accuracy.lines[0].get_ydata(), [20, 50, 80])
    assert [text.get_text() for axes in (loss, accuracy) for text in axes.texts] == ["1.5", "40"]  # the best epochs
    assert rate.get_yscale() == "log"
    assert len(learning_curves({"loss": [1.0]}).axes) == 1  # neither validation nor learning rate
    every_second = learning_curves({"loss": [4.0, 3.0, 2.0, 1.0, 0.5], "val_loss": [3.5, 1.5]})
    assert list(every_second.axes[0].lines[1].get_xdata()) == [2, 4]
    with pytest.raises(ValueError, match="`history` must contain"):
        learning_curves({"loss": []})


def test_a_figure_that_cannot_be_written(tmp_path):
    (tmp_path / "no folder").touch()
    with pytest.raises(OSError):
        learning_curves({"loss": [1.0]}, tmp_path / "no folder" / "curves.png")


@pytest.mark.parametrize("flipped", [False, True])
def test_spectrogram(tmp_path, flipped):
    frequencies = np.geomspace(40, 9000, 64)[:: -1 if flipped else 1]
    figure = spectrogram(np.zeros((64, 100)), 5.0, frequencies, tmp_path / "s.png", "a clip", offset=2.0)
    axes = figure.axes[0]
    assert axes.get_xlim() == (2.0, 7.0)
    bottom, top = (frequencies[round(np.clip(row, 0, 63))] for row in axes.get_ylim())
    assert bottom == pytest.approx(40) and top == pytest.approx(9000)
    shown = {label.get_text(): row for label, row in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)}
    assert set(shown) == {"50", "100", "200", "500", "1,000", "2,000", "4,000", "8,000"}
    assert frequencies[round(shown["1,000"])] == pytest.approx(1000, rel=0.05)
    assert (tmp_path / "s.png").stat().st_size > 5000


def test_timeline(tmp_path):
    table = pd.DataFrame({"start": [0.0, 5.0, 65.0], "end": [10.0, 15.0, 75.0], "probability_x": [1, 0.5, 0]})
    table["probability_y"] = 1 - table["probability_x"]
    figure = timeline(table, tmp_path / "t.png")
    axes = figure.axes[0]
    assert axes.get_xlim() == (0.0, 75.0) and axes.xaxis.get_major_formatter()(75, None) == "1:15"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["y", "x"]  # from top to bottom
    assert len(timeline(table[:1], tmp_path / "t.png").axes[0].collections) == 2


def test_timeline_of_a_multi_label_model(tmp_path, rng):
    """Probabilities that do not sum to 1 are not stacked."""
    table = pd.DataFrame({"start": [0.0, 5.0, 65.0], "end": [10.0, 15.0, 75.0], "probability_$x": [0.2, 0.3, 0.2]})
    for number in range(12):
        table[f"probability_{number}"] = [0.01 * number, 0.9, 0.02]
    table["probability_sad"] = 1.0
    genres = ["$x", *map(str, range(12))]
    figure = timeline(table, tmp_path / "t.png", "a title", genres)
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == [str(number) for number in range(11, 1, -1)]
    [cells] = axes.collections
    np.testing.assert_allclose(cells.get_array()[0], [11, 90, 2])
    assert axes.yaxis_inverted() and axes.get_xlim() == (0.0, 75.0)
    np.testing.assert_allclose(cells.get_coordinates()[0, :, 0], [0, 7.5, 40, 75])
    figure = timeline(table[:1], genres=genres[:1])
    assert len(figure.axes[0].get_yticklabels()) == 1 and "$x" in drawn(figure)
    all_labels = timeline(table).axes[0].get_yticklabels()
    assert len(all_labels) == 10 and all_labels[0].get_text() == "sad"


def test_collection_map(tmp_path, rng):
    files = pd.DataFrame({"path": list("abcdef"), "genre": list("xxxxyy"), "probability": 0.5})
    files = files.assign(error=None, probability_x=0.5, probability_y=0.5, probability_z=0.0)
    figure = collection_map(Embeddings(files, rng.normal(0, 1, (6, 8)).astype("float32"), None), tmp_path / "m.png")
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["x  (4)", "y  (2)"]
    assert sum(len(points.get_offsets()) for points in figure.axes[0].collections) == 6


@pytest.mark.parametrize("predicted", [[0, 20], range(30)], ids=["some", "all"])
def test_genres_on_the_map_have_different_colors(tmp_path, rng, predicted):
    genres = [f"g{index}" for index in range(30)]
    files = pd.DataFrame({"path": [str(i) for i in predicted], "genre": [genres[i] for i in predicted]})
    files = files.assign(probability=0.5, error=None, **{f"probability_{genre}": 0.5 for genre in genres})
    embeddings = Embeddings(files, rng.normal(0, 1, (len(files), 8)).astype("float32"), None)
    collections = collection_map(embeddings, tmp_path / "m.png").axes[0].collections
    assert len({tuple(points.get_facecolor()[0]) for points in collections}) == len(collections) == len(files)


# Names and their drawn texts: an invalid formula, a name that legends omit, control characters, an invalid byte.
NAMES = {
    "$x^$": "$x^$",
    "_misc": "\u200b_misc",
    "A$AP $ \\$ a\rb\n\x1b[31m <b>&": r"A$AP $ \$ a\rb\n\x1b[31m <b>&",
    "caf\udce9": r"caf\xe9",
}


def drawn(figure):
    """All texts of a figure as they are drawn; fail if one of them is a formula."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.draw_without_rendering()
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    preprocessed = [text._preprocess_math(text.get_text()) for text in texts]
    assert not any(is_math for _, is_math in preprocessed)
    return "\n".join(text for text, _ in preprocessed)


@pytest.mark.parametrize("name", NAMES)
def test_names_are_drawn_literally(name, tmp_path, rng):
    labels = np.arange(6) % 2
    report = Report((name, "y"), name, "random", np.arange(6), labels, rng.dirichlet([1, 1], 6), name)
    table = compare({name: report, "y": report})
    figures = {
        "confusion": report.plot(tmp_path / "1.png"),
        "reliability": reliability({name: report}, tmp_path / "2.svg"),
        "curves": learning_curves({"loss": [1.0]}, tmp_path / "3.png", title=name),
        "comparison": comparison(table, tmp_path / "4.pdf"),
        "spectrogram": spectrogram(np.zeros((64, 9)), 5.0, np.geomspace(40, 9000, 64), tmp_path / "5.png", name),
    }
    for kind, figure in figures.items():
        assert NAMES[name] in drawn(figure), kind


@pytest.mark.parametrize("name", [name for name in NAMES if name.isascii()])  # names of columns in pandas are UTF-8
def test_genres_are_drawn_literally(name, tmp_path):
    columns = [f"probability_{name}", "probability_y"]
    track = pd.DataFrame({"start": [0.0, 5.0], "end": [10.0, 15.0], columns[0]: [1, 0.5], columns[1]: [0, 0.5]})
    files = pd.DataFrame({"path": list("abc"), "genre": [name, name, "y"], columns[0]: 0.5, columns[1]: 0.5})
    embeddings = Embeddings(files, np.eye(3, dtype="float32"), None)
    for figure in (timeline(track, tmp_path / "t.png"), collection_map(embeddings, tmp_path / "m.png")):
        assert NAMES[name] in drawn(figure)
        assert len(figure.axes[0].get_legend().get_texts()) == 2
