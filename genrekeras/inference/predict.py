"""Predict the genres of audio files, of waveforms, and of positions along a track.

The probabilities of a track are the arithmetic mean over the clips of the track. With the mean of the logarithms, a
single confident clip would outweigh all others. With the product, the confidence would also grow with the length of the
track, although the clips of a track are not independent.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import math
import numbers
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import soxr
from genrekeras import audio
from genrekeras.genres import PROBABILITY_PREFIX
from genrekeras.inference.clips import clip_starts, cut, load_clips
from genrekeras.inference.journal import Journal
from genrekeras.inference.labels import most_probable_genre, predicted_genres
from genrekeras.models.track_classifier import TrackClassifier
from genrekeras.utils.audio_files import find_files
from genrekeras.utils.io import StrPath
from genrekeras.utils.progress import bar

if TYPE_CHECKING:  # pandas is imported when a table is made, because the import takes a quarter of a second.
    import pandas as pd

_MIN_SECONDS, _MIN_HOP_SECONDS = 1.0, 0.01  # shortest accepted track and hop


def predict_each(
    model: TrackClassifier,
    paths: Iterable[str],
    max_clips: int = 30,
    batch_size: int = 16,
    workers: int = 2,
    local_file: Callable[[str], AbstractContextManager[str]] = contextlib.nullcontext,
) -> Iterator[dict[str, Any]]:
    """Predict the genre of audio files, and yield the result of each file as soon as the file is processed.

    Args:
        model: see `predict_files`.
        paths: audio files. Folders are not searched.
        max_clips: see `predict_files`.
        batch_size: see `predict_files`.
        workers: see `predict_files`.
        local_file: function that returns a context manager for a path. The context manager yields the path of the file
            on this machine, or raises `OSError` or `audio.AudioError`. A file that is stored elsewhere can thus be
            downloaded, and deleted after decoding. By default, all files are on this machine.

    Yields:
        Column -> value: one row of the table that `predict_files` returns.

    Raises:
        ValueError: an argument is out of range.
    """
    check_counts(max_clips=max_clips, batch_size=batch_size, workers=workers)
    compute = model.inference_function("probabilities", "ood_score")
    for track in predict_tracks(compute, decode_tracks(model, paths, max_clips, workers, local_file), batch_size):
        yield to_row(model, track.path, track.means(), track.seconds, track.error, track.warning)


def predict_files(
    model: TrackClassifier,
    paths: StrPath | Iterable[StrPath],
    max_clips: int = 30,
    batch_size: int = 16,
    workers: int = 2,
    journal: StrPath | None = None,
) -> pd.DataFrame:
    """Predict the genre of audio files.

    Args:
        model: it defines the sample rate, the clip length and the genres.
        paths: audio files and folders. Folders are searched for audio files at any depth.
        max_clips: `> 0`, maximum number of clips of a track. The clips have `model.clip_seconds` and are evenly
            spaced. As many clips as fit without overlap are used. The probabilities of the track are the mean over the
            clips.
        batch_size: `> 0`, number of clips in a batch. A batch may contain clips of several files.
        workers: `> 0`, number of threads that decode files.
        journal: path of a file in which each finished row is stored. A later call with the same journal processes only
            files that are new, have changed, or could not be read. Rows of another model, other thresholds or another
            `max_clips` are removed, with a warning. Damaged rows are also removed.

    Returns:
        A row for each file, with these columns:

        - `path`: str.
        - `genre`: str, the most probable genre. Labels of other kinds, such as moods, are left out, see
          `genrekeras.inference.label_kinds`.
        - `genres`: tuple of str, all genres that are predicted, see `genrekeras.inference.predicted_genres`. A
          single-label model predicts one genre.
        - `probability`: float, the probability of `genre`.
        - `low_confidence`: bool, whether the probability is below `model.thresholds.min_confidence` or the OOD score is
          above `model.thresholds.max_ood_score`. Missing if the model has no thresholds.
        - `reason`: str, the reason of a low confidence, or `None`. A probability below its limit is "low probability".
          An OOD score above its limit is "unlike the training data". Two reasons are joined by "; ". If the model was
          not better than chance in its calibration, all tracks have the reason "model not better than chance".
        - `ood_score`: float, the out-of-distribution score, which is 1 on average for the calibration clips. Missing if
          the model has no limit for the score.
        - `seconds`: float, the length of the processed audio in s.
        - `warning`: str, the problem of a damaged file that could still be processed, or `None`.
        - `error`: str, the reason why the file could not be read, or `None`. If there is an error, all columns except
          `path` and `error` are missing.
        - `probability_GENRE`: float, one column for each genre, in the order of `model.genres`; see `genres_of`.

    Raises:
        ValueError: an argument is out of range, `paths` is empty, a folder contains no audio files, or the file
            `journal` is not a journal.
        OSError: no audio file was found because a folder cannot be opened, the journal cannot be written, or another
            process is using the journal.
    """
    return to_table(model, predict_rows(model, paths, max_clips, batch_size, workers, journal))


def predict_rows(
    model: TrackClassifier,
    paths: StrPath | Iterable[StrPath],
    max_clips: int = 30,
    batch_size: int = 16,
    workers: int = 2,
    journal: StrPath | None = None,
) -> list[dict[str, Any]]:
    """Return the rows of the table of `predict_files`, without importing pandas. The arguments are the same.

    Returns:
        A dict for each file, column -> value.
    """
    check_counts(max_clips=max_clips, batch_size=batch_size, workers=workers)
    paths = find_files(paths)
    with Journal(journal, {} if journal is None else row_settings(model, max_clips)) as opened_journal:
        remaining = [path for path in paths if path not in opened_journal.rows]
        with bar(len(paths), "Predicting", "file", initial=len(paths) - len(remaining)) as progress:
            for row in predict_each(model, remaining, max_clips, batch_size, workers):
                opened_journal.add(row)
                progress.update()
        return [opened_journal.rows[path] for path in paths]


def predict_waveform(model: TrackClassifier, y: npt.ArrayLike, sample_rate: int, max_clips: int = 30) -> pd.Series:
    """Predict the genre of a waveform in memory.

    Args:
        model: it defines the clip length and the genres. `y` is resampled to the sample rate of the model.
        y: `(samples,)`, mono, in [-1, 1].
        sample_rate: `> 0`, in Hz, sample rate of `y`.
        max_clips: `> 0`, maximum number of clips; see `predict_files`.

    Returns:
        A value for each column of the table that `predict_files` returns. The value of `path` is `None`.

    Raises:
        ValueError: an argument is out of range, `y` is not one-dimensional, `y` is too short, or `y` contains values
            that are not finite or exceed 1e9 in magnitude.
    """
    import pandas as pd

    check_counts(sample_rate=sample_rate, max_clips=max_clips)
    y = np.asarray(y)
    if y.ndim != 1 or y.dtype.kind not in "fiub" or not audio.is_sane(y := y.astype("float32")):
        raise ValueError(
            f"`y` must be a vector of finite numbers of at most 1e9 in magnitude. Received: shape={y.shape}, "
            f"dtype={y.dtype}"
        )
    seconds = len(y) / sample_rate
    if too_short := _too_short(seconds, model):
        raise ValueError(f"`y` is {too_short}.")
    resampled = soxr.resample(y, sample_rate, model.sample_rate)
    starts = clip_starts(seconds, model.clip_seconds, max_clips)
    clips = list(cut(resampled, model.sample_rate, model.clip_seconds, starts))
    outputs = model.inference_function("probabilities", "ood_score", many=False)(np.stack(clips))
    means = [output.mean(axis=0) for output in outputs]
    return pd.Series(to_row(model, None, means, _processed_seconds(seconds, clips, model)), columns(model))


def predict_timeline(
    model: TrackClassifier, path: StrPath, hop_seconds: float | None = None, batch_size: int = 16
) -> pd.DataFrame:
    """Predict the genres along a track.

    Args:
        model: it defines the sample rate, the clip length and the genres.
        path: audio file of any length. About five minutes of the file are in memory at most.
        hop_seconds: `>= 0.01`, in s, maximum distance between the starts of two consecutive clips. `None` uses half of
            `model.clip_seconds`.
        batch_size: `> 0`, number of clips in a batch.

    Returns:
        A row for each clip. The columns are `start` and `end` (in s), and one column
        `probability_GENRE` for each genre.

    Raises:
        audio.AudioError: the file cannot be read or is too short.
        ValueError: an argument is out of range.
    """
    import pandas as pd

    check_counts(batch_size=batch_size)
    hop_seconds = model.clip_seconds / 2 if hop_seconds is None else hop_seconds
    if not (isinstance(hop_seconds, numbers.Real) and _MIN_HOP_SECONDS <= hop_seconds < math.inf):
        raise ValueError(
            f"`hop_seconds` must be at least {_MIN_HOP_SECONDS}, and finite. Received: hop_seconds={hop_seconds!r}"
        )
    compute, probabilities = model.inference_function("probabilities"), []
    with audio.AudioFile(path, model.sample_rate) as file:
        _check_long_enough(file, model)
        last_start = max(0.0, file.seconds - model.clip_seconds)
        starts = np.linspace(0.0, last_start, math.ceil(last_start / hop_seconds - 1e-9) + 1)
        clips = load_clips(file, model.clip_seconds, starts)
        with bar(len(starts), "Predicting", "clip") as progress:
            while batch := list(itertools.islice(clips, batch_size)):
                probabilities += compute(np.stack(batch))
                progress.update(len(batch))
        _check_long_enough(file, model)  # After reading, the true length is known.
    if file.warning:
        warnings.warn(audio.AudioWarning(path, file.warning), stacklevel=2)
    starts, seconds = starts[: sum(map(len, probabilities))], file.seconds
    table = pd.DataFrame(np.concatenate(probabilities), columns=_probability_columns(model))
    table.insert(0, "start", starts)
    table.insert(1, "end", np.minimum(starts + model.clip_seconds, seconds))
    return table


def check_counts(**arguments: int) -> None:
    """Raise `ValueError` if an argument is not an integer > 0."""
    for name, value in arguments.items():
        if not isinstance(value, numbers.Integral) or value < 1:
            raise ValueError(f"`{name}` must be an integer > 0. Received: {name}={value!r}")


def columns(model: TrackClassifier) -> list[str]:
    """Return the names of the columns of the table that `predict_files` returns."""
    names = [
        "path",
        "genre",
        "genres",
        "probability",
        "low_confidence",
        "reason",
        "ood_score",
        "seconds",
        "warning",
        "error",
    ]
    return [*names, *_probability_columns(model)]


def to_table(model: TrackClassifier, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the table of `predict_files` from rows that `to_row` returned."""
    import pandas as pd

    # The dtype is object, because the string dtype of pandas cannot store file names that are not UTF-8.
    table = pd.DataFrame(rows, columns=columns(model), dtype=object)
    table["genres"] = [None if genres is None else tuple(genres) for genres in table["genres"]]  # JSON has lists
    return table.astype(dict.fromkeys(["probability", "ood_score", "seconds", *_probability_columns(model)], "float64"))


