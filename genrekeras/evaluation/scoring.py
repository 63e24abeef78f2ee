"""Evaluate a model on a split."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

import keras
import numpy as np
import pandas as pd
from genrekeras.evaluation.multi_label import MultiLabelReport
from genrekeras.evaluation.report import Report
from genrekeras.models.genre_classifier import GenreClassifier
from genrekeras.models.thresholds import DEFAULT_CLASS_THRESHOLD
from genrekeras.utils.progress import printable

if TYPE_CHECKING:  # Importing the datasets takes seconds.
    from genrekeras.datasets import SpectrogramSplit, Split


def evaluate(
    model: GenreClassifier,
    split: Split | SpectrogramSplit,
    batch_size: int = 16,
    crop: Literal["start", "center", "even", "random"] = "start",
    crops: int = 1,
) -> Report | MultiLabelReport:
    """Evaluate a model on a split.

    Genres are matched by name (`genrekeras.datasets.splits.match_genres`). The split may have only some of the genres
    of the model, in any order. The prediction is the most probable of all genres of the model. If the split does not
    have the predicted genre, the prediction counts as an error. A multi-label model predicts all genres whose
    probability is above their threshold (`Thresholds.class_thresholds`). Genres that the split does not have are left
    out of ROC-AUC and average precision.

    Args:
        model: model to evaluate.
        split: labelled clips. The front end does not process the images of a `SpectrogramSplit`.
        batch_size: `> 0`.
        crop: position of the crops of `model.clip_seconds` in each waveform, as in `genrekeras.datasets.batches`.
        crops: number of crops, for example `crop="even", crops=3`. The probabilities of all crops are averaged.

    Returns:
        Scores, with the genres of the model and the clips in the order of the split. It is a `MultiLabelReport` for a
        multi-label model.

    Raises:
        ValueError: the split is empty, has another sample rate than the model, or has a genre that the model lacks; or
            only one of model and split is multi-label.
    """
    split = in_genres_of(model, split)
    [probabilities] = predict_crops(model, split, batch_size, crop, crops, "probabilities")
    return to_report(model, split, probabilities, split.input_coverage(model.clip_seconds, crop, crops))


def in_genres_of(model: GenreClassifier, split: Split | SpectrogramSplit) -> Split | SpectrogramSplit:
    """Return the split with labels that are indices into the genres of the model."""
    if not hasattr(split, "with_genres"):
        raise ValueError(
            "`split` must be a genrekeras.datasets.Split or SpectrogramSplit, such as `data.test`. "
            f"Received: {type(split).__name__}"
        )
    if is_multi_label(split) != is_multi_label(model):
        kinds = {True: "multi-label", False: "single-label"}
        raise ValueError(
            f"`split` must be {kinds[is_multi_label(model)]}, because `model` is. "
            f"Received: a {kinds[is_multi_label(split)]} split"
        )
    return split if split.genres == model.genres else split.with_genres(model.genres)


def is_multi_label(value: GenreClassifier | Split | SpectrogramSplit) -> bool:
    """Return whether a model or a split is multi-label."""
    return getattr(value, "multi_label", False)


def misclassified(report: Report | MultiLabelReport, split: Split | SpectrogramSplit) -> pd.DataFrame:
    """Return the wrong predictions. The most confident errors come first.

    A multi-label report has an error for each pair of a clip and a genre that is wrongly predicted or missed. Its
    confidence is the probability of a wrongly predicted genre, or 1 minus the probability of a missed genre.

    Args:
        report: report of the split, with the clips in the order of the split.
        split: split from which the titles are taken.

    Returns:
        A row for each wrong prediction. The columns are `track_id`, `title` (artist and title, or the file name if both
        are unknown), `genre`, `predicted` and `probability` (of the predicted genre). For a multi-label report, `genre`
        is the genre that is wrongly predicted or missed, `predicted` is "yes" or "no", and `probability` is that of the
        genre. Control characters in names are escaped.
    """
    genres = [printable(genre) for genre in report.genres]
    if isinstance(report, MultiLabelReport):
        rows, columns = np.nonzero(report.predictions != (report.labels == 1))
        is_predicted, probabilities = report.predictions[rows, columns], report.probabilities[rows, columns]
        confidence = np.where(is_predicted, probabilities, 1 - probabilities)
        true_genres = [genres[column] for column in columns]
        predicted = ["yes" if value else "no" for value in is_predicted]
    else:
        rows = np.flatnonzero(~report.is_correct)
        confidence = probabilities = report.probabilities[rows].max(axis=1)
        true_genres = [genres[label] for label in report.labels[rows]]
        predicted = [genres[label] for label in report.predictions[rows]]
    table = [
        {
            "track_id": report.track_ids[rows[i]],
            "title": _describe_track(split.tracks.iloc[rows[i]]),
            "genre": true_genres[i],
            "predicted": predicted[i],
            "probability": round(float(probabilities[i]), 4),
        }
        for i in np.argsort(-confidence, kind="stable")
    ]
    return pd.DataFrame(table, columns=["track_id", "title", "genre", "predicted", "probability"], dtype=object)


def _describe_track(track):
    """Return artist and title of a row of `split.tracks`, or the file name if both are unknown."""
    names = [track[key] for key in ("artist", "title") if isinstance(track.get(key), str) and track[key]]
    return printable(": ".join(names) or os.path.basename(track.get("path", "")))


def predict_crops(
    model: GenreClassifier,
    split: Split | SpectrogramSplit,
    batch_size: int,
    crop: Literal["start", "center", "even", "random"],
    crops: int,
    *outputs: Literal["features", "probabilities", "ood_score"],
) -> list[np.ndarray]:
    """Compute outputs of `model.for_inference` for the crops of each clip, each `(clips, crops, size)`."""
    if len(np.unique(split.track_ids)) < len(split):
        raise ValueError("`split` must contain each track once. Received: several clips or images of a track")
    crops = int(min(crops, split.max_crops))
    data = split.batches(batch_size, model.clip_seconds, crop, crops)
    model.check_data(data)
    network = model.for_inference(*outputs, inputs=split.inputs)
    arrays = keras.tree.flatten(network.predict(data, verbose=0))
    return [array.reshape(len(split), crops, -1) for array in arrays]


def to_report(
    model: GenreClassifier, split: Split | SpectrogramSplit, probabilities: np.ndarray, coverage: str
) -> Report | MultiLabelReport:
    """Return the report of a split. The `(clips, crops, genres)` probabilities are averaged over the crops."""
    fields: dict[str, Any] = {
        "genres": tuple(model.genres),
        "split": split.name,
        "protocol": split.protocol,
        "track_ids": split.track_ids,
        "labels": split.labels,
        "probabilities": probabilities.mean(axis=1),
        "input_coverage": coverage,
        "groups": artists_of(split),
    }
    if is_multi_label(model):
        thresholds = np.array(model.thresholds.class_thresholds or DEFAULT_CLASS_THRESHOLD)
        return MultiLabelReport(**fields, thresholds=thresholds)
    return Report(**fields)


def artists_of(split: Split | SpectrogramSplit) -> np.ndarray | None:
    """Return the artist of each track as `Report.groups`, see `genrekeras.datasets.groups.artist_groups`."""
    from genrekeras.datasets.groups import artist_groups  # imported here because the import is slow

    return artist_groups(split.tracks)
