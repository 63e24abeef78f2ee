"""Plan which genres are written into which files."""

from __future__ import annotations

import collections
import dataclasses
import numbers
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from genrekeras import tags
from genrekeras.genres import PROBABILITY_PREFIX
from genrekeras.inference import find_files, predict_each
from genrekeras.inference.labels import (
    MAX_GENRES,
    MIN_PROBABILITY,
    most_probable_genre,
    predicted_genres,
    ranked_genres,
)
from genrekeras.inference.predict import check_counts
from genrekeras.library.taxonomy import Taxonomy
from genrekeras.models.track_classifier import TrackClassifier
from genrekeras.utils.io import StrPath
from genrekeras.utils.progress import bar

COLUMNS = ("path", "old", "new", "probability", "reason", "error")
MODES = ("missing", "append", "overwrite")
HAS_GENRE, HAS_THESE_GENRES = "has a genre", "has these genres"  # reasons


@dataclasses.dataclass(frozen=True)
class TagOptions:
    """Which genres are written into which files.

    Attributes:
        mode: see `plan_tags`.
        max_genres: see `plan_tags`.
        min_probability: see `plan_tags`.
        precision: see `plan_tags`.
        by_album: see `plan_tags`.
        taxonomy: see `plan_tags`.

    Raises:
        ValueError: a value is out of range.
    """

    mode: Literal["missing", "append", "overwrite"] = "missing"
    max_genres: int | None = None
    min_probability: float | None = None
    precision: float | None = None
    by_album: bool = False
    taxonomy: Taxonomy | None = None

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f"`mode` must be one of {MODES}. Received: mode={self.mode!r}")
        if self.max_genres is not None:
            check_counts(max_genres=self.max_genres)
        for name in ("min_probability", "precision"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, numbers.Real) and 0 < value < 1):
                raise ValueError(f"`{name}` must lie in (0, 1). Received: {name}={value!r}")


def plan_tags(
    model: TrackClassifier,
    paths: StrPath | Iterable[StrPath],
    mode: Literal["missing", "append", "overwrite"] = "missing",
    max_genres: int | None = None,
    min_probability: float | None = None,
    precision: float | None = None,
    by_album: bool = False,
    taxonomy: Taxonomy | None = None,
) -> pd.DataFrame:
    """Plan which genres `apply_tags` writes into files. Nothing is written.

    A file is left as it is if its prediction has low confidence:

    - If the model is calibrated, low confidence is the column `low_confidence` of `predict_files`. A multi-label model
      also needs a genre above its threshold.
    - A multi-label model that is not calibrated, such as the preset musicnn_msd, needs a genre with a probability of at
      least 0.2. At most three genres are written.
    - A single-label model that is not calibrated has no limit, so all its predictions are written.

    Args:
        model: it predicts the genres.
        paths: audio files and folders. Folders are searched for audio files at any depth.
        mode: what happens to a file that has a genre. `"missing"` leaves it as it is. `"append"` keeps its genres and
            adds new ones. `"overwrite"` replaces them. "Other", "Unknown" and "None" are not genres, see
            `genrekeras.tags.split_genres`.
        max_genres: `> 0`, maximum number of predicted genres that are written into a file, the most probable ones
            first. Parents in the taxonomy count. `None` writes all predicted genres.
        min_probability: in (0, 1). Genres with a lower probability are not written. For a multi-label model that is not
            calibrated, it replaces the limit of 0.2.
        precision: in (0, 1), required share of correct genres among those that are written. A calibrated single-label
            model then needs this probability. A multi-label model must be calibrated for at least this precision.
        by_album: whether all tracks of an album get the same genres, predicted from the mean probabilities of its
            tracks in `paths`. Tracks with the same album and album artist are an album; without an album artist, they
            must be in the same folder. Tracks without an album are grouped by folder.
        taxonomy: it maps labels to genres. `None` writes the labels of the model.

    Returns:
        A row for each file, with these columns. You can change the rows before you apply them.

        - `path`: str.
        - `old`: tuple of str, the genres in the file.
        - `new`: tuple of str, the genres after `apply_tags`, or `None` if the file is left as it is.
        - `probability`: float, the probability of the most probable genre. Missing if the file was not predicted.
        - `reason`: str, why the file is left as it is, or `None`.
        - `error`: str, why the file cannot be read or written, or `None`.

    Raises:
        ValueError: an argument is out of range, `precision` does not fit the model, `paths` is empty, or a folder
            contains no audio files.
        OSError: no audio file was found because a folder cannot be opened.
    """
    options = TagOptions(mode, max_genres, min_probability, precision, by_album, taxonomy)
    # The dtype is object, because the string dtype of pandas cannot store file names that are not UTF-8.
    table = pd.DataFrame(plan_each(model, find_files(paths), options), columns=COLUMNS, dtype=object)
    return table.astype({"probability": "float64"})


