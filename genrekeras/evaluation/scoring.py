"""Scores of a model on a split."""

import os

import keras
import numpy as np
import pandas as pd
from genrekeras.evaluation.report import Report
from genrekeras.utils.progress import printable


def evaluate(model, split, batch_size=16, crop="start", crops=1):
    """Evaluate a model on a split.

    Genres are matched by name (`genrekeras.datasets.splits.match_genres`); the split may have only some genres of the
    model, in any order. The prediction is the most probable of all genres of the model, so the prediction of a genre
    that the split does not have counts as an error.

    Args:
        model: `GenreClassifier`.
        split: `genrekeras.datasets.Split`; or `SpectrogramSplit`, whose images replace those of the front end.
        batch_size: int > 0.
        crop, crops: position and number of the crops of `model.clip_seconds` from each waveform, as in
            `genrekeras.datasets.batches`, such as `crop="even", crops=3`. The probabilities of all crops are averaged.

    Returns:
        `Report` with the genres of the model and the clips in the order of the split.

    Raises:
        ValueError: the split is empty, its sample rate is not that of the model, or the model lacks one of its genres.
    """
    split = in_genres_of(model, split)
    [probabilities] = predict_crops(model, split, batch_size, crop, crops, "probabilities")
    return to_report(model, split, probabilities, split.input_coverage(model.clip_seconds, crop, crops))


def in_genres_of(model, split):
    """Return the split with labels that are indices in the genres of the model."""
    if not hasattr(split, "with_genres"):
        raise ValueError(f"`split` must be a split, such as `data.test`. Received: {type(split).__name__}")
    return split if split.genres == model.genres else split.with_genres(model.genres)


def misclassified(report, split):
    """Return the wrong predictions, the most confident first.

    Args:
        report: `Report` of the split, with the clips in its order.
        split: `genrekeras.datasets.Split`.

    Returns:
        `pandas.DataFrame` with one row per wrong prediction: `track_id`, `title` (artist and title if they are known,
        else the file name), `genre`, `predicted`, `probability` (of the predicted genre). Control characters in names
        are escaped.
    """
    confidence = report.probabilities.max(axis=1)
    wrong = np.flatnonzero(report.predictions != report.labels)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    genres = [printable(genre) for genre in report.genres]
    rows = [
        {
            "track_id": report.track_ids[row],
            "title": _describe_track(split.tracks.iloc[row]),
            "genre": genres[report.labels[row]],
            "predicted": genres[report.predictions[row]],
            "probability": round(float(confidence[row]), 4),
        }
        for row in wrong
    ]
    return pd.DataFrame(rows, columns=["track_id", "title", "genre", "predicted", "probability"], dtype=object)


def _describe_track(track):
    """Return artist and title of a row of `split.tracks`, or the file name if both are unknown."""
    names = [track[key] for key in ("artist", "title") if isinstance(track.get(key), str) and track[key]]
    return printable(": ".join(names) or os.path.basename(track.get("path", "")))


def predict_crops(model, split, batch_size, crop, crops, *outputs):
    """Return the outputs of `model.for_inference` for the crops of each clip: list of `(clips, crops, size)` arrays."""
    if len(np.unique(split.track_ids)) < len(split):
        raise ValueError("`split` must contain each track once. Received: several clips or images of one track.")
    crops = min(crops, split.max_crops)
    data = split.batches(batch_size, model.clip_seconds, crop, crops)
    model.check_data(data)
    network = model.for_inference(*outputs, inputs=split.inputs)
    arrays = keras.tree.flatten(network.predict(data, verbose=0))
    return [array.reshape(len(split), crops, -1) for array in arrays]


def to_report(model, split, probabilities, coverage):
    """Return the `Report` of a split, from `(clips, crops, genres)` probabilities that are averaged over the crops."""
    mean = probabilities.mean(axis=1)
    return Report(tuple(model.genres), split.name, split.protocol, split.track_ids, split.labels, mean, coverage)
