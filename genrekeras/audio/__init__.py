"""Read audio files as mono waveforms at a requested sample rate.

A waveform is a `(samples,)` float32 array. libsndfile (package soundfile) decodes mp3, wav, flac, ogg and other files.
If ffmpeg is installed, it decodes the files that libsndfile cannot read, such as m4a, wma and video files. soxr
resamples the waveforms.
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
