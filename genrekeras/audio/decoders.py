"""Decode audio files to `(samples, channels)` float32 arrays at the sample rate of the file.

A decoder returns a file block by block, so memory does not grow with the length of the file.
"""

import contextlib
import math
import mmap
import os
import re
import shutil
import struct
import subprocess
import tempfile
from typing import Self

import numpy as np
import soundfile
from genrekeras.audio import mpeg

# Number of samples that are read at once. If a file is damaged, at most this many valid samples are lost.
BLOCK = 1 << 14
# A frame of an mp3 file uses bits of up to ten earlier frames. After a seek, the decoder needs these frames again.
_MP3_WARM_UP = 12 * 1152  # samples
# `XingFile` is used if libmpg123 reports a length that is shorter than the counted length by more than this tolerance.
_MP3_TOLERANCE = 1.0  # seconds
# If a header states no length or an impossible length, libsndfile reports at least this number of samples.
_UNKNOWN_LENGTH = 1 << 47
# A program that writes a file to a pipe does not know the final size of the audio. It writes one of these sizes, in
# bytes, into the header.
_UNKNOWN_SIZES = range(0x7FFF0000, 1 << 32)

# Audio and video containers that ffmpeg may open. Playlists (hls, concat, dash, ...) are excluded: they can refer to
# network addresses or to the same file again and again, so decoding might never end.
_FFMPEG_FORMATS = (
    "aa aac ac3 aea aiff amr ape asf ast au avi caf dsf dts dtshd eac3 flac flv iff loas matroska mlp mov mp3 mpc mpc8 "
    "mpeg mpegts ogg oma qcp rm shn spdif tak truehd tta voc vqf w64 wav wv xwma"
).replace(" ", ",")
_MAX_SECONDS = 24 * 3600  # ffmpeg stops after this duration of audio
_MAX_CPU_SECONDS = 600  # ffmpeg stops after this CPU time
# Context manager around each call of libsndfile. `genrekeras.utils.process.hide_codec_messages` replaces it.
codec_context: contextlib.AbstractContextManager = contextlib.nullcontext()
_AU_HEADER = struct.Struct(">4s5I")  # magic number, offset and size of the audio, encoding, sample rate, channels


