"""Whole files and folders: clips over a track, batches across files, what a model makes of each.

The probabilities of a track are the mean of those of its clips. The mean of their logarithms (a product) would let one
clip that is sure of itself overrule all others, and be the surer the longer the track is, clips of one track being
anything but independent.
"""

import collections
import concurrent.futures
import dataclasses
import hashlib
import itertools
import json
import math
import numbers
import warnings

import keras
import numpy as np
import pandas as pd
import soxr
from genrekeras import audio
from genrekeras.genres import PROBABILITY_PREFIX
from genrekeras.inference.clips import clip_starts, cut, find_files, load_clips
from genrekeras.inference.journal import Journal
from genrekeras.utils.progress import bar

_LEAST_SECONDS, _LEAST_HOP_SECONDS = 1.0, 0.01


def predict_each(model, paths, max_clips=30, batch_size=16, workers=2):
    """Yield the rows of `predict_files` one by one, each as soon as its file is processed.

    Args:
        paths: iterable of str, files.

    Yields:
        dict, column -> value.
    """
    check_counts(max_clips=max_clips, batch_size=batch_size, workers=workers)
    network = model.for_inference("probabilities", "ood_score")
    for track in run_through(network, tracks_of(model, paths, max_clips, workers), batch_size):
        yield row_of(model, track.path, track.means(), track.seconds, track.error, track.warning)


def predict_files(model, paths, max_clips=30, batch_size=16, workers=2, journal=None):
    """Predict the genre of whole files.

    Args:
        model: `GenreClassifier`; sample rate, clip length and genres are its own.
        paths: files and folders, as in `find_files`.
        max_clips: int > 0, maximum clips of a track. As many clips of `model.clip_seconds` are taken as fit side by
            side, at even distances. The probabilities of a track are the mean of those of its clips.
        batch_size: int > 0, clips at once, of several files.
        workers: int > 0, threads that decode.
        journal: str or path-like, a file in which each finished row is stored. A later call with the same journal
            processes only files that are new, that have changed, or that could not be read. Rows of another model, of
            other limits or of another `max_clips`, and damaged rows, are removed from it, with a warning. `None` keeps
            nothing.

    Returns:
        `pandas.DataFrame`, a row a file:

        - `path`: str.
        - `genre`: str, the most probable genre, and `probability`: float, its probability.
        - `low_confidence`: bool, whether the track is beyond one of the limits in the model's card; missing where the
          card has none.
        - `reason`: str, why the confidence is low, or `None`: "between genres", "unlike the training data", or both,
          joined by "; "; or "model not better than chance".
        - `ood_score`: float, the out-of-distribution score, 1 on average; missing where the card has no limit for it.
        - `seconds`: float, the length that was processed.
        - `warning`: str, what is wrong with a file that could still be processed, or `None`.
        - `error`: str, why the file could not be read, or `None`. All columns but `path` and `error` are
          missing then.
        - `probability_GENRE`: float, for each genre, in the order of `model.genres`; see `genres_of`.

    Raises:
        ValueError: an argument is out of range, the file `journal` is not a journal, or as in `find_files`.
        OSError: the journal cannot be written, another process is using it, or as in `find_files`.
    """
    check_counts(max_clips=max_clips, batch_size=batch_size, workers=workers)
    paths = find_files(paths)
    with _journal(journal, model, max_clips) as known:
        missing = [path for path in paths if path not in known.rows]
        with bar(len(paths), "Predicting", "file", initial=len(paths) - len(missing)) as progress:
            for row in predict_each(model, missing, max_clips, batch_size, workers):
                known.add(row)
                progress.update()
        return as_table(model, [known.rows[path] for path in paths])


