"""Find the tracks of a music collection that probably have a wrong genre.

Each track is predicted by a model that was not trained on its artist. A track is suspicious if these out-of-fold
probabilities contradict its genre. The thresholds are those of confident learning: the threshold of a genre is the mean
probability of the genre over the tracks that have it. They account for genres that the model predicts with a low
probability in general.

Source: Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from genrekeras.datasets.collection import FOLDERS
from genrekeras.datasets.labels import label_rows
from genrekeras.evaluation import MultiLabelReport, Report
from genrekeras.runs.collection import load_collection, summary_of
from genrekeras.runs.head_scores import cross_validate_head
from genrekeras.utils.io import StrPath


class Audit(NamedTuple):
    """Result of `audit`.

    Attributes:
        tracks: a row for each track, the most suspicious first. The columns are:

            - `path`, `artist`, `title`: of the track. Unknown artists are `""`.
            - `genres`: tuple of str, the genres of the track.
            - `genre`: str, the genre of the track that is most probably wrong.
            - `suggested`: str, the most probable genre that the track does not have.
            - `probability`, `suggested_probability`: float, out-of-fold probabilities of `genre` and `suggested`.
            - `score`: float in [-2, 2]. `probability` minus the threshold of `genre`, minus the same difference for
              `suggested`. The lower it is, the more probably the genre is wrong.
            - `suspicious`: bool, whether `score` is negative and `suggested_probability` reaches its threshold.
        report: scores of the out-of-fold predictions.
        headline: the score as a sentence.
        broken: path -> reason, tracks that cannot be read. They are not in `tracks`.
    """

    tracks: pd.DataFrame
    report: Report | MultiLabelReport
    headline: str
    broken: dict[str, str]


def audit(
    music: StrPath,
    labels: StrPath = FOLDERS,
    backbone: str = "musicnn",
    pretrained: StrPath | None = None,
    min_tracks: int = 10,
    max_clips: int = 30,
    workers: int = 2,
    seed: int = 0,
) -> Audit:
    """Find the tracks of a music collection that probably have a wrong genre.

    The features and the models are those of `train_collection`. Features that it has cached are used.

    The result is a suggestion. Listen to a track before you change its genre: a correct genre of an unusual track is
    also suspicious. The higher the accuracy of the report, the more of the suspicious tracks have a wrong genre.

    Args:
        music: see `train_collection`.
        labels: see `train_collection`.
        backbone: see `train_collection`.
        pretrained: see `train_collection`.
        min_tracks: see `train_collection`.
        max_clips: see `train_collection`.
        workers: see `train_collection`.
        seed: see `train_collection`.

    Raises:
        FileNotFoundError, ValueError, OSError: see `train_collection`.
    """
    loaded = load_collection(music, labels, backbone, pretrained, min_tracks, max_clips, workers)
    report = cross_validate_head(loaded.split, loaded.input_coverage, seed).validation.report
    tracks = loaded.collection.tracks
    genres = tracks["genres"] if loaded.collection.multi_label else [(genre,) for genre in tracks["genre"]]
    table = tracks[["path", "artist", "title"]].assign(genres=genres)
    table = pd.concat([table.reset_index(drop=True), rank_labels(report)], axis=1)
    table = table.sort_values("score", kind="stable").reset_index(drop=True)
    headline = summary_of(report, int(tracks["without_artist"].sum()))
    return Audit(table, report, headline, loaded.broken)


def rank_labels(report: Report | MultiLabelReport) -> pd.DataFrame:
    """Compare the labels of tracks with their out-of-fold probabilities.

    Args:
        report: report of out-of-fold probabilities.

    Returns:
        A row for each track, in the order of the report, with the last six columns of `Audit.tracks`.
    """
    probabilities = report.probabilities.astype("float64")
    has_genre = label_rows(report.labels, len(report.genres)) == 1
    thresholds = (probabilities * has_genre).sum(axis=0) / np.maximum(has_genre.sum(axis=0), 1)
    margins = probabilities - thresholds
    rows = np.arange(len(probabilities))
    genre = np.where(has_genre, margins, np.inf).argmin(axis=1)
    suggested = np.where(has_genre, -np.inf, margins).argmax(axis=1)
    score = margins[rows, genre] - margins[rows, suggested]
    has_all = has_genre.all(axis=1)  # no genre can be suggested
    score[has_all] = margins[rows, genre][has_all] + 1
    reaches_threshold = margins[rows, suggested] >= 0
    names = np.array(report.genres, object)
    return pd.DataFrame(
        {
            "genre": names[genre],
            "suggested": np.where(has_all, "", names[suggested]),
            "probability": probabilities[rows, genre],
            "suggested_probability": np.where(has_all, 0.0, probabilities[rows, suggested]),
            "score": score,
            "suspicious": (score < 0) & reaches_threshold & ~has_all,
        }
    )
