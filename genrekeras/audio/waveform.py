"""Read audio files, or parts of them, as mono waveforms at a given sample rate."""

import dataclasses
import functools
import hashlib
import math
import os
import warnings

import numpy as np
import soxr
from genrekeras.audio.decoders import BLOCK, AudioError, FileProblem, open_decoder

# Extensions by which audio files are found in a folder.
EXTENSIONS = frozenset(
    ".mp3 .wav .flac .ogg .oga .opus .aiff .aif .aifc .au .snd .caf .w64 .rf64 .wve .mp2 .mp1 "
    ".m4a .m4b .aac .mp4 .wma .ape .wv .mpc .alac .ra .mka .webm .amr .dsf .dff .tta .tak .ac3".split()
)
# soxr's HQ filter reaches 128 samples, at the lower of the two rates, to each side. With this margin at each side, a
# resampled part equals the same part of the resampled whole file to 5e-7.
_MARGIN_SAMPLES = 512
# A smaller difference from the stated length causes no warning: this length is often an estimate, and it includes the
# padding that encoders add at both ends.
_MISSING_SECONDS, _MISSING_SHARE = 1.0, 0.01


class AudioWarning(FileProblem, UserWarning):
    """Warning about a file that is damaged, or shorter than its header states.

    Attributes:
        path: str, the file.
        reason: str, what is wrong with the file.
    """


class AudioFile:
    """An open audio file that is read in parts; a context manager.

    Parts in ascending order are decoded in one pass, in blocks: the time is at most proportional to the length of the
    file, and the memory to the length of a part.

    Args:
        path: str or path-like, a file that libsndfile reads (mp3, wav, flac, ogg, aiff, ...), or that an installed
            ffmpeg reads (m4a, aac, wma, mp4, ...). The file extension does not matter.
        sample_rate: int > 0, in Hz, of the waveforms.

    Attributes:
        path, sample_rate: the arguments.
        warning: str, what is wrong with the part of the file that was read so far; `None` if nothing is.

    Raises:
        AudioError: the file is missing, empty, or not audio.
        ValueError: `sample_rate` is out of range.
    """

    def __init__(self, path, sample_rate=22050):
        if int(sample_rate) != sample_rate or sample_rate <= 0:
            raise ValueError(f"`sample_rate` must be a positive integer, in Hz. Received: sample_rate={sample_rate}")
        self.path = os.fspath(path)
        self.sample_rate = int(sample_rate)
        self.warning = None
        self._decoder = open_decoder(path)
        # Samples that were decoded last, and the position of the first of them.
        self._kept, self._kept_start = np.zeros(0, "float32"), 0
        self._end = 0  # position after the last decoded sample

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._decoder.close()

    @functools.cached_property
    def seconds(self):
        """Length of the file in seconds.

        It is the length that the header states until the end is reached, and the decoded length after that. If the
        header states no length, the file is decoded once to determine it.
        """
        if self._decoder.samples is not None:
            return self._decoder.samples / self._decoder.sample_rate
        with open_decoder(self.path) as decoder:
            while len(decoder.read(BLOCK)):
                pass
            return decoder.position / decoder.sample_rate

    def read(self, offset=0.0, duration=None):
        """Return a part of the file.

        Args:
            offset: float >= 0, in seconds, start of the part.
            duration: float > 0, in seconds; `None` reads to the end of the file.

        Returns:
            `(samples,)` float32; shorter than `duration`, or empty, if the file ends earlier.

        Raises:
            AudioError: samples are not finite or exceed 1e9 in magnitude.
            ValueError: an argument is out of range.
        """
        if not (math.isfinite(offset) and offset >= 0):
            raise ValueError(f"`offset` must be >= 0, in seconds. Received: offset={offset}")
        if duration is not None and not (math.isfinite(duration) and duration > 0):
            raise ValueError(f"`duration` must be > 0, in seconds, or None. Received: duration={duration}")
        file_rate = self._decoder.sample_rate
        # The sampling times before and after resampling coincide every `step_in` and `step_out` samples. Decoding
        # starts at such a time.
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
        """Return mono samples from `start` to `stop`, at the file's own rate; fewer if the file ends earlier."""
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
        if len(samples) or decoder.position == decoder.samples:  # otherwise the file may end before `start`
            self._end = max(self._end, decoder.position)
        self._kept_start, self._kept = start, samples
        return samples if stop is None else samples[: stop - start]

    def _check_length(self, stop):
        """Correct the length and set the warning if the file ended before `stop`."""
        stated, rate, end = self._decoder.stated_samples, self._decoder.sample_rate, self._end
        if stop is not None and end >= stop:
            return
        self.seconds = end / rate
        if self._decoder.is_damaged:
            self.warning = f"damaged: cannot be decoded after {self.seconds:.1f} s"
        elif self._decoder.is_chained:
            self.warning = "only the first of several streams is decoded; ffmpeg, which decodes all, is not installed"
        elif stated == math.inf:
            self.warning = f"cut short: there is no end mark after {self.seconds:.1f} s"
        elif stated is not None:
            missing = (stated if stop is None else min(stop, stated)) - end
            if missing > max(_MISSING_SECONDS * rate, _MISSING_SHARE * stated):
                self.warning = f"cut short: only {self.seconds:.1f} s of {stated / rate:.1f} s can be decoded"