def predict_waveform(model, y, sample_rate, max_clips=30):
    """Predict the genre of a waveform in memory.

    Args:
        model: `GenreClassifier`.
        y: `(samples,)` array, mono, in [-1, 1].
        sample_rate: int > 0, in Hz, of `y`.
        max_clips: int > 0, as in `predict_files`.

    Returns:
        `pandas.Series`, as a row of `predict_files`.

    Raises:
        ValueError: an argument is out of range; `y` has another shape, is too short or contains numbers that are not
            finite or exceed 1e9 in magnitude.
    """
    check_counts(sample_rate=sample_rate, max_clips=max_clips)
    y = np.asarray(y)
    if y.ndim != 1 or y.dtype.kind not in "fiub" or not audio.is_sane(y := y.astype("float32")):
        raise ValueError(
            f"`y` must be a vector of finite numbers, at most 1e9. Received: shape={y.shape}, dtype={y.dtype}"
        )
    seconds = len(y) / sample_rate
    if too_short := _too_short(seconds, model):
        raise ValueError(f"`y` is {too_short}")
    y = soxr.resample(y, sample_rate, model.sample_rate)
    starts = clip_starts(seconds, model.clip_seconds, max_clips)
    clips = list(cut(y, model.sample_rate, model.clip_seconds, starts))
    # Part by part: these are compiled once, a model for inference would be made and compiled at each call.
    features = model.feature_extractor.predict(model.front_end.predict(np.stack(clips), verbose=0), verbose=0)
    outputs = model.head.predict(features, verbose=0), keras.ops.convert_to_numpy(model.ood_score(features))
    row = row_of(model, None, [output.mean(axis=0) for output in outputs], _processed_seconds(seconds, clips, model))
    return pd.Series(row, columns(model))


def predict_timeline(model, path, hop_seconds=None, batch_size=16):
    """Predict the genres along a track.

    Args:
        model: `GenreClassifier`.
        path: str or path-like, of any length: some minutes of it are in memory at a time.
        hop_seconds: float >= 0.01, largest distance between the starts of two clips; `None` is half of
            `model.clip_seconds`.
        batch_size: int > 0.

    Returns:
        `pandas.DataFrame`, a row a clip: `start`, `end` (in s), and `probability_GENRE` for each genre.

    Raises:
        audio.AudioError: the file cannot be read or is too short.
        ValueError: an argument is out of range.
    """
    check_counts(batch_size=batch_size)
    hop_seconds = model.clip_seconds / 2 if hop_seconds is None else hop_seconds
    if not (isinstance(hop_seconds, numbers.Real) and _LEAST_HOP_SECONDS <= hop_seconds < math.inf):
        raise ValueError(
            f"`hop_seconds` must be at least {_LEAST_HOP_SECONDS}, and finite. Received: hop_seconds={hop_seconds!r}"
        )
    network, probabilities = model.for_inference(), []
    with audio.AudioFile(path, model.sample_rate) as file:
        _check_long_enough(file, model)
        last = max(0.0, file.seconds - model.clip_seconds)
        starts = np.linspace(0.0, last, math.ceil(last / hop_seconds - 1e-9) + 1)
        clips = load_clips(file, model.clip_seconds, starts)
        with bar(len(starts), "Predicting", "clip") as progress:
            while batch := list(itertools.islice(clips, batch_size)):
                probabilities.append(network.predict_on_batch(np.stack(batch)))
                progress.update(len(batch))
        _check_long_enough(file, model)
    if file.warning:
        warnings.warn(audio.AudioWarning(path, file.warning), stacklevel=2)
    starts, seconds = starts[: sum(map(len, probabilities))], file.seconds
    table = pd.DataFrame(np.concatenate(probabilities), columns=_probability_columns(model))
    table.insert(0, "start", starts)
    table.insert(1, "end", np.minimum(starts + model.clip_seconds, seconds))
    return table


def check_counts(**arguments):
    """Raise `ValueError` if an argument is not an integer > 0."""
    for name, value in arguments.items():
        if not isinstance(value, numbers.Integral) or value < 1:
            raise ValueError(f"`{name}` must be an integer > 0. Received: {name}={value!r}")


def columns(model):
    """Return the columns of `predict_files`."""
    about = ["genre", "probability", "low_confidence", "reason", "ood_score", "seconds", "warning", "error"]
    return ["path", *about, *_probability_columns(model)]


def as_table(model, rows):
    """Rows of `row_of` as a `pandas.DataFrame`."""
    # Of type object: pandas' strings cannot hold a name that is not UTF-8.
    table = pd.DataFrame(rows, columns=columns(model), dtype=object)
    return table.astype(dict.fromkeys(["probability", "ood_score", "seconds", *_probability_columns(model)], "float64"))


