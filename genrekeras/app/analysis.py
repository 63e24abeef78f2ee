"""Predictions, figures and similar tracks of audio files, for several users at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from genrekeras import audio, inference, visualization
from genrekeras.inference.predict import to_row, to_table
from genrekeras.models import saving
from genrekeras.models.genre_classifier import GenreClassifier
from matplotlib.figure import Figure

MAX_MINUTES = 60  # length of a track
_MAX_TIMELINE_CLIPS = 60


class Analyser:
    """Analyse audio files with one of several models.

    Only one thread at a time computes, and others wait.

    Args:
        models: name -> path of the `.keras` file. The first model is loaded now. It also computes the similar tracks.
            Each other model is loaded when it is used for the first time.
        tracks: audio files in which similar tracks are searched. They are processed now.
        folder: the paths of similar tracks are shown relative to this folder.

    Attributes:
        models: the argument.
        errors: a row for each file of `tracks` that could not be read, with the columns `path` and `error`.

    Raises:
        ValueError: none of the files in `tracks` can be read.
        genrekeras.models.saving.ModelFileError: the first model cannot be loaded.
    """

    def __init__(self, models: Mapping[str, str], tracks: Sequence[str] = (), folder: str | None = None):
        self.models = dict(models)
        self._loaded: dict[str, GenreClassifier] = {}
        self._lock = threading.RLock()
        self._folder = folder
        self._first = self.model(next(iter(models)))
        self._index = self._first.embed_files(tracks) if tracks else None
        self.errors = pd.DataFrame(columns=["path", "error"]) if self._index is None else self._index.errors

    @property
    def has_index(self) -> bool:
        """Whether there are tracks in which similar ones can be searched."""
        return self._index is not None

    def model(self, name: str) -> GenreClassifier:
        """Return a model, which is loaded if it is used for the first time."""
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = saving.load_model(self.models[name])
            return self._loaded[name]

    def predict(self, name: str, paths: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield the row of each file, as soon as it is computed.

        Args:
            name: name of the model.
            paths: audio files.

        Yields:
            Column -> value, see `genrekeras.inference.predict_files`. A file that is too long has an `error`.
        """
        model = self.model(name)
        errors = {path: error for path in paths if (error := _problem(path))}
        rows = inference.predict_each(model, [path for path in paths if path not in errors])
        for path in paths:
            with self._lock:
                row = to_row(model, path, (), 0.0, errors[path]) if path in errors else next(rows)
            yield row

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
        """Return rows of `predict` as the table that `predict_files` returns."""
        return to_table(self.model(name), rows)

    def similar(self, path: str, count: int = 5) -> pd.DataFrame:
        """Return the most similar tracks of the index.

        Args:
            path: audio file.
            count: `> 0`, maximum number of tracks.

        Returns:
            A row for each track, with the columns `path`, `genre` and `similarity` (cosine similarity), see
            `genrekeras.inference.Embeddings.nearest`.
        """
        assert self._index is not None
        with self._lock:
            query = self._first.embed_files([path])
            files = pd.concat([query.files, self._index.files], ignore_index=True)
            together = inference.Embeddings(files, np.vstack([query.vectors, self._index.vectors]), query.errors)
            table = together.nearest(path, count)
        return table.assign(path=[os.path.relpath(track, self._folder) for track in table["path"]])

    def timeline(self, name: str, path: str) -> Figure:
        """Return a figure of the probabilities along a track."""
        with self._lock:
            model = self.model(name)
            hop_seconds = max(model.clip_seconds / 2, audio.info(path).seconds / _MAX_TIMELINE_CLIPS)
            table = model.predict_timeline(path, hop_seconds=hop_seconds)
        return visualization.timeline(table, genres=inference.genre_labels(model))

    def spectrogram(self, name: str, path: str, seconds: float) -> Figure:
        """Return a figure of the image that a model computes from a clip in the middle of the first `seconds`."""
        with self._lock:
            model = self.model(name)
            offset = max(0.0, (seconds - model.clip_seconds) / 2)
            image = inference.load_image(model, path, offset)
        title = f"{model.clip_seconds:.0f} s of the track"
        return visualization.spectrogram(
            image, model.clip_seconds, model.band_frequencies, None, title, offset, model.image_range
        )


def _problem(path):
    """Return why a file cannot be processed, or `None` if it is audio and short enough."""
    try:
        minutes = audio.info(path).seconds / 60
    except audio.AudioError as error:
        return error.reason
    if minutes > MAX_MINUTES:
        return f"too long: {minutes:.0f} minutes, but the maximum is {MAX_MINUTES} minutes"
    return None