def load(path, sample_rate=22050, offset=0.0, duration=None):
    """Load a file as a mono waveform.

    Channels are averaged. Only the requested part is decoded, with a margin at each side for the resampling, so that it
    equals the same part of the whole file. Ogg Vorbis files, files without a stated length and files that ffmpeg reads
    are decoded from their start. Issues an `AudioWarning` if the file is damaged, or clearly shorter than its header
    states.

    Args:
        path: str or path-like, as for `AudioFile`.
        sample_rate: int > 0, in Hz, of the result.
        offset: float >= 0, in seconds, start of the part.
        duration: float > 0, in seconds, or `None` to read to the end of the file. If the file ends earlier, the
            waveform is shorter (`to_length` pads it).

    Returns:
        `(samples,)` float32, nominally in [-1, 1]: lossy formats may overshoot, and nothing is clipped.

    Raises:
        AudioError: the file is missing, empty, not audio, has no samples at `offset`, or contains samples that are
            not finite or exceed 1e9 in magnitude.
        ValueError: an argument is out of range.
    """
    waveform, warning = decode(path, sample_rate, offset, duration)
    if warning:
        warnings.warn(AudioWarning(path, warning), stacklevel=2)
    return waveform


def decode(path, sample_rate=22050, offset=0.0, duration=None):
    """Load a waveform as `load` does, and return it with the text of the warning or `None`; for use in threads."""
    with AudioFile(path, sample_rate) as file:
        waveform = file.read(offset, duration)
        if len(waveform) == 0:
            where = f"at {offset:g} s: the file ends at {file.seconds:.2f} s" if offset else "in the file"
            raise AudioError(path, f"no samples {where}")
        return waveform, file.warning


@dataclasses.dataclass(frozen=True)
class Info:
    """Sample rate, channels and length of a file.

    Attributes:
        sample_rate: int, in Hz.
        channels: int.
        seconds: float.
    """

    sample_rate: int
    channels: int
    seconds: float


def info(path):
    """Return the `Info` of a file.

    The file is decoded only if its header states no length.

    Raises:
        AudioError: the file is missing, empty, or not audio.
    """
    with AudioFile(path) as file:
        return Info(file._decoder.sample_rate, file._decoder.channels, file.seconds)


def checksum(path):
    """Return a hash of the decoded samples, the sample rate and the number of channels of a file.

    The hash does not depend on the tags of the file.

    Args:
        path: str or path-like, as for `AudioFile`.

    Returns:
        str, 32 hexadecimal digits.

    Raises:
        AudioError: the file is missing, empty, not audio, or nothing in it can be decoded.
    """
    with open_decoder(path) as decoder:
        content = hashlib.blake2b(f"{decoder.sample_rate} {decoder.channels}".encode(), digest_size=16)
        while len(block := decoder.read(BLOCK)):
            content.update(block)
        if decoder.position == 0:
            raise AudioError(path, "no samples: nothing can be decoded")
        return content.hexdigest()


def is_sane(waveform):
    """Return whether all samples are finite and at most 1e9 in magnitude, so that their power spectrum is finite."""
    return bool(np.abs(waveform).max(initial=0.0) <= 1e9)  # NaN compares false


def to_length(waveform, samples):
    """Trim or pad a waveform to a given length.

    A longer waveform is cut at its end. A shorter one is padded by reflection, equally at both ends (one sample more at
    the end if the number of missing samples is odd), repeatedly if necessary. The original system does the same.

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
