"""Read audio files as mono float32 waveforms, `(samples,)`, at a requested sample rate.

All audio is decoded in this package. libsndfile (package soundfile) reads mp3, wav, flac, ogg and more. An installed
ffmpeg reads what libsndfile cannot (m4a, wma, video files, ...). soxr resamples.
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
