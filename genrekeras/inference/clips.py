"""Audio files below folders, and clips from audio files."""

import os
import warnings

import numpy as np
from genrekeras import audio
from genrekeras.utils.io import files_below

_BLOCK_SECONDS = 300.0  # longest part of a file that is decoded at once


def find_files(paths):
    """Find the audio files below folders, at any depth, sorted by folder and name.

    Folders and links that cannot be opened are skipped, with one warning for each folder of `paths`.

    Args:
        paths: str or path-like, or an iterable of them. A path that is not a folder is returned unchanged, even if it
            does not exist; reading it reports the error.

    Returns:
        list of str.

    Raises:
        ValueError: a folder contains no audio files, or `paths` is empty.
        OSError: there are no files, because folders cannot be opened.
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    files, skipped = [], []
    for path in map(os.fspath, paths):
        if not os.path.isdir(path):
            files.append(path)
            continue
        names, unreadable = files_below(path)
        audio_names = [name for name in names if os.path.splitext(name)[1].lower() in audio.EXTENSIONS]
        if unreadable:
            warnings.warn(
                f"{path}: {len(unreadable)} folders or links cannot be opened (the first: {unreadable[0]}). They are "
                "left out.",
                stacklevel=2,
            )
        elif not audio_names:
            raise ValueError(f"{path} contains no audio files ({len(names)} other files).")
        files += [os.path.join(path, *name.split("/")) for name in audio_names]
        skipped += unreadable
    if skipped and not files:
        raise OSError(f"There is no audio file, because a folder or link cannot be opened: {skipped[0]}")
    if not files:
        raise ValueError(f"`paths` must contain at least one file or folder. Received: paths={paths!r}")
    return files


def clip_starts(seconds, clip_seconds, max_clips):
    """Return evenly spaced start times of clips, from the start of a track to its end.

    There are as many clips as fit without overlap. A last clip also counts if at most a twentieth of it is missing,
    because 30 s clips of FMA have 29.98 s.

    Args:
        seconds: float > 0, length of the track.
        clip_seconds: float > 0, length of a clip.
        max_clips: int > 0, maximum number of clips.

    Returns:
        `(clips,)` array, in s.
    """
    count = int(np.clip(seconds / clip_seconds + 0.05, 1, max_clips))
    return np.linspace(0.0, max(0.0, seconds - clip_seconds), count)


def load_clips(file, clip_seconds, starts):
    """Decode clips of a file, with at most some minutes of it in memory.

    Args:
        file: `audio.AudioFile`.
        clip_seconds: float > 0, length of a clip.
        starts: sequence of float, start times of the clips in s, ascending.

    Yields:
        `(round(clip_seconds * file.sample_rate),)` float32, one clip. If the file is shorter than its header states,
        clips that begin after its end are omitted.

    Raises:
        audio.AudioError: samples are not finite or exceed 1e9 in magnitude.
    """
    blocks = []
    for start in starts:
        is_near = blocks and start - blocks[-1][-1] <= 2 * clip_seconds and start - blocks[-1][0] <= _BLOCK_SECONDS
        blocks[-1].append(start) if is_near else blocks.append([start])
    for block in blocks:
        waveform = file.read(block[0], block[-1] - block[0] + clip_seconds)
        starts_in_block = np.subtract(block, block[0])
        exists = starts_in_block * file.sample_rate < len(waveform)
        yield from cut(waveform, file.sample_rate, clip_seconds, starts_in_block[exists])


def cut(waveform, sample_rate, clip_seconds, starts):
    """Yield clips of a waveform, each of `clip_seconds`.

    A clip that would end behind the waveform begins earlier; a waveform shorter than a clip is padded with zeros.
    """
    samples = round(clip_seconds * sample_rate)
    for start in starts:
        first = min(round(start * sample_rate), max(0, len(waveform) - samples))
        yield audio.to_length(waveform[first : first + samples], samples)