def to_row(
    model: TrackClassifier,
    path: str | None,
    means: Sequence[np.ndarray],
    seconds: float,
    error: str | None = None,
    warning: str | None = None,
) -> dict[str, Any]:
    """Return the row of a file in the table of `predict_files`.

    Args:
        model: model that computed the values.
        path: path of the file, or `None` for a waveform.
        means: the mean probabilities, `(genres,)`, and the mean OOD score over the clips. Empty if the file could not
            be read.
        seconds: in s, length of the processed audio.
        error: value of this column.
        warning: value of this column.

    Returns:
        Column -> value.
    """
    row = dict.fromkeys(columns(model)) | {"path": path, "warning": warning, "error": error}
    if means:
        probabilities, score = means[0], float(means[1])
        genre = most_probable_genre(model, probabilities)
        probability = float(probabilities[model.genres.index(genre)])
        row |= {"genre": genre, "genres": predicted_genres(model, probabilities)}
        row |= {"probability": probability, "seconds": round(seconds, 2)}
        row["ood_score"] = None if model.thresholds.max_ood_score is None else score
        row["low_confidence"], row["reason"] = model.thresholds.low_confidence(probability, score)
        row |= dict(zip(_probability_columns(model), probabilities.tolist(), strict=True))
    return row


def _probability_columns(model):
    return [PROBABILITY_PREFIX + genre for genre in model.genres]


