"""Read clips of audio files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from genrekeras import audio
from genrekeras.utils.io import StrPath

if TYPE_CHECKING:  # Keras is not needed to read clips, and its import takes seconds.
    from genrekeras.models.genre_classifier import GenreClassifier

_BLOCK_SECONDS = 300.0  # maximum time between the first and the last clip that are decoded together


def clip_starts(seconds: float, clip_seconds: float, max_clips: int) -> np.ndarray:
    """Return evenly spaced start times of clips.

    The first clip starts at the start of the track, and the last clip ends at the end of the track.

    The number of clips is the largest number that fits into the track without overlap. One more clip is added if at
    most 5 % of this clip is missing. For example, three clips of 10 s are taken from a file of FMA, which has
    29.98 s.

    Args:
        seconds: `> 0`, in s, length of the track.
        clip_seconds: `> 0`, in s, length of a clip.
        max_clips: `> 0`, maximum number of clips.

    Returns:
        `(clips,)`, start times in s.
    """
    count = int(np.clip(seconds / clip_seconds + 0.05, 1, max_clips))
    return np.linspace(0.0, max(0.0, seconds - clip_seconds), count)


def load_clips(file: audio.AudioFile, clip_seconds: float, starts: Iterable[float]) -> Iterator[np.ndarray]:
    """Decode clips of a file one by one. About five minutes of the file are in memory at most.

    Args:
        file: opened file.
        clip_seconds: `> 0`, in s, length of a clip.
        starts: in s, start times of the clips, ascending.

    Yields:
        `(round(clip_seconds * file.sample_rate),)` float32, one clip. If the file is shorter than its header states,
        clips that start after the end of the file are omitted.

    Raises:
        audio.AudioError: the file contains samples that are not finite or exceed 1e9 in magnitude.
    """
    # Clips that are close together are decoded as one block.
    blocks: list[list[float]] = []
    for start in starts:
        fits_block = blocks and start - blocks[-1][-1] <= 2 * clip_seconds and start - blocks[-1][0] <= _BLOCK_SECONDS
        blocks[-1].append(start) if fits_block else blocks.append([start])
    for block in blocks:
        waveform = file.read(block[0], block[-1] - block[0] + clip_seconds)
        starts_in_block = np.subtract(block, block[0])
        is_in_file = starts_in_block * file.sample_rate < len(waveform)
        yield from cut(waveform, file.sample_rate, clip_seconds, starts_in_block[is_in_file])


def cut(waveform: np.ndarray, sample_rate: int, clip_seconds: float, starts: Iterable[float]) -> Iterator[np.ndarray]:
    """Yield clips of a waveform, each of which lasts `clip_seconds`.

    A clip that would extend beyond the end of the waveform starts earlier instead. A waveform that is shorter than a
    clip is padded by reflection.
    """
    samples = round(clip_seconds * sample_rate)
    for start in starts:
        first = min(round(start * sample_rate), max(0, len(waveform) - samples))
        yield audio.to_length(waveform[first : first + samples], samples)


def load_image(model: GenreClassifier, path: StrPath, offset: float = 0.0) -> np.ndarray:
    """Return the image that the front end of a model computes from a clip of a file.

    Args:
        model: it defines the sample rate and the clip length.
        path: audio file. If it ends before the end of the clip, the clip is padded by reflection.
        offset: `>= 0`, in s, start of the clip.

    Returns:
        `(mels, frames)`, see `model.image_range`.

    Raises:
        audio.AudioError: the file cannot be read, or has no audio after `offset`.
        ValueError: `offset` is out of range.
    """
    import keras  # imported here because the import is slow

    waveform = audio.load(path, model.sample_rate, offset, model.clip_seconds)
    waveform = audio.to_length(waveform, model.input_shape[1])
    return keras.ops.convert_to_numpy(model.front_end(waveform[None], training=False))[0, :, :, 0]
