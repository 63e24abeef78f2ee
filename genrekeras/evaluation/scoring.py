"""Score a model on a split."""

import os

import keras
import numpy as np
import pandas as pd
from genrekeras.evaluation.report import Report
from genrekeras.utils.progress import printable


def evaluate(model, split, batch_size=16, crop="start", crops=1):
    """Predict each clip of a split and score the predictions.

    Genres are matched by name (`genrekeras.datasets.splits.match_genres`); the split may have only some genres of the
    model, in any order. The prediction is the most probable of all genres of the model, so the prediction of a genre
    that the split does not have counts as an error.

    Args:
        model: `GenreClassifier`.
        split: `genrekeras.datasets.Split`; or `SpectrogramSplit`, whose images are what the front end would make.
        batch_size: int > 0.
        crop, crops: position and number of the crops of `model.clip_seconds` from each waveform, as in
            `genrekeras.datasets.batches`, such as `crop="even", crops=3`. The probabilities of all crops are averaged.

    Returns:
        `Report` with the genres of the model, clips in the order of the split.

    Raises:
        ValueError: the split is empty, or has another sample rate than the model or genres that the model lacks.
    """
    split = in_genres_of(model, split)
    [probabilities] = predict_crops(model, split, batch_size, crop, crops, "probabilities")
    return to_report(model, split, probabilities, split.input_coverage(model.clip_seconds, crop, crops))


def in_genres_of(model, split):
    """Return the split with the labels of the model."""
    if not hasattr(split, "with_genres"):
        raise ValueError(f"`split` must be a split, such as `data.test`. Received: {type(split).__name__}")
    return split if split.genres == model.genres else split.with_genres(model.genres)


def misclassified(report, split):
    """Return the wrong predictions, the most confident first.

    Args:
        report: `Report` of the split, clips in its order.
        split: `genrekeras.datasets.Split`.

    Returns:
        `pandas.DataFrame`, a row a clip: `track_id`, `what` (artist and title, as far as they are known, else the name
        of the file), `genre`, `predicted`, `probability` (of the predicted). Control characters in names are escaped.
    """
    sure = report.probabilities.max(axis=1)
    wrong = np.flatnonzero(report.predictions != report.labels)
    wrong = wrong[np.argsort(-sure[wrong], kind="stable")]
    genres = [printable(genre) for genre in report.genres]
    rows = [
        {
            "track_id": report.track_ids[row],
            "what": _what(split.tracks.iloc[row]),
            "genre": genres[report.labels[row]],
            "predicted": genres[report.predictions[row]],
            "probability": round(float(sure[row]), 4),
        }
        for row in wrong
    ]
    return pd.DataFrame(rows, columns=["track_id", "what", "genre", "predicted", "probability"], dtype=object)


def _what(track):
    names = [track[key] for key in ("artist", "title") if isinstance(track.get(key), str) and track[key]]
    return printable(": ".join(names) or os.path.basename(track.get("path", "")))


def predict_crops(model, split, batch_size, crop, crops, *outputs):
    """Return the outputs of `model.for_inference` for the crops of each clip: list of `(clips, crops, ...)` arrays."""
    if len(np.unique(split.track_ids)) < len(split):
        raise ValueError("`split` must hold each track once. Received: several clips or images of one track.")
    crops = min(crops, split.max_crops)
    data = split.batches(batch_size, model.clip_seconds, crop, crops)
    model.check_data(data)
    network = model.for_inference(*outputs, inputs=split.inputs)
    return [found.reshape(len(split), crops, -1) for found in keras.tree.flatten(network.predict(data, verbose=0))]


def to_report(model, split, of_crops, coverage):
    """Return the `Report` of the mean probabilities of the crops of each clip, `(clips, crops, genres)`."""
    probabilities = of_crops.mean(axis=1)
    return Report(
        tuple(model.genres), split.name, split.protocol, split.track_ids, split.labels, probabilities, coverage
    )