def row_of(model, path, means, seconds, error=None, warning=None):
    """Return the row of a file: dict, column -> value.

    Args:
        means: the mean probabilities and OOD score of its clips; `[]` where the file could not be read.
    """
    row = dict.fromkeys(columns(model)) | {"path": path, "warning": warning, "error": error}
    if means:
        probabilities, score = means[0], float(means[1])
        best = int(probabilities.argmax())
        probability = float(probabilities[best])
        row |= {"genre": model.genres[best], "probability": probability, "seconds": round(seconds, 2)}
        row["ood_score"] = None if model.thresholds.max_ood_score is None else score
        row["low_confidence"], row["reason"] = model.thresholds.low_confidence(probability, score)
        row |= dict(zip(_probability_columns(model), probabilities.tolist(), strict=True))
    return row


def _probability_columns(model):
    return [PROBABILITY_PREFIX + genre for genre in model.genres]


def _journal(path, model, max_clips):
    """Return a `Journal` of rows that depend on the model, its limits and `max_clips`."""
    content = hashlib.sha256()
    if path is not None:
        for layer in model.front_end.layers:
            config = {key: value for key, value in layer.get_config().items() if key != "name"}
            content.update(json.dumps(config, default=str).encode())
        for variable in model.weights:
            content.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).tobytes())
    about = {"max_clips": max_clips, "columns": columns(model), "thresholds": dataclasses.asdict(model.thresholds)}
    return Journal(path, {**about, "model": content.hexdigest()})


@dataclasses.dataclass
class _Track:
    """A file that is being worked on: its clips, and for each of them what each output of a network gave."""

    path: str
    clips: list
    seconds: float = 0.0
    error: str | None = None
    warning: str | None = None
    results: list = dataclasses.field(default_factory=list)

    @property
    def done(self):
        return len(self.results) == len(self.clips)

    def means(self):
        """The mean over the clips, of each output."""
        return [np.mean(values, axis=0) for values in zip(*self.results, strict=True)]


def tracks_of(model, paths, max_clips, workers):
    """Decode files in threads, some files ahead; a `_Track` for each, in order."""

    def decoded(path):
        try:
            with audio.AudioFile(path, model.sample_rate) as file:
                _check_long_enough(file, model)
                starts = clip_starts(file.seconds, model.clip_seconds, max_clips)
                clips = list(load_clips(file, model.clip_seconds, starts))
                _check_long_enough(file, model)  # the length by the header may have been too large
        except (audio.AudioError, OSError) as error:
            return _Track(path, [], error=getattr(error, "reason", str(error)))
        return _Track(path, clips, _processed_seconds(file.seconds, clips, model), warning=file.warning)

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        ahead = collections.deque()
        for path in paths:
            ahead.append(pool.submit(decoded, path))
            if len(ahead) > workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def run_through(network, tracks, batch_size):
    """Give each track its results, in batches that go across tracks; yields the tracks in order, when they are done."""
    begun, waiting = collections.deque(), []  # tracks; (track, clip)
    whole_batches = False
    for track in itertools.chain(tracks, [None]):
        if track is not None:
            begun.append(track)
            waiting += [(track, clip) for clip in track.clips]
        while len(waiting) >= batch_size or (waiting and track is None):
            batch, waiting = waiting[:batch_size], waiting[batch_size:]
            clips = np.stack([clip for _, clip in batch])
            if whole_batches:  # the network may be compiled for these
                clips = np.pad(clips, ((0, batch_size - len(clips)), (0, 0)))
            whole_batches |= len(clips) == batch_size
            outputs = keras.tree.flatten(network.predict_on_batch(clips))
            for (owner, _), *results in zip(batch, *outputs, strict=False):
                owner.results.append(results)
        while begun and begun[0].done:
            yield begun.popleft()


def _check_long_enough(file, model):
    if too_short := _too_short(file.seconds, model):
        raise audio.AudioError(file.path, too_short)


def _too_short(seconds, model):
    least = min(_LEAST_SECONDS, model.clip_seconds)
    return f"too short: {seconds:.3g} s, and {least:g} s are needed" if seconds < least else None


def _processed_seconds(seconds, clips, model):
    return min(seconds, len(clips) * model.clip_seconds)
