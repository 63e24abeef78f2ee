"""Load audio files or parts of audio files as mono waveforms at a given sample rate."""

import dataclasses
import functools
import hashlib
import math
import os
import warnings
from typing import Self

import numpy as np
import soxr
from genrekeras.audio.decoders import BLOCK, AudioError, FileProblem, open_decoder

# File name extensions of audio files.
EXTENSIONS = frozenset(
    ".mp3 .wav .flac .ogg .oga .opus .aiff .aif .aifc .au .snd .caf .w64 .rf64 .wve .mp2 .mp1 "
    ".m4a .m4b .aac .mp4 .wma .ape .wv .mpc .alac .ra .mka .webm .amr .dsf .dff .tta .tak .ac3".split()
)
# Before resampling, a part of a file is extended by this number of samples (at the lower of the two rates) on each
# side. Then the result differs from the same part of the resampled file by at most 5e-7. The HQ filter of soxr extends
# over 128 samples on each side.
_MARGIN_SAMPLES = 512
# There is no warning if at most this number of seconds or at most this fraction of the stated length is missing. The
# stated length is often an estimate. It also includes the padding that encoders add at both ends.
_MAX_MISSING_SECONDS, _MAX_MISSING_FRACTION = 1.0, 0.01


class AudioWarning(FileProblem, UserWarning):
    """Warning about a file that is damaged or shorter than its header states.

    Attributes:
        path: the file.
        reason: what is wrong with the file.
    """


