"""Evaluate a model on a split."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any, Literal

import keras
import numpy as np
import pandas as pd
from genrekeras.evaluation.class_thresholds import MIN_CLIPS
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
    have the predicted genre, the prediction counts as an error.

    A multi-label model predicts all genres whose probability is above their threshold (`Thresholds.class_thresholds`).
    The data may have other genres than the model, such as the tags of a collection. Then these rules apply:

    - Genres that the model does not have are left out. Clips that have only such genres are left out too. A warning
      names the genres and counts the clips.
    - Genres of the model that fewer than 5 clips have, or that fewer than 5 clips do not have, are left out of the
      report (`MultiLabelReport.omitted_genres`). If nobody used a genre as a tag, it is unknown which clips have it.
    - All other genres are taken as completely tagged. A clip that is only tagged "rock" counts as a clip without "pop".
      If it is pop too, a correct prediction counts as an error, so precision and average precision are too low.

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
        ValueError: the split is empty, has another sample rate than the model, or has a genre that a single-label model
            lacks; only one of model and split is multi-label; or no genre of a multi-label model has enough clips.

    Warns:
        UserWarning: the split has genres that a multi-label model lacks.
    """
    split, scored = in_genres_of(model, split)
    [probabilities] = predict_crops(model, split, batch_size, crop, crops, "probabilities")
    return to_report(model, split, probabilities, split.input_coverage(model.clip_seconds, crop, crops), scored)


def in_genres_of(
    model: GenreClassifier, split: Split | SpectrogramSplit
) -> tuple[Split | SpectrogramSplit, np.ndarray]:
    """Match the genres of a split with those of a model, see `evaluate`.

    Returns:
        The split with labels that are indices into the genres of the model, and `(k,)` int, the labels to score. These
        are all labels, unless a multi-label model has other genres than the split.
    """
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
    labels = np.arange(len(model.genres))
    if split.genres == model.genres:
        return split, labels
    if not is_multi_label(model):
        return split.with_genres(model.genres), labels
    split, has_same_genres = _without_other_genres(split, model.genres)
    positives = split.labels.sum(axis=0).astype(int)
    if not has_same_genres:
        labels = np.flatnonzero(np.minimum(positives, len(split) - positives) >= MIN_CLIPS)
    if not len(labels):
        found = ", ".join(f"{model.genres[i]} ({positives[i]})" for i in np.flatnonzero(positives))
        raise ValueError(
            f"`split` must have a genre of the model that at least {MIN_CLIPS} clips have, and at least {MIN_CLIPS} "
            f"clips do not have. Received: {len(split)} clips, with {found or 'no genre of the model'}"
        )
    return split, labels


def _without_other_genres(split, genres):
    """Remove the genres that a model lacks from a multi-label split, and clips that have only such genres.

    Args:
        split: the split.
        genres: genres of the model.

    Returns:
        The split, whose labels are indices into `genres`, and whether all genres of both are the same.
    """
    from genrekeras.datasets.splits import match_genres  # imported here because the import is slow

    matches = match_genres(split.genres, genres, ignore_others=True)
    is_known = np.array([genre in matches for genre in split.genres])
    counts, has_genre = split.labels.sum(axis=0).astype(int), split.labels.any(axis=1)
    is_kept = split.labels[:, is_known].any(axis=1) | ~has_genre
    num_removed = np.sum(~is_kept)
    others = [index for index in np.argsort(-counts, kind="stable") if counts[index] and not is_known[index]]
    if others:
        names = [f"{split.genres[index]} ({counts[index]})" for index in others[:20]] + ["..."] * (len(others) > 20)
        warnings.warn(
            f"The {split.name} split has {len(others)} genres that the model does not have. They are left out: "
            f"{', '.join(names)}. Of {len(split)} clips, {num_removed} have no other genre. They are left out too.",
            stacklevel=4,
        )
    split = split.select(np.flatnonzero(is_kept)).with_genres(genres, ignore_others=True)
    return split, len(matches) == len(is_known) == len(genres)


def is_multi_label(value: GenreClassifier | Split | SpectrogramSplit) -> bool:
    """Return whether a model or a split is multi-label."""
    return getattr(value, "multi_label", False)


def misclassified(report: Report | MultiLabelReport, split: Split | SpectrogramSplit) -> pd.DataFrame:
    """Return the wrong predictions. The most confident errors come first.

    A multi-label report has an error for each pair of a clip and a genre that is wrongly predicted or missed. Its
    confidence is the probability of a wrongly predicted genre, or 1 minus the probability of a missed genre.

    Args:
        report: report of the split.
        split: split from which the titles are taken. It contains all tracks of the report.

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
            "title": _describe_track(split.tracks.loc[report.track_ids[rows[i]]]),
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
    model: GenreClassifier,
    split: Split | SpectrogramSplit,
    probabilities: np.ndarray,
    coverage: str,
    scored: np.ndarray,
) -> Report | MultiLabelReport:
    """Return the report of a split.

    Args:
        model: the model.
        split: result of `in_genres_of`.
        probabilities: `(clips, crops, genres)`. They are averaged over the crops.
        coverage: `Report.input_coverage`.
        scored: labels to score, result of `in_genres_of`.
    """
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
    if not is_multi_label(model):
        return Report(**fields)
    thresholds = model.thresholds.class_thresholds
    fields |= {
        "genres": tuple(model.genres[label] for label in scored),
        "labels": split.labels[:, scored],
        "probabilities": fields["probabilities"][:, scored],
        "thresholds": np.array(DEFAULT_CLASS_THRESHOLD) if thresholds is None else np.array(thresholds)[scored],
        "omitted_genres": tuple(genre for label, genre in enumerate(model.genres) if label not in scored),
    }
    return MultiLabelReport(**fields)


def artists_of(split: Split | SpectrogramSplit) -> np.ndarray | None:
    """Return the artist of each track as `Report.groups`, see `genrekeras.datasets.groups.artist_groups`."""
    from genrekeras.datasets.groups import artist_groups  # imported here because the import is slow

    return artist_groups(split.tracks)
