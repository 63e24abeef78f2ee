"""Genres that are predicted for a track, and kinds of labels."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import small_model
from genrekeras import cli
from genrekeras.inference import label_kinds, predicted_genres
from genrekeras.inference.labels import most_probable_genre

LABELS = ("rock", "sad", "pop", "80s", "jazz", "folk")
KINDS = dict.fromkeys(LABELS, "genre") | {"sad": "mood", "80s": "era"}


@pytest.fixture(scope="module")
def tagger():
    """A multi-label model whose labels are of several kinds; tests set its thresholds."""
    return small_model(genres=LABELS, multi_label=True, card={"labels": KINDS})


def test_kinds_are_those_of_the_card(tagger):
    assert label_kinds(tagger) == KINDS
    for card in ({}, {"labels": None}, {"labels": ["a"]}):  # of any origin
        tagger.card = card
        assert set(label_kinds(tagger).values()) == {"genre"}
    tagger.card = {"labels": KINDS}


@pytest.mark.parametrize(
    "probabilities, expected",
    [
        ([0.3, 0.9, 0.5, 0.9, 0.1, 0.1], ("pop", "rock")),
        ([0.3, 0.0, 0.5, 0.0, 0.6, 0.4], ("jazz", "pop", "folk")),  # at most three
        ([0.1, 0.9, 0.05, 0.9, 0.12, 0.0], ("jazz",)),  # at least one
        ([0.2, 0.0, 0.1, 0.0, 0.0, 0.0], ("rock",)),
    ],
)
def test_genres_of_a_model_that_is_not_calibrated(tagger, probabilities, expected):
    probabilities = np.array(probabilities)
    assert predicted_genres(tagger, probabilities) == expected
    assert most_probable_genre(tagger, probabilities) == expected[0]


def test_genres_above_class_thresholds(tagger):
    tagger.thresholds = {"class_thresholds": [0.6, 0.1, 0.2, 0.1, 0.2, 1.0]}
    assert predicted_genres(tagger, np.array([0.5, 0.9, 0.3, 0.9, 0.4, 0.9])) == ("jazz", "pop")
    assert predicted_genres(tagger, np.array([0.6, 0.9, 0.2, 0.9, 0.1, 0.1])) == ()
    with pytest.raises(ValueError, match="`class_thresholds` must contain a threshold for each of the 6 genres"):
        tagger.thresholds = {"class_thresholds": [0.5]}
    tagger.thresholds = None


def test_the_genre_of_a_calibrated_model_is_one_that_it_can_predict(tagger):
    probabilities = np.array([0.5, 0.9, 0.3, 0.9, 0.4, 0.9])
    tagger.thresholds = {"class_thresholds": [1.0, 0.1, 0.4, 0.1, 0.5, 1.0]}
    assert most_probable_genre(tagger, probabilities) == "jazz" and predicted_genres(tagger, probabilities) == ()
    tagger.thresholds = {"class_thresholds": [1.0] * 6}
    assert most_probable_genre(tagger, probabilities) == "folk"
    tagger.thresholds = None


def test_a_single_label_model_predicts_one_genre(one_second_model):
    probabilities = np.array([0.1, 0.3, 0.0, 0.2, 0.1, 0.1, 0.1, 0.1])
    assert predicted_genres(one_second_model, probabilities) == ("Pop",)
    with pytest.raises(ValueError, match="`class_thresholds` must be None for a single-label model"):
        small_model(thresholds={"class_thresholds": [0.5] * 8})


def test_genres_in_tables_and_on_the_command_line(tagger, music, tmp_path):
    table = tagger.predict_files(music, journal=tmp_path / "journal")
    again = tagger.predict_files(music, journal=tmp_path / "journal")
    assert table["genres"].tolist() == again["genres"].tolist()
    for genre, genres in zip(table["genre"], table["genres"], strict=True):
        assert isinstance(genres, tuple) and genres[0] == genre and not {"sad", "80s"} & set(genres)
    tagger.save(tmp_path / "m.keras")

    def shown(*flags):
        arguments = ["predict", str(music), "--model", str(tmp_path / "m.keras"), "--top", "1", *flags]
        return CliRunner().invoke(cli.main, arguments).stdout

    text, all_labels = shown(), shown("--all-labels")
    assert f"genres: {', '.join(table['genres'].iloc[0])}\n" in text and "(mood)" not in text
    assert "sad (mood)" in all_labels or "80s (era)" in all_labels
    assert [tuple(row["genres"]) for row in json.loads(shown("--json"))] == table["genres"].tolist()
    assert "; ".join(table["genres"].iloc[0]) in shown("--csv")


def test_an_unreadable_file_has_no_genres(tagger):
    table = tagger.predict_files(["missing.ogg"])
    assert table["genres"].tolist() == [None]
