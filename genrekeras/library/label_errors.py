"""Find the tracks of a music collection that may have a wrong genre.

Each track is predicted by a model that was not trained on its artist. Tracks are ranked by the out-of-fold probability
of their genre (self-confidence), the lowest first. The number of wrong labels is estimated by confident learning: a
genre has a threshold, its mean probability over the tracks that have it. A track counts as wrong if the most probable
of the genres that reach their threshold is not a genre of the track.

In simulations with 5 % of wrong labels, self-confidence ranked more of them first than the margin between two genres,
and more than were among the tracks that count as wrong.

Source: Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd
from genrekeras.datasets.collection import FOLDERS
from genrekeras.datasets.labels import label_rows
from genrekeras.evaluation import MultiLabelReport, Report
from genrekeras.evaluation.calibration import not_better_than_chance
from genrekeras.runs.collection import load_collection, summary_of
from genrekeras.runs.head_scores import cross_validate_head
from genrekeras.utils.io import StrPath


class Audit(NamedTuple):
    """Result of `audit`.

    Attributes:
        tracks: a row for each track, sorted by `probability`. The columns are:

            - `path`, `artist`, `title`: of the track. Unknown artists are `""`.
            - `genres`: tuple of str, the genres of the track.
            - `genre`: str, the least probable genre of the track.
            - `suggested`: str, the most probable genre that the track does not have; `""` if `genre` is more probable.
            - `probability`: float, out-of-fold probability of `genre`.
            - `suggested_probability`: float, highest probability of the genres that the track does not have.
            - `suspicious`: bool, true for the first tracks, as many as are estimated to have a wrong genre.

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
    """Find the tracks of a music collection that may have a wrong genre.

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

    Warns:
        UserWarning: the model is not better than chance.
    """
    loaded = load_collection(music, labels, backbone, pretrained, min_tracks, max_clips, workers)
    report = cross_validate_head(loaded.split, loaded.input_coverage, seed).validation.report
    if problem := not_better_than_chance(report):
        warnings.warn(f"{problem} Therefore, the suspicious tracks need not have a wrong genre.", stacklevel=2)
    tracks = loaded.collection.tracks
    genres = tracks["genres"] if loaded.collection.multi_label else [(genre,) for genre in tracks["genre"]]
    table = tracks[["path", "artist", "title"]].assign(genres=genres)
    table = pd.concat([table.reset_index(drop=True), rank_labels(report)], axis=1)
    table = table.sort_values("probability", kind="stable").reset_index(drop=True)
    headline = summary_of(report, int(tracks["without_artist"].sum()))
    return Audit(table, report, headline, loaded.broken)


def rank_labels(report: Report | MultiLabelReport) -> pd.DataFrame:
    """Compare the labels of tracks with their out-of-fold probabilities.

    Args:
        report: report of out-of-fold probabilities.

    Returns:
        A row for each track, in the order of the report, with the last five columns of `Audit.tracks`.
    """
    probabilities = report.probabilities.astype("float64")
    has_genre = label_rows(report.labels, len(report.genres)) == 1
    thresholds = (probabilities * has_genre).sum(axis=0) / np.maximum(has_genre.sum(axis=0), 1)
    confident = np.where(probabilities >= thresholds, probabilities, 0.0)
    wrong = (confident * ~has_genre).max(axis=1) > (confident * has_genre).max(axis=1)
    rows, names = np.arange(len(probabilities)), np.array(report.genres, object)
    genre = np.where(has_genre, probabilities, np.inf).argmin(axis=1)
    others = np.where(has_genre, 0.0, probabilities)
    suggested = others.argmax(axis=1)
    probability, suggested_probability = probabilities[rows, genre], others[rows, suggested]
    ranks = np.empty(len(rows), int)
    ranks[probability.argsort(kind="stable")] = rows
    return pd.DataFrame(
        {
            "genre": names[genre],
            "suggested": np.where(suggested_probability > probability, names[suggested], ""),
            "probability": probability,
            "suggested_probability": suggested_probability,
            "suspicious": ranks < wrong.sum(),
        }
    )
