"""From an audio file to a waveform: `(samples,)` float32, mono, at the rate that was asked for.

The only module that decodes. libsndfile (package soundfile) reads mp3, wav, flac, ogg and more, an installed ffmpeg
what else people have (m4a, wma, video files); soxr resamples.
"""

import contextlib
import ctypes
import dataclasses
import hashlib
import itertools
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading

import numpy as np
import soundfile
import soxr

# Of files that libsndfile reads, and of those that ffmpeg may.
EXTENSIONS = frozenset(
    ".mp3 .wav .flac .ogg .oga .opus .aiff .aif .aifc .au .snd .caf .w64 .rf64 .wve .mp2 .mp1".split()
)
OTHER_EXTENSIONS = frozenset(".m4a .aac .mp4 .wma .ape .wv .mpc .alac .ra .mka .webm .amr .dsf .dff .mid".split())

# soxr's HQ filter reaches 128 samples of the lower of the two rates to each side; a part that is decoded with this
# margin around it equals the same part of the whole file to 5e-7.
_MARGIN_SAMPLES = 512
# An mp3 frame may lean on up to ten frames before it, which a decoder does not have behind a seek. In an ogg file
# libsndfile may land elsewhere; it is decoded from its beginning.
_MP3_WARM_UP = 12 * 1152
_BLOCK_SAMPLES, _MOST_SAMPLES = 1 << 20, 1 << 31
# What is missing beyond this was cut off. The header of an mp3 file counts the encoder's delay and padding, up to three
# frames of 576 samples, which a decoder takes out.
_CUT_SHORT_SECONDS, _CUT_SHORT_SAMPLES = 0.1, 5 * 576

# Without this, a playlist that calls itself a song could have ffmpeg fetch what it names from the network.
_FFMPEG = ("ffmpeg", "-nostdin", "-v", "error", "-protocol_whitelist", "file")
_NOT_AUDIO = "not audio in a format that libsndfile can read"


class _Quiet:
    """While it is entered, what C code says on standard error goes nowhere; what Python says stays.

    libmpg123 speaks of each oddity of a file there, in lines that name no file, and libsndfile cannot silence it.
    Any number of threads may be within.
    """

    def __init__(self):
        self._lock, self._within, self._stream = threading.Lock(), 0, None
        name = {"linux": "stderr", "darwin": "__stderrp"}.get(sys.platform)
        if name:
            library = ctypes.CDLL(None)
            library.fopen.restype, library.fopen.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_char_p]
            with contextlib.suppress(ValueError):  # a C library that calls it otherwise
                self._stream = ctypes.c_void_p.in_dll(library, name)
                self._spoken, self._nowhere = self._stream.value, library.fopen(os.devnull.encode(), b"w")

    def __enter__(self):
        with self._lock:
            self._within += 1
            self._turn()

    def __exit__(self, *error):
        with self._lock:
            self._within -= 1
            self._turn()

    def _turn(self):
        if self._stream is not None and self._nowhere:
            self._stream.value = self._nowhere if self._within else self._spoken


_QUIET = _Quiet()


class AudioError(ValueError):
    """A file that cannot be read as audio.

    Attributes:
        path: str, the file.
        reason: str, what is wrong with it.
    """

    def __init__(self, path, reason):
        super().__init__(f"{os.fspath(path)}: {reason}")
        self.path = os.fspath(path)
        self.reason = reason


def load(path, sample_rate=22050, offset=0.0, duration=None):
    """Read a file as a mono waveform.

    Only the asked-for seconds are decoded (of an ogg file, those before them too). They are resampled from the file's
    own rate, together with a margin at each side, so that a part equals the same part of the whole file. Channels are
    averaged.

    Args:
        path: str or path-like, a file that libsndfile reads (mp3, wav, flac, ogg, aiff, ...), or one that an installed
            ffmpeg does (m4a, aac, wma, mp4, ...), which then decodes all of it first: see `readable`.
        sample_rate: int > 0, in Hz, of the result.
        offset: float >= 0, in seconds, where to begin.
        duration: float > 0, in seconds, or `None` for all that follows. A file that ends earlier gives a shorter
            waveform (`to_length` brings it to length).

    Returns:
        `(samples,)` float32, nominally in [-1, 1]: lossy formats may overshoot, and nothing is clipped.

    Raises:
        AudioError: the file is missing, empty, not audio, has no samples at the place asked for, holds numbers that are
            not finite or beyond 1e9, or is cut short: its header promises seconds that were asked for and are not
            there.
        ValueError: an argument is out of range.
    """
    _check_arguments(sample_rate, offset, duration)
    sample_rate = int(sample_rate)
    _check_file(path)
    try:
        with readable(path) as name, _QUIET, soundfile.SoundFile(os.fsencode(name)) as file:
            waveform = _read(file, path, sample_rate, offset, duration)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: the name promises a file without a header
        raise AudioError(path, _NOT_AUDIO) from error
    if not is_sane(waveform):
        raise AudioError(path, "holds samples that are not finite numbers, or beyond 1e9")
    return waveform


