"""Read audio files as waveforms: `(samples,)` float32, mono, at the sample rate that is asked for.

This package is the only place that decodes. libsndfile (package soundfile) reads mp3, wav, flac, ogg and more. An
installed ffmpeg reads what libsndfile cannot (m4a, wma, video files, ...). soxr resamples.
"""

from genrekeras.audio.decoders import AudioError
from genrekeras.audio.waveform import (
    EXTENSIONS,
    AudioFile,
    AudioWarning,
    Info,
    checksum,
    decode,
    info,
    is_sane,
    load,
    to_length,
)

__all__ = [
    "EXTENSIONS",
    "AudioError",
    "AudioFile",
    "AudioWarning",
    "Info",
    "checksum",
    "decode",
    "info",
    "is_sane",
    "load",
    "to_length",
]