def plan_each(model: TrackClassifier, paths: Sequence[str], options: TagOptions) -> Iterator[dict[str, Any]]:
    """Yield the rows of `plan_tags`, each as soon as the genres of its file or album are predicted.

    Args:
        model: see `plan_tags`.
        paths: audio files.
        options: which genres are written.

    Raises:
        ValueError: `options.precision` does not fit the model.
    """
    check_precision(model, options.precision)
    albums = _read(paths, options)
    # All tracks of an album are processed if genres may be written into at least one of them.
    to_predict = [row["path"] for album in albums if any(map(_is_open, album)) for row in album if row["error"] is None]
    predictions = predict_each(model, to_predict)
    with bar(len(to_predict), "Predicting", "file") as progress:
        for album in albums:
            tracks = []
            for row in album if any(map(_is_open, album)) else ():
                if row["error"] is None:
                    track = next(predictions)
                    progress.update()
                    row["error"] = track["error"]
                    tracks += [] if track["error"] else [track]
            if tracks:
                genres, probability, reason = choose_genres(model, tracks, options)
                for row in filter(_is_open, album):
                    row |= {"probability": probability, **_change(row["old"], genres, reason, options.mode)}
            yield from album


def choose_genres(
    model: TrackClassifier, tracks: Sequence[Mapping[str, Any]], options: TagOptions
) -> tuple[tuple[str, ...], float, str | None]:
    """Choose the genres that are written into a file, or into all files of an album.

    Args:
        model: model that predicted the tracks.
        tracks: rows of `predict_each` without errors, for the file or for each track of the album.
        options: which genres are written. `mode` and `by_album` have no effect.

    Returns:
        The genres, the probability of the most probable genre, and `None`. If no genres are written, the reason is in
        the place of `None`.
    """
    rows = [[track[PROBABILITY_PREFIX + genre] for genre in model.genres] for track in tracks]
    probabilities = np.mean(rows, axis=0)
    score = np.mean([track["ood_score"] or 0.0 for track in tracks])
    by_label = dict(zip(model.genres, probabilities.tolist(), strict=True))
    probability = by_label[most_probable_genre(model, probabilities)]
    is_low, reason = model.thresholds.low_confidence(probability, float(score))
    if is_low:
        return (), probability, f"low confidence: {reason}"
    uncalibrated = model.multi_label and model.thresholds.class_thresholds is None
    minimum = options.min_probability or (MIN_PROBABILITY if uncalibrated else 0.0)
    if not model.multi_label and options.precision is not None:
        minimum = max(minimum, options.precision)
    candidates = (ranked_genres if uncalibrated else predicted_genres)(model, probabilities)
    labels = [label for label in candidates if by_label[label] >= minimum]
    if uncalibrated and options.max_genres is None:
        labels = labels[:MAX_GENRES]
    if not labels:
        what = f"no probability of at least {minimum:g}" if minimum else "no genre above its threshold"
        return (), probability, f"low confidence: {what}"
    genres = options.taxonomy.genres(labels) if options.taxonomy else list(labels)
    if not genres:
        return (), probability, "no genre left by the taxonomy"
    return tuple(genres[: options.max_genres]), probability, None