def checksum(path):
    """Return a checksum of the decoded samples of a file, its sample rate and its number of channels.

    The file is decoded in blocks, so that memory stays bounded.

    Args:
        path: str or path-like.

    Returns:
        str.

    Raises:
        AudioError: the file cannot be decoded.
    """
    _check_file(path)
    try:
        with readable(path) as name, _QUIET, soundfile.SoundFile(os.fsencode(name)) as file:
            digest, decoded = hashlib.sha256(f"{file.samplerate} {file.channels}".encode()), 0
            while len(block := file.read(_BLOCK_SAMPLES, dtype="float32")):
                digest.update(block.tobytes())
                decoded += len(block)
    except (soundfile.LibsndfileError, TypeError) as error:
        raise AudioError(path, _NOT_AUDIO) from error
    if not decoded:
        raise AudioError(path, "no samples: nothing can be decoded")
    return digest.hexdigest()


def is_sane(waveform):
    """Whether all samples are finite, and not so large (beyond 1e9) that their spectrum's power is not."""
    return bool(np.abs(waveform).max(initial=0.0) <= 1e9)  # of a number that is none nothing is true


@dataclasses.dataclass(frozen=True)
class Info:
    """What the header of a file tells; it may promise more seconds than can be decoded.

    Attributes:
        sample_rate: int, in Hz.
        channels: int.
        seconds: float.
    """

    sample_rate: int
    channels: int
    seconds: float


def info(path):
    """`Info` of a file, without decoding it (if libsndfile reads it).

    Raises:
        AudioError: the file is missing, empty, or not audio.
    """
    _check_file(path)
    try:
        with readable(path) as name, _QUIET:
            header = soundfile.info(os.fsencode(name))
    except (soundfile.LibsndfileError, TypeError) as error:
        raise AudioError(path, _NOT_AUDIO) from error
    return Info(header.samplerate, header.channels, header.frames / header.samplerate)


@contextlib.contextmanager
def readable(path):
    """A file that libsndfile reads: `path` itself, or, by its extension, a wav file that ffmpeg makes of it.

    Around several calls of `load` and `info` it saves all but one of ffmpeg's.

    Args:
        path: str or path-like.

    Yields:
        str; a file of ffmpeg's is removed afterwards.

    Raises:
        AudioError: ffmpeg is wanted and not installed, or cannot read the file.
    """
    path = os.fspath(path)
    extension = os.path.splitext(path)[1].lower()
    if extension not in OTHER_EXTENSIONS:
        yield path
        return
    _check_file(path)
    if not shutil.which("ffmpeg"):
        raise AudioError(path, f"a {extension} file can be read with ffmpeg only, which is not installed")
    with tempfile.TemporaryDirectory(prefix="genrekeras-") as folder:
        name = os.path.join(folder, "decoded.wav")
        command = [*_FFMPEG, "-i", f"file:{path}", "-map", "0:a:0", "-c:a", "pcm_s16le", "-rf64", "auto", name]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
        if done.returncode:
            told = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
            raise AudioError(path, f"ffmpeg cannot read it: {told[-1]}")
        yield name


