"""Compute the features of audio files, and cache them for each file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from genrekeras.inference.predict import check_counts, decode_tracks, predict_tracks
from genrekeras.models.genre_classifier import GenreClassifier
from genrekeras.tags.fingerprint import fingerprint
from genrekeras.tags.reading import TagError, mutagen_errors, open_tags
from genrekeras.training.feature_cache import cache_key, layers_up_to_features
from genrekeras.utils import io
from genrekeras.utils.io import StrPath
from genrekeras.utils.progress import bar


class FileFeatures(NamedTuple):
    """Features of an audio file.

    Attributes:
        features: `(clips, feature_dim)` float32, the features of evenly spaced clips. Empty if there is an error.
        checksum: hash of the decoded clips.
        warning: problem of a damaged file that could still be processed, or `""`.
        error: reason why the file could not be read, or `""`.
    """

    features: np.ndarray
    checksum: str
    warning: str
    error: str


def file_features(
    model: GenreClassifier,
    paths: Sequence[str],
    max_clips: int = 30,
    batch_size: int = 16,
    workers: int = 2,
    cache_dir: StrPath | None = None,
) -> list[FileFeatures]:
    """Compute the features of the clips that `predict_files` processes, or read them from the cache.

    The cache has entries for each combination of

    - the file: one entry for its path without links, its size and its modification time, and one for the hashes of its
      encoded audio and of its metadata other than the genre, see `genrekeras.tags.fingerprint`,
    - the front end and the backbone of the model with their weights, the clip length, `max_clips`, the backend and the
      version of genrekeras.

    So features are kept when a genre is written into the tags of a file, and when a file is moved. To find that out,
    the file is read, but not decoded. Files whose tags cannot be read have no entry for the hashes.

    Entries are written as soon as their file is processed, so an interrupted call can be repeated. Damaged entries are
    computed again. Errors are not stored.

    Args:
        model: its front end and its backbone compute the features.
        paths: audio files.
        max_clips: see `predict_files`.
        batch_size: see `predict_files`.
        workers: see `predict_files`.
        cache_dir: folder of the cache. `None` is the folder `file_features` in `genrekeras.utils.io.cache_dir()`.

    Returns:
        An element for each path, in the same order.

    Raises:
        ValueError: an argument is out of range.
        OSError: the features cannot be written to `cache_dir`.
    """
    check_counts(max_clips=max_clips, batch_size=batch_size, workers=workers)
    cache_dir = os.path.join(io.cache_dir(), "file_features") if cache_dir is None else os.fspath(cache_dir)
    folder = os.path.join(cache_dir, cache_key(layers_up_to_features(model), (model.clip_seconds, max_clips)))
    size = model.feature_extractor.output_shape[-1]
    entries = {path: _entry(folder, path) for path in dict.fromkeys(paths)}
    results = {path: result for path, entry in entries.items() if (result := _read(entry, size)) is not None}
    remaining = [path for path in entries if path not in results]
    entries_by_content = {}
    with bar(len(entries), "Features", "file", initial=len(results)) as progress:
        for path in remaining:
            entries_by_content[path] = _entry_by_content(folder, path)
            if (result := _read(entries_by_content[path], size)) is not None:
                _write(entries[path], result, cache_dir)
                results[path] = result
                progress.update()
        remaining = [path for path in remaining if path not in results]
        decoded = decode_tracks(model, remaining, max_clips, workers)
        tracks = predict_tracks(model.inference_function("features"), decoded, batch_size) if remaining else ()
        for track in tracks:
            features = np.reshape([result for [result] in track.results], (-1, size)).astype("float32")
            digest = hashlib.blake2b(digest_size=8)
            for clip in track.clips:
                digest.update(np.rint(32767 * clip).astype("int32").tobytes())
            result = FileFeatures(features, digest.hexdigest(), track.warning or "", track.error or "")
            if not result.error:
                for entry in (entries[track.path], entries_by_content[track.path]):
                    _write(entry, result, cache_dir)
            results[track.path] = result
            progress.update()
    return [results[path] for path in paths]


def _entry(folder, path):
    """Return the path of the cache entry of a file, which depends on the file's size and modification time."""
    try:
        status = os.stat(path)
    except OSError:  # the file will not be read either
        return os.path.join(folder, "missing.npz")
    return _entry_of(folder, f"{status.st_size} {status.st_mtime_ns} {os.path.realpath(path)}")


def _entry_by_content(folder, path):
    """Return the path of the cache entry of the content of a file, or `None` if its tags cannot be read."""
    try:
        with mutagen_errors(path, "its audio cannot be found"):
            return _entry_of(folder, repr(fingerprint(open_tags(path))))
    except TagError:
        return None


def _entry_of(folder, identity):
    """Return the path of the cache entry with an identity, which is a text."""
    name = hashlib.blake2b(os.fsencode(identity), digest_size=16).hexdigest()
    return os.path.join(folder, name[:2], f"{name}.npz")


def _write(entry, result, cache_dir):
    """Write a cache entry. `None` writes nothing."""
    if entry is None:
        return
    try:
        with io.atomic_write(entry) as temporary:
            np.savez(temporary, **result._asdict())
    except OSError as error:
        reason = f"Features cannot be stored in {cache_dir}: {error}. Set GENREKERAS_CACHE to another folder."
        raise OSError(error.errno, reason) from error


def _read(entry, size):
    """Return the `FileFeatures` in a cache entry. Return `None` if it is missing or damaged, or `entry` is `None`."""
    if entry is None:
        return None
    try:
        arrays = io.read_arrays(entry)
        features = arrays["features"]
        texts = [str(arrays[name]) for name in ("checksum", "warning", "error")]
    except (FileNotFoundError, ValueError, KeyError):
        return None
    is_valid = features.dtype == np.float32 and features.ndim == 2 and features.shape[1] == size and len(features)
    return FileFeatures(features, *texts) if is_valid else None
