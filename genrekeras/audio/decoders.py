"""Decode audio files to samples, `(samples, channels)` float32, at the file's own sample rate.

A decoder reads forward in blocks, so that memory does not grow with the length of the file.
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

import numpy as np
import soundfile
from genrekeras.audio import mpeg

BLOCK = 1 << 14  # samples; at a damaged position, at most this many valid samples are lost
# A frame of an mp3 file uses bits of up to ten frames before it, which a decoder lacks after a seek.
_MP3_WARM_UP = 12 * 1152
_MP3_TOLERANCE = 1.0  # in seconds: how much libmpg123's length may fall short of the counted length
_UNKNOWN_LENGTH = 1 << 47  # samples; libsndfile reports at least this if a header states no length or an impossible one
_UNKNOWN_SIZES = range(0x7FFF0000, 1 << 32)  # bytes of audio, as stated by programs that write to a pipe

# Containers of audio and video. All other formats are refused: a playlist (hls, concat, dash, ...) could refer to files
# repeatedly, or to network addresses, and decoding might never end.
_FFMPEG_FORMATS = (
    "aa aac ac3 aea aiff amr ape asf ast au avi caf dsf dts dtshd eac3 flac flv iff loas matroska mlp mov mp3 mpc mpc8 "
    "mpeg mpegts ogg oma qcp rm shn spdif tak truehd tta voc vqf w64 wav wv xwma"
).replace(" ", ",")
_MAX_SECONDS = 24 * 3600  # of audio
_MAX_CPU_SECONDS = 600  # of one ffmpeg process
# Context in which libsndfile is called; `genrekeras.utils.process.hide_codec_messages` replaces it.
codec_context = contextlib.nullcontext()
_AU_HEADER = struct.Struct(">4s5I")  # magic, offset of the audio, its size, encoding, sample rate, channels


class FileProblem:
    """Base class of exceptions and warnings about a file. They can be pickled, so worker processes can raise them.

    Attributes:
        path: str, the file.
        reason: str, what is wrong with the file.
    """

    def __init__(self, path, reason):
        super().__init__(os.fspath(path), reason)
        self.path = os.fspath(path)
        self.reason = reason

    def __str__(self):
        return f"{self.path}: {self.reason}"


class AudioError(FileProblem, ValueError):
    """Exception for a file that cannot be read as audio.

    Attributes:
        path: str, the file.
        reason: str, what is wrong with the file.
    """


class Decoder:
    """Base class of the decoders.

    Attributes:
        path: str.
        sample_rate: int, in Hz.
        channels: int.
        samples: int, length of the file; `None` if it is only known after decoding.
        stated_samples: int, length that the header states; infinity if the header only states that more audio follows,
            `None` if it states no length.
        position: int, index of the next sample that `read` returns.
        is_damaged: bool, whether decoding failed somewhere.
        is_chained: bool, whether only the first of several streams in an ogg file is decoded.
    """

    can_seek = False  # to an exact sample
    is_chained = False
    warm_up = 0  # number of samples that must be decoded before a position for exact samples after it

    def __init__(self, path):
        self.path = path
        self.samples = self.stated_samples = None
        self.is_damaged = False
        self._start()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def read(self, count):
        """Return the next samples, `(count, channels)`; fewer at the end of the file."""
        block = self._read(count)
        self.position += len(block)
        return block

    def go_to(self, position):
        """Move to a sample index, at which the next `read` starts."""
        target = max(0, position - self.warm_up)
        if self.can_seek and not target <= self.position <= position:
            self._seek(min(target, self.samples))
        elif self.position > position:
            self.close()
            self._start()
        while self.position < position and len(self.read(min(BLOCK, position - self.position))):
            pass


class SndfileDecoder(Decoder):
    """Decode with libsndfile.

    Raises:
        soundfile.LibsndfileError: the file is not in a format that libsndfile reads.
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
            self.stated_samples = _repaired_length(self._file, stated)
        is_vorbis = (self._file.format, self._file.subtype) == ("OGG", "VORBIS")  # libsndfile does not seek exactly
        self.can_seek = not is_vorbis and self.samples is not None
        self.is_chained = self._file.format == "OGG" and _is_chained(self.path)

    def close(self):
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
            self._start()  # `go_to` then decodes up to the position instead

    def _adjust_mp3_length(self):
        """Make libsndfile decode an mp3 file to its end. Return the length that the Xing header states."""
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
    """Decode with ffmpeg, in a separate process that ends when the decoder is closed.

    Raises:
        AudioError: ffmpeg is not installed, or cannot read the file.
    """

    def _start(self):
        self.position = 0
        if not shutil.which("ffmpeg"):
            raise AudioError(
                self.path, "not audio in a format that libsndfile reads; ffmpeg, which reads more, is not installed"
            )
        before = f"-nostdin -hide_banner -nostats -timelimit {_MAX_CPU_SECONDS} -threads 1 -protocol_whitelist file"
        after = f"-map 0:a:0 -t {_MAX_SECONDS} -c:a pcm_f32be -f au pipe:1"
        command = ["ffmpeg", *before.split(), "-format_whitelist", _FFMPEG_FORMATS, "-i", f"file:{self.path}"]
        self._messages = tempfile.TemporaryFile("a+b")  # a pipe could fill up and block ffmpeg
        self._process = subprocess.Popen(
            command + after.split(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._messages
        )
        header = self._process.stdout.read(_AU_HEADER.size)
        if len(header) < _AU_HEADER.size:
            self.close()
            raise AudioError(self.path, f"not audio in a format that libsndfile or ffmpeg reads: {self._last_message}")
        _, offset, _, _, self.sample_rate, self.channels = _AU_HEADER.unpack(header)
        self._process.stdout.read(offset - _AU_HEADER.size)
        self._set_length()

    def close(self):
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
        """Set the length that ffmpeg prints, unless it is an estimate or the length of one of several streams."""
        messages = self._read_messages()
        match = re.search(r"Duration: (\d+):(\d+):(\d+\.\d+)", messages)
        if match and "Estimating duration from bitrate" not in messages and "Input #0, ogg" not in messages:
            hours, minutes, seconds = map(float, match.groups())
            self.samples = round(min(3600 * hours + 60 * minutes + seconds, _MAX_SECONDS) * self.sample_rate)
            self.stated_samples = self.samples

    def _read_messages(self):
        self._messages.seek(0)
        return self._messages.read(1 << 16).decode("utf-8", "replace")


def open_decoder(path):
    """Open a file with libsndfile or, if libsndfile cannot read it, with ffmpeg.

    The file extension does not matter. An ogg file of several streams is opened with ffmpeg if it is installed.

    Args:
        path: str or path-like.

    Returns:
        `Decoder`, a context manager.

    Raises:
        AudioError: the file is missing, empty, or not audio.
    """
    path = os.fspath(path)
    _check_file(path)
    try:
        decoder = SndfileDecoder(path)
    except (soundfile.LibsndfileError, TypeError):  # TypeError: the extension is that of a headerless format
        return FfmpegDecoder(path)
    if decoder.is_chained and shutil.which("ffmpeg"):
        decoder.close()
        return FfmpegDecoder(path)
    return decoder


class _SoundFile(soundfile.SoundFile):
    """A `SoundFile` that does not seek after each read, since mp3 decoding is not exact after a seek."""

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
        open(path, "rb").close()  # libsndfile gives the same reason for every file that it cannot open
    except OSError as error:
        raise AudioError(path, f"cannot be opened: {error.strerror}") from error


def _is_chained(path):
    """Return whether an ogg file contains several streams in sequence, as recordings of web radio do."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        page, first = b"OggS\x00", b"\x02"  # the flag of the first page of a stream
        return 0 <= data.find(page + b"\x00") < data.rfind(page + first)


def _repaired_length(file, stated):
    """Return the length that a header states, even if libsndfile corrected it; its log shows the stated length."""
    if "lacks an end-of-stream bit" in file.extra_info:  # the last page of an ogg file
        return math.inf
    match = re.search(r"(?:data|SSND|Data Size *) : (\d+) \(should be (\d+)\)", file.extra_info)  # wav, aiff, au
    if match:
        stated_bytes, actual_bytes = (int(size) for size in match.groups())
        if actual_bytes < stated_bytes and stated_bytes not in _UNKNOWN_SIZES:
            return file.frames * stated_bytes // max(1, actual_bytes)
    return stated