def to_length(waveform, samples):
    """Bring a waveform to a length: cut at the end, or reflected at both ends.

    A clip that is too short is continued by its own mirror image, as much before it as behind it (one sample more
    behind it where the number is odd), again and again if it must be; this is what the original system does.

    Args:
        waveform: `(samples,)` array with at least one sample.
        samples: int > 0, the length of the result.

    Returns:
        `(samples,)` array of the same dtype.
    """
    missing = samples - len(waveform)
    if missing <= 0:
        return waveform[:samples]
    if len(waveform) == 0:
        raise ValueError("`waveform` must have at least one sample. Received: shape=(0,)")
    return np.pad(waveform, (missing // 2, missing - missing // 2), mode="reflect")


def _check_arguments(sample_rate, offset, duration):
    if int(sample_rate) != sample_rate or sample_rate <= 0:
        raise ValueError(f"`sample_rate` must be a positive integer, in Hz. Received: sample_rate={sample_rate}")
    if not (math.isfinite(offset) and offset >= 0):
        raise ValueError(f"`offset` must be >= 0, in seconds. Received: offset={offset}")
    if duration is not None and not (math.isfinite(duration) and duration > 0):
        raise ValueError(f"`duration` must be > 0, in seconds, or None. Received: duration={duration}")


def _check_file(path):
    if not os.path.exists(path):
        raise AudioError(path, "missing: there is no such file")
    if os.path.isdir(path):
        raise AudioError(path, "a folder, not an audio file")
    if os.path.getsize(path) == 0:
        raise AudioError(path, "empty: the file has 0 bytes")
    try:
        open(path, "rb").close()  # libsndfile says the same of all that it cannot open
    except OSError as error:
        raise AudioError(path, f"cannot be opened: {error.strerror}") from error


def _read(file, path, sample_rate, offset, duration):
    # Input and output samples fall on the same instant every `block_in` input samples; a part begins at such an
    # instant.
    common = math.gcd(file.samplerate, sample_rate)
    block_in, block_out = file.samplerate // common, sample_rate // common
    margin = math.ceil(_MARGIN_SAMPLES * file.samplerate / min(file.samplerate, sample_rate))
    first_out = round(offset * sample_rate)
    before = {"MP3": max(margin, _MP3_WARM_UP), "OGG": math.inf}.get(file.format, margin)
    blocks = int(max(0, first_out * block_in // block_out - before)) // block_in
    skip_out = first_out - blocks * block_out

    wanted = stop = None
    if duration is not None:
        wanted = max(1, round(duration * sample_rate))
        stop = math.ceil((first_out + wanted) * block_in / block_out)  # in samples of the file

    start = blocks * block_in
    channels = _decode(file, path, start, None if stop is None else stop + margin)
    _check_not_cut(file, path, start, len(channels), stop)
    mono = sum(channels.T) / np.float32(channels.shape[1])  # eight times as fast as channels.mean(axis=1)
    waveform = soxr.resample(mono, file.samplerate, sample_rate)[skip_out:]
    if len(waveform) == 0:
        raise AudioError(path, f"no samples at {offset:g} s: the file ends at {file.frames / file.samplerate:.2f} s")
    return np.ascontiguousarray(waveform[:wanted])


def _decode(file, path, start, stop):
    if start >= file.frames > 0:
        return np.zeros((0, file.channels), "float32")
    if start:
        file.seek(start)
    # In one piece, since soundfile seeks after each read, and behind a seek an mp3 decoder is not exact; but a length
    # that cannot be is not believed.
    left = min(math.inf if stop is None else stop, file.frames) - start
    pieces = [left] if left * file.channels < _MOST_SAMPLES else itertools.repeat(_BLOCK_SAMPLES)
    blocks, decoded = [], start
    for frames in pieces:
        try:
            blocks.append(file.read(int(frames), dtype="float32", always_2d=True))
        except soundfile.LibsndfileError as error:
            reason = f"damaged or cut short: cannot be decoded behind {decoded / file.samplerate:.1f} s"
            raise AudioError(path, reason) from error
        decoded += len(blocks[-1])
        if len(blocks[-1]) < frames:
            break
    if start == decoded == 0:
        raise AudioError(path, "no samples: nothing can be decoded")
    return np.concatenate(blocks)


def _check_not_cut(file, path, start, decoded, stop):
    """Raise if seconds that were asked for are promised by the header and are not there."""
    promised = _promised_samples(file, path)
    asked = promised if stop is None else min(stop, promised)
    if asked - start - decoded > max(_CUT_SHORT_SECONDS * file.samplerate, _CUT_SHORT_SAMPLES):
        promise = f"{promised / file.samplerate:.1f} s" if math.isfinite(promised) else "more"
        found = f"only {(start + decoded) / file.samplerate:.1f} s can be decoded"
        if not decoded:
            found = f"nothing is left at {start / file.samplerate:.1f} s"
        raise AudioError(path, f"cut short: the header promises {promise}, {found}")


def _promised_samples(file, path):
    """How many samples the whole file had, as far as it tells; infinity where it tells only that more must follow."""
    promised = file.frames
    if "lacks an end-of-stream bit" in file.extra_info:  # libsndfile's log of an ogg file
        return math.inf
    if file.format == "MP3":
        promised = max(promised, _mp3_promised_samples(path, file.samplerate))
    else:
        # libsndfile repairs the sizes in the headers of wav and aiff, and notes it in its log.
        found = re.search(r"(?:data|SSND) : (\d+) \(should be (\d+)\)", file.extra_info)
        if found:
            promised_bytes, actual_bytes = (int(size) for size in found.groups())
            if actual_bytes < promised_bytes < 0x7FFF0000:  # writers that stream leave the largest number there
                promised = file.frames * promised_bytes // max(1, actual_bytes)
    return promised


def _mp3_promised_samples(path, sample_rate):
    """The length in the Xing or Info header of an mp3 file, which the decoder drops if less is there; 0 without one."""
    with open(path, "rb") as file:
        head = file.read(10)
        if head[:3] == b"ID3":
            size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]  # four times seven bits
            file.seek(10 + size)
        head = file.read(4096)
    found = re.search(rb"(?:Xing|Info)\x00\x00\x00([\x00-\x0f])(.{4})", head, re.DOTALL)
    if not found or not found[1][0] & 1:  # bit 0: the number of frames follows
        return 0
    return int.from_bytes(found[2], "big") * (1152 if sample_rate >= 32000 else 576)