def row_settings(model: TrackClassifier, max_clips: int) -> dict[str, Any]:
    """Return what the rows of audio files depend on: the model, its thresholds and `max_clips`."""
    settings = {"max_clips": max_clips, "columns": columns(model), "thresholds": dataclasses.asdict(model.thresholds)}
    return {**settings, "model": model.digest()}


@dataclasses.dataclass
class _Track:
    """A decoded file.

    Attributes:
        path: path of the file.
        clips: each `(samples,)` float32.
        seconds: in s, length of the audio in the clips.
        error: reason why the file could not be read.
        warning: problem of a damaged file that could still be read.
        results: one entry per processed clip: an array for each output of the model.
    """

    path: str
    clips: list[np.ndarray]
    seconds: float = 0.0
    error: str | None = None
    warning: str | None = None
    results: list[list[np.ndarray]] = dataclasses.field(default_factory=list)

    @property
    def is_done(self) -> bool:
        return len(self.results) == len(self.clips)

    def means(self) -> list[np.ndarray]:
        """Return the mean of each output over the clips."""
        return [np.mean(values, axis=0) for values in zip(*self.results, strict=True)]


def decode_tracks(
    model: TrackClassifier,
    paths: Iterable[str],
    max_clips: int,
    workers: int,
    local_file: Callable[[str], AbstractContextManager[str]] = contextlib.nullcontext,
) -> Iterator[_Track]:
    """Yield a `_Track` for each file, in order. Threads decode at most `workers` files ahead."""

    def decode(path):
        try:
            with local_file(path) as local_path, audio.AudioFile(local_path, model.sample_rate) as file:
                _check_long_enough(file, model)
                starts = clip_starts(file.seconds, model.clip_seconds, max_clips)
                clips = list(load_clips(file, model.clip_seconds, starts))
                _check_long_enough(file, model)  # The file may contain less than its header states.
        except (audio.AudioError, OSError) as error:
            return _Track(path, [], error=getattr(error, "reason", str(error)))
        return _Track(path, clips, _processed_seconds(file.seconds, clips, model), warning=file.warning)

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        ahead: collections.deque[concurrent.futures.Future[_Track]] = collections.deque()
        for path in paths:
            ahead.append(pool.submit(decode, path))
            if len(ahead) > workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def predict_tracks(
    compute: Callable[[np.ndarray], list[np.ndarray]], tracks: Iterable[_Track], batch_size: int
) -> Iterator[_Track]:
    """Apply a function to the clips of tracks, and yield each track when all of its clips are processed.

    A batch may contain clips of several tracks.

    Args:
        compute: function from clips to one or several outputs, see `TrackClassifier.inference_function`.
        tracks: tracks without results.
        batch_size: `> 0`, number of clips in a batch.

    Yields:
        Tracks with results, in the order of `tracks`.
    """
    unfinished: collections.deque[_Track] = collections.deque()  # tracks with clips that have no results yet
    waiting = []  # pairs (track, clip) without results
    has_full_batch = False
    for track in itertools.chain(tracks, [None]):  # `None` marks the end.
        if track is not None:
            unfinished.append(track)
            waiting += [(track, clip) for clip in track.clips]
        while len(waiting) >= batch_size or (waiting and track is None):
            batch, waiting = waiting[:batch_size], waiting[batch_size:]
            clips = np.stack([clip for _, clip in batch])
            if has_full_batch:  # The function may be compiled for the full batch size.
                clips = np.pad(clips, ((0, batch_size - len(clips)), (0, 0)))
            has_full_batch |= len(clips) == batch_size
            outputs = compute(clips)
            for (clip_track, _), *results in zip(batch, *outputs, strict=False):  # `zip` drops the results of padding.
                clip_track.results.append(results)
        while unfinished and unfinished[0].is_done:
            yield unfinished.popleft()


def _check_long_enough(file, model):
    """Raise `AudioError` if a file is too short for a model."""
    if too_short := _too_short(file.seconds, model):
        raise audio.AudioError(file.path, too_short)


def _too_short(seconds, model):
    """Return a message if a track is too short for a model, or `None` if it is long enough."""
    minimum = min(_MIN_SECONDS, model.clip_seconds)
    return f"too short: {seconds:.3g} s, but the minimum is {minimum:g} s" if seconds < minimum else None


def _processed_seconds(seconds, clips, model):
    """Return the length of the audio in the clips, in s. It is at most the length of the track."""
    return min(seconds, len(clips) * model.clip_seconds)