class AudioFile:
    """Open an audio file to read parts of it. The object is a context manager.

    If parts are read in ascending order, the file is decoded only once. The memory depends on the length of a part, not
    on the length of the file.

    Args:
        path: path of the file. libsndfile reads mp3, wav, flac, ogg, aiff and other files. If ffmpeg is installed, it
            reads m4a, aac, wma, mp4 and other files. The file extension does not matter.
        sample_rate: `> 0`, in Hz, sample rate of the waveforms that `read` returns.

    Attributes:
        path: the argument.
        sample_rate: the argument.
        warning: what is wrong with the parts that were read, or `None`.

    Raises:
        AudioError: the file is missing, empty, or not audio.
        ValueError: `sample_rate` is out of range.
    """

    def __init__(self, path: str | os.PathLike[str], sample_rate: int = 22050):
        if int(sample_rate) != sample_rate or sample_rate <= 0:
            raise ValueError(f"`sample_rate` must be a positive integer, in Hz. Received: sample_rate={sample_rate}")
        self.path = os.fspath(path)
        self.sample_rate = int(sample_rate)
        self.warning: str | None = None
        self._decoder = open_decoder(path)
        # `_decode` keeps the samples of its last call, because the next part may overlap them.
        self._kept, self._kept_start = np.zeros(0, "float32"), 0
        self._end = 0  # the largest position that the decoder has reached

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._decoder.close()

    @functools.cached_property
    def seconds(self) -> float:
        """Length of the file in seconds.

        Before the end of the file is reached, this is the length that the header states. Afterwards, it is the length
        of the decoded audio. If the header states no length, the file is decoded once to determine the length.
        """
        if self._decoder.samples is not None:
            return self._decoder.samples / self._decoder.sample_rate
        with open_decoder(self.path) as decoder:
            while len(decoder.read(BLOCK)):
                pass
            return decoder.position / decoder.sample_rate

    def read(self, offset: float = 0.0, duration: float | None = None) -> np.ndarray:
        """Return a part of the file.

        Args:
            offset: `>= 0`, in seconds, start of the part.
            duration: `> 0`, in seconds, length of the part. `None` reads up to the end of the file.

        Returns:
            `(samples,)` float32 array. If the file ends before the end of the part, the array is shorter or empty.

        Raises:
            AudioError: a sample is not finite or exceeds 1e9 in magnitude.
            ValueError: an argument is out of range.
        """
        if not (math.isfinite(offset) and offset >= 0):
            raise ValueError(f"`offset` must be >= 0, in seconds. Received: offset={offset}")
        if duration is not None and not (math.isfinite(duration) and duration > 0):
            raise ValueError(f"`duration` must be > 0, in seconds, or None. Received: duration={duration}")
        file_rate = self._decoder.sample_rate
        # `step_in` samples of the file last as long as `step_out` samples of the waveform. Decoding starts at a
        # multiple of `step_in`, where a sample of the file and a sample of the waveform have the same time.
        common = math.gcd(file_rate, self.sample_rate)
        step_in, step_out = file_rate // common, self.sample_rate // common
        margin = math.ceil(_MARGIN_SAMPLES * file_rate / min(file_rate, self.sample_rate))
        first = round(offset * self.sample_rate)
        steps = max(0, first * step_in // step_out - margin) // step_in
        count = stop = None
        if duration is not None:
            count = max(1, round(duration * self.sample_rate))
            stop = math.ceil((first + count) * step_in / step_out)  # in samples of the file
        mono = self._decode(steps * step_in, None if stop is None else stop + margin)
        self._check_length(stop)
        waveform = soxr.resample(mono, file_rate, self.sample_rate)[first - steps * step_out :]
        if not is_sane(waveform):
            raise AudioError(self.path, "contains samples that are not finite or exceed 1e9 in magnitude")
        return np.ascontiguousarray(waveform[:count])

    def _decode(self, start, stop):
        """Return the mono samples from `start` to `stop`, or to the end of the file, at the sample rate of the file."""
        decoder, blocks = self._decoder, []
        if self._kept_start <= start <= self._kept_start + len(self._kept) == decoder.position:
            blocks.append(self._kept[start - self._kept_start :])
        else:
            decoder.go_to(start)
        while stop is None or decoder.position < stop:
            block = decoder.read(BLOCK if stop is None else min(BLOCK, stop - decoder.position))
            if len(block) == 0:
                break
            blocks.append(sum(block.T) / np.float32(decoder.channels))  # eight times as fast as block.mean(axis=1)
        samples = np.concatenate([np.zeros(0, "float32"), *blocks])
        # Without samples, the file may end before `start`, and the position is no known end.
        if len(samples) or decoder.position == decoder.samples:
            self._end = max(self._end, decoder.position)
        self._kept_start, self._kept = start, samples
        return samples if stop is None else samples[: stop - start]

    def _check_length(self, stop):
        """If the file ended before `stop`, set `seconds` to the decoded length, and warn if audio is missing."""
        stated, rate, end = self._decoder.stated_samples, self._decoder.sample_rate, self._end
        if stop is not None and end >= stop:
            return
        self.seconds = end / rate
        if self._decoder.is_damaged:
            self.warning = f"damaged: cannot be decoded after {self.seconds:.1f} s"
        elif self._decoder.is_chained:
            self.warning = "only the first of several streams is decoded. Install ffmpeg to decode all of them"
        elif stated == math.inf:
            self.warning = f"cut short: the file ends without an end mark after {self.seconds:.1f} s"
        elif stated is not None:
            missing = (stated if stop is None else min(stop, stated)) - end
            if missing > max(_MAX_MISSING_SECONDS * rate, _MAX_MISSING_FRACTION * stated):
                self.warning = f"cut short: only {self.seconds:.1f} s of {stated / rate:.1f} s can be decoded"


def load(
    path: str | os.PathLike[str], sample_rate: int = 22050, offset: float = 0.0, duration: float | None = None
) -> np.ndarray:
    """Load a file as a mono waveform.

    The channels are averaged. The result for a part of a file equals the same part of the result for the complete file.
    Usually, only the requested part is decoded. Ogg Vorbis files, files without a stated length and files that ffmpeg
    reads are decoded from their start. An `AudioWarning` is issued if the file is damaged. It is also issued if more
    than 1 s and more than 1 % of the stated length is missing.

    Args:
        path: path of the file. See `AudioFile` for the file formats.
        sample_rate: `> 0`, in Hz, sample rate of the waveform.
        offset: `>= 0`, in seconds, start of the part.
        duration: `> 0`, in seconds, length of the part. `None` reads up to the end of the file. If the file ends before
            the end of the part, the waveform is shorter. `to_length` pads a short waveform.

    Returns:
        `(samples,)` float32 array. Most samples are in [-1, 1]. Samples of lossy formats may exceed this range; they
        are not clipped.

    Raises:
        AudioError: the file is missing, empty or not audio; it has no samples at `offset`; or a sample is not finite or
            exceeds 1e9 in magnitude.
        ValueError: an argument is out of range.
    """
    waveform, warning = decode(path, sample_rate, offset, duration)
    if warning:
        warnings.warn(AudioWarning(path, warning), stacklevel=2)
    return waveform


def decode(
    path: str | os.PathLike[str], sample_rate: int = 22050, offset: float = 0.0, duration: float | None = None
) -> tuple[np.ndarray, str | None]:
    """Load a file like `load`, but return the warning instead of issuing it.

    Use this function in threads, because `warnings.catch_warnings` is not safe in threads. The arguments and exceptions
    are the same as those of `load`.

    Returns:
        The waveform, and the text of the warning or `None`.
    """
    with AudioFile(path, sample_rate) as file:
        waveform = file.read(offset, duration)
        if len(waveform) == 0:
            where = f"at {offset:g} s: the file ends at {file.seconds:.2f} s" if offset else "in the file"
            raise AudioError(path, f"no samples {where}")
        return waveform, file.warning


@dataclasses.dataclass(frozen=True)
class Info:
    """Sample rate, number of channels and length of an audio file.

    Attributes:
        sample_rate: in Hz.
        channels: number of channels.
        seconds: length of the file.
    """

    sample_rate: int
    channels: int
    seconds: float


def info(path: str | os.PathLike[str]) -> Info:
    """Return the sample rate, number of channels and length of an audio file.

    The file is decoded only if its header states no length.

    Args:
        path: path of the file. See `AudioFile` for the file formats.

    Raises:
        AudioError: the file is missing, empty, or not audio.
    """
    with AudioFile(path) as file:
        return Info(file._decoder.sample_rate, file._decoder.channels, file.seconds)


def checksum(path: str | os.PathLike[str]) -> str:
    """Return a hash of the decoded samples, the sample rate and the number of channels of a file.

    The hash does not depend on the tags of the file.

    Args:
        path: path of the file. See `AudioFile` for the file formats.

    Returns:
        32 hexadecimal digits.

    Raises:
        AudioError: the file is missing, empty or not audio, or no sample can be decoded.
    """
    with open_decoder(path) as decoder:
        content = hashlib.blake2b(f"{decoder.sample_rate} {decoder.channels}".encode(), digest_size=16)
        while len(block := decoder.read(BLOCK)):
            content.update(block.tobytes())
        if decoder.position == 0:
            raise AudioError(path, "no samples: nothing can be decoded")
        return content.hexdigest()


def is_sane(waveform: np.ndarray) -> bool:
    """Return whether all samples are finite and at most 1e9 in magnitude.

    The power spectrum of such a waveform is finite.
    """
    return bool(np.abs(waveform).max(initial=0.0) <= 1e9)  # if a sample is NaN, the comparison is false


def to_length(waveform: np.ndarray, samples: int) -> np.ndarray:
    """Trim or pad a waveform to a given length.

    A longer waveform is cut at its end. A shorter waveform is padded equally at both ends with its reflection, which is
    repeated if necessary. If the number of missing samples is odd, the end gets one sample more than the start. The
    PyTorch system of 2023 pads waveforms in the same way.

    Args:
        waveform: `(n,)`, at least one sample.
        samples: `> 0`, length of the result.

    Returns:
        `(samples,)` array with the dtype of `waveform`.

    Raises:
        ValueError: the waveform has no sample.
    """
    missing = samples - len(waveform)
    if missing <= 0:
        return waveform[:samples]
    if len(waveform) == 0:
        raise ValueError("`waveform` must have at least one sample. Received: shape=(0,)")
    return np.pad(waveform, (missing // 2, missing - missing // 2), mode="reflect")