def check_precision(model: TrackClassifier, precision: float | None) -> None:
    """Raise `ValueError` if a model has no thresholds for a precision.

    Args:
        model: the model.
        precision: see `plan_tags`.
    """
    if precision is None:
        return
    command = "genrekeras calibrate MUSIC --model MODEL --output NEW.keras"
    command += f" --precision {precision:g}" if model.multi_label else ""
    if model.thresholds.better_than_chance is None:
        raise ValueError(
            "`precision` needs a calibrated model, because the probabilities of this model may be too high or too low. "
            f"Calibrate it on music whose genres you know: {command}"
        )
    calibration = model.card.get("calibration")
    stated = calibration.get("precision") if isinstance(calibration, Mapping) else None
    if model.multi_label and (not isinstance(stated, (int, float)) or stated < precision):
        chosen = "the best F1 scores" if stated is None else f"a precision of {stated}"
        raise ValueError(
            f"`precision`={precision:g} needs thresholds that were chosen for it, but those of this model were chosen "
            f"for {chosen}. Calibrate it again: {command}"
        )


def confidence_rule(model: TrackClassifier, options: TagOptions) -> str:
    """Return a text that states which predictions of a model are written."""
    if model.multi_label and model.thresholds.class_thresholds is None:
        rule = f"genres with a probability of at least {options.min_probability or MIN_PROBABILITY:g}"
        return f"The model is not calibrated: {rule} are written, at most {options.max_genres or MAX_GENRES} per file."
    limit = max(filter(None, (options.min_probability, None if model.multi_label else options.precision)), default=None)
    limited = "" if limit is None else f", with a probability of at least {limit:g}"
    if model.multi_label:
        return f"Genres above their thresholds are written{limited}, except at low confidence."
    if model.thresholds.better_than_chance is None and model.thresholds.low_confidence(0, 0)[0] is None:
        return f"The model is not calibrated: all predictions are written{limited}."
    return f"The most probable genre is written{limited}, except at low confidence."


def _read(paths, options):
    """Return the rows of the files of each album, without predictions. Without `by_album`, each file is an album."""
    albums, first_paths = collections.defaultdict(list), {}
    for number, path in enumerate(bar(len(paths), "Reading tags", "file", iterable=paths)):
        row, album = dict.fromkeys(COLUMNS) | {"path": path, "old": ()}, number
        first_path = first_paths.setdefault(os.path.realpath(path), path)
        if first_path is not path:
            row["reason"] = "listed twice"
        else:
            try:
                row["old"] = tuple(tags.read_genres(path))
                if options.by_album:
                    album, artist = map(tags.spelling_key, tags.read_album(path))
                    album = album, artist if album and artist else os.path.dirname(os.path.abspath(path))
                if options.mode == "missing" and tags.split_genres(row["old"]):
                    row["reason"] = HAS_GENRE
                else:
                    tags.check_writable(path)
            except tags.TagError as error:
                row["error"] = error.reason
        albums[album].append(row)
    return list(albums.values())


def _is_open(row):
    """Return whether genres may be written into the file of a row."""
    return row["reason"] is None and row["error"] is None


def _change(old, genres, reason, mode):
    """Return the values of the columns `new` and `reason` for a file."""
    if reason is not None:
        return {"new": None, "reason": reason}
    if mode == "append":
        known = set(map(tags.spelling_key, tags.split_genres(old)))
        genres = (*old, *(genre for genre in genres if tags.spelling_key(genre) not in known))
    return {"new": None, "reason": HAS_THESE_GENRES} if genres == old else {"new": genres, "reason": None}