class FileProblem(Exception):
    """Base class of exceptions and warnings about a file.

    The exceptions and warnings can be pickled, so worker processes can raise them.

    Attributes:
        path: the file.
        reason: what is wrong with the file.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str):
        super().__init__(os.fspath(path), reason)
        self.path = os.fspath(path)
        self.reason = reason

    def __str__(self):
        return f"{self.path}: {self.reason}"


class AudioError(FileProblem, ValueError):
    """Exception for a file that cannot be read as audio.

    Attributes:
        path: the file.
        reason: what is wrong with the file.
    """


class Decoder:
    """Base class of the decoders, which are context managers.

    Subclasses implement `_start`, `_read` and `close`. Subclasses that can seek also implement `_seek`.

    Attributes:
        path: the file.
        sample_rate: in Hz.
        channels: number of channels.
        samples: length of the file. `None` if the length is unknown before the file is decoded.
        stated_samples: length that the header states. `None` if the header states no length. Infinity if the end of an
            ogg file is missing.
        position: index of the next sample that `read` returns.
        is_damaged: whether decoding failed at some position.
        is_chained: whether the file is an ogg file with several streams, of which only the first is decoded.
        can_seek: whether the decoder can seek to an exact sample if the length of the file is known.
        warm_up: number of samples. After a seek, the first samples are not exact, so the decoder discards this number
            of samples.
    """

    sample_rate: int
    channels: int
    samples: int | None
    stated_samples: float | None
    position: int
    can_seek = False
    is_chained = False
    warm_up = 0

    def __init__(self, path: str):
        self.path = path
        self.samples = self.stated_samples = None
        self.is_damaged = False
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def read(self, count: int) -> np.ndarray:
        """Return the next samples as a `(count, channels)` array, which is shorter at the end of the file."""
        block = self._read(count)
        self.position += len(block)
        return block

    def go_to(self, position: int) -> None:
        """Move to a position. The next `read` starts at the sample with this index."""
        target = max(0, position - self.warm_up)
        if self.can_seek and self.samples is not None and not target <= self.position <= position:
            self._seek(min(target, self.samples))
        elif self.position > position:
            self.close()
            self._start()
        while self.position < position and len(self.read(min(BLOCK, position - self.position))):
            pass

    def close(self) -> None:
        """Close the file."""
        raise NotImplementedError  # pragma: no cover - abstract

    def _start(self):
        """Open the file and set the attributes."""
        raise NotImplementedError  # pragma: no cover - abstract

    def _read(self, count):
        """Return the next samples like `read`, without changing `position`."""
        raise NotImplementedError  # pragma: no cover - abstract

    def _seek(self, position):
        """Seek to a sample and set `position`."""
        raise NotImplementedError  # pragma: no cover - abstract


class SndfileDecoder(Decoder):
    """Decode with libsndfile.

    Raises:
        soundfile.LibsndfileError: libsndfile does not support the format of the file.
    """

    def _start(self):
        self.position, self._stream = 0, None
        with codec_context:
            self._file = _SoundFile(os.fsencode(self.path))
            stated = self._file.frames
            if self._file.format == "MP3":
                stated = self._adjust_mp3_length()
        self.sample_rate, self.channels = self._file.samplerate, self._file.channels
        self.warm_up = _MP3_WARM_UP if self._file.format == "MP3" else 0
        if self._file.frames < _UNKNOWN_LENGTH:
            self.samples = min(self._file.frames, self.samples or math.inf)
            self.stated_samples = _stated_length(self._file, stated)
        # In Ogg Vorbis files, libsndfile does not seek to the exact sample.
        is_vorbis = (self._file.format, self._file.subtype) == ("OGG", "VORBIS")
        self.can_seek = not is_vorbis
        self.is_chained = self._file.format == "OGG" and _is_chained(self.path)

    def close(self) -> None:
        self._file.close()
        if self._stream:
            self._stream.close()

    def _read(self, count):
        try:
            with codec_context:
                return self._file.read(count, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError:
            self.is_damaged = True
            return np.zeros((0, self.channels), "float32")

    def _seek(self, position):
        try:
            with codec_context:
                self._file.seek(position)
            self.position = position
        except soundfile.LibsndfileError:
            self.is_damaged = True
            self.close()
            self._start()  # `go_to` now decodes the file from its start up to the position

    def _adjust_mp3_length(self):
        """Make libsndfile decode an mp3 file up to its end, and return the length that the Xing header states."""
        length, file = mpeg.length(self.path), self._file
        if not length.counted:
            return None
        if not length.counted - _MP3_TOLERANCE * file.samplerate <= file.frames < _UNKNOWN_LENGTH:
            self._stream = mpeg.XingFile(self.path, length.start, file.samplerate, file.channels, length.counted)
            file.close()
            self._file = _SoundFile(self._stream)
        self.samples = length.counted
        return length.stated


class FfmpegDecoder(Decoder):
    """Decode with ffmpeg, which runs in a separate process. `close` ends the process.

    Raises:
        AudioError: ffmpeg is not installed or cannot read the file.
    """

    def _start(self):
        self.position = 0
        if not shutil.which("ffmpeg"):
            raise AudioError(self.path, "not audio that libsndfile can read. Install ffmpeg to read more file formats")
        input_options = (
            f"-nostdin -hide_banner -nostats -timelimit {_MAX_CPU_SECONDS} -threads 1 "
            f"-protocol_whitelist file -format_whitelist {_FFMPEG_FORMATS}"
        )
        output_options = f"-map 0:a:0 -t {_MAX_SECONDS} -c:a pcm_f32be -f au pipe:1"
        command = ["ffmpeg", *input_options.split(), "-i", f"file:{self.path}", *output_options.split()]
        self._messages = tempfile.TemporaryFile("a+b")  # a full pipe would block ffmpeg
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._messages
        )
        header = self._process.stdout.read(_AU_HEADER.size)  # ffmpeg writes an au file to its standard output
        if len(header) < _AU_HEADER.size:
            self.close()
            raise AudioError(self.path, f"not audio that libsndfile or ffmpeg can read: {self._last_message}")
        _, offset, _, _, self.sample_rate, self.channels = _AU_HEADER.unpack(header)
        self._process.stdout.read(offset - _AU_HEADER.size)
        self._set_length()

    def close(self) -> None:
        if self._messages.closed:
            return
        self._process.kill()
        self._process.stdout.close()
        self._process.wait()
        self._last_message = (self._read_messages().strip().splitlines() or ["no reason given"])[-1]
        self._messages.close()

    def _read(self, count):
        size = 4 * self.channels
        content = self._process.stdout.read(count * size)
        if len(content) < count * size and self._process.wait():
            self.is_damaged = True
        return np.frombuffer(content[: len(content) // size * size], ">f4").reshape(-1, self.channels).astype("float32")

    def _set_length(self):
        """Set the length of the file to the length that ffmpeg prints.

        For some files, ffmpeg prints an estimate. For ogg files, ffmpeg prints the length of the first stream only.
        These lengths are ignored.
        """
        messages = self._read_messages()
        match = re.search(r"Duration: (\d+):(\d+):(\d+\.\d+)", messages)
        if match and "Estimating duration from bitrate" not in messages and "Input #0, ogg" not in messages:
            hours, minutes, seconds = map(float, match.groups())
            self.samples = round(min(3600 * hours + 60 * minutes + seconds, _MAX_SECONDS) * self.sample_rate)
            self.stated_samples = self.samples

    def _read_messages(self):
        self._messages.seek(0)
        return self._messages.read(1 << 16).decode("utf-8", "replace")


def open_decoder(path: str | os.PathLike[str]) -> Decoder:
    """Open a file with libsndfile. If libsndfile cannot read the file, open it with ffmpeg.

    The file extension does not matter. An ogg file with several streams is opened with ffmpeg if ffmpeg is installed.

    Args:
        path: path of the file.

    Returns:
        A decoder, which is a context manager.

    Raises:
        AudioError: the file is missing, empty, or not audio.
    """
    path = os.fspath(path)
    _check_file(path)
    try:
        decoder = SndfileDecoder(path)
    except (soundfile.LibsndfileError, TypeError):  # soundfile raises TypeError for the extension .raw
        return FfmpegDecoder(path)
    if decoder.is_chained and shutil.which("ffmpeg"):
        decoder.close()
        return FfmpegDecoder(path)
    return decoder


class _SoundFile(soundfile.SoundFile):
    """`SoundFile` that does not seek after each read, because decoded mp3 samples are not exact after a seek."""

    def seekable(self):
        return False


def _check_file(path):
    if not os.path.exists(path):
        raise AudioError(path, "missing: there is no such file")
    if os.path.isdir(path):
        raise AudioError(path, "a folder, not an audio file")
    if not os.path.isfile(path):
        raise AudioError(path, "not a regular file")
    if os.path.getsize(path) == 0:
        raise AudioError(path, "empty: the file has 0 bytes")
    try:
        open(path, "rb").close()  # Python reports why a file cannot be opened, but libsndfile does not
    except OSError as error:
        raise AudioError(path, f"cannot be opened: {error.strerror}") from error


def _is_chained(path):
    """Return whether an ogg file contains several streams in sequence, such as a recording of web radio."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        page, first = b"OggS\x00", b"\x02"  # the start of a page header, and the flag of the first page of a stream
        return 0 <= data.find(page + b"\x00") < data.rfind(page + first)


def _stated_length(file, fallback):
    """Return the length that the header of an open file states.

    If the stated length is wrong, libsndfile replaces it by the correct length. The log of libsndfile still contains
    the stated length.

    Args:
        file: `soundfile.SoundFile`.
        fallback: int, the result if the log of libsndfile contains no other length.
    """
    if "lacks an end-of-stream bit" in file.extra_info:  # the last page of an ogg file is missing
        return math.inf
    match = re.search(r"(?:data|SSND|Data Size *) : (\d+) \(should be (\d+)\)", file.extra_info)  # wav, aiff, au
    if match:
        stated_bytes, actual_bytes = (int(size) for size in match.groups())
        if actual_bytes < stated_bytes and stated_bytes not in _UNKNOWN_SIZES:
            return file.frames * stated_bytes // max(1, actual_bytes)
    return fallback
