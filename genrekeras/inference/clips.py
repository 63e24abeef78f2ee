"""Audio files in folders, and clips of them."""

import os
import warnings

import numpy as np
from genrekeras import audio
from genrekeras.utils.io import files_below

_BLOCK_SECONDS = 300.0  # that are decoded at once


def find_files(paths):
    """Replace folders by the audio files below them, in the order of their names.

    Folders and links that cannot be opened are skipped, with one warning for each folder of `paths`.

    Args:
        paths: str or path-like, or an iterable of them. A path that is not a folder is kept as it is, even if it does
            not exist: the error is raised or returned when it is read.

    Returns:
        list of str.

    Raises:
        ValueError: a folder holds no audio files, or `paths` is empty.
        OSError: no file was found, since folders cannot be opened.
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    found, skipped = [], []
    for path in map(os.fspath, paths):
        if not os.path.isdir(path):
            found.append(path)
            continue
        names, closed = files_below(path)
        music = [name for name in names if os.path.splitext(name)[1].lower() in audio.EXTENSIONS]
        if closed:
            warnings.warn(
                f"{path}: {len(closed)} folders or links cannot be opened (the first: {closed[0]}). They are left out.",
                stacklevel=2,
            )
        elif not music:
            raise ValueError(f"{path} holds no audio files ({len(names)} others).")
        found += [os.path.join(path, *name.split("/")) for name in music]
        skipped += closed
    if skipped and not found:
        raise OSError(f"No audio file is left: {skipped[0]}")
    if not found:
        raise ValueError(f"`paths` must name a file at least. Received: paths={paths!r}")
    return found


def clip_starts(seconds, clip_seconds, max_clips):
    """Where the clips of a track begin, in s: as many as fit side by side, at even distances from its start to its end.

    The last one fits if no more than a twentieth of it is missing: a clip of FMA of 30 s has 29.98.

    Args:
        seconds: float > 0, length of the track.
        clip_seconds: float > 0.
        max_clips: int > 0, the most.

    Returns:
        `(clips,)` array.
    """
    count = int(np.clip(seconds / clip_seconds + 0.05, 1, max_clips))
    return np.linspace(0.0, max(0.0, seconds - clip_seconds), count)


def load_clips(file, clip_seconds, starts):
    """Decode clips of a file, some minutes at a time.

    Args:
        file: `audio.AudioFile`.
        clip_seconds: float > 0.
        starts: sequence of float, ascending, in s.

    Yields:
        `(round(clip_seconds * file.sample_rate),)` float32. If the file turns out to be shorter than its header
        states, clips that begin after its end are omitted.

    Raises:
        audio.AudioError: samples are not finite or exceed 1e9 in magnitude.
    """
    blocks = []
    for start in starts:
        near = blocks and start - blocks[-1][-1] <= 2 * clip_seconds and start - blocks[-1][0] <= _BLOCK_SECONDS
        blocks[-1].append(start) if near else blocks.append([start])
    for block in blocks:
        waveform = file.read(block[0], block[-1] - block[0] + clip_seconds)
        starts_in_block = np.subtract(block, block[0])
        there = starts_in_block * file.sample_rate < len(waveform)
        yield from cut(waveform, file.sample_rate, clip_seconds, starts_in_block[there])


def cut(waveform, sample_rate, clip_seconds, starts):
    """Clips of a waveform, each as long as it must be, also where the last one begins some samples too late."""
    samples = round(clip_seconds * sample_rate)
    for start in starts:
        first = min(round(start * sample_rate), max(0, len(waveform) - samples))
        yield audio.to_length(waveform[first : first + samples], samples)
