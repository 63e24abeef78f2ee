"""Determine the length of an mp3 file by counting its frames.

libsndfile decodes mp3 files with libmpg123. libmpg123 derives the length of a file from its first frame: from the
number of frames in the Xing header or, without a Xing header, from the bitrate. libmpg123 stops decoding at this
length. The length is too short if a file without a Xing header has a variable bitrate, or if several files were joined
into one. Therefore, `length` counts the frames, and `XingFile` gives libmpg123 a Xing header with the counted number.

Sources: ISO/IEC 11172-3 and 13818-3 define the frame header. The Xing header is a convention of encoders.
"""

import io
import mmap
import re
import struct
from typing import Any, NamedTuple

_MAX_FALSE_STARTS = 1 << 19  # counting stops after this number of bytes 0xFF that do not start a frame
# Bits of the frame header that are equal in all frames of a file: sync word, version, layer and sample rate.
_CONSTANT_BITS = 0xFFFE0C00
_VERSION_1, _LAYER_3 = 3, 1
# Bitrates in kbit/s. The index in a frame header starts at 1; the values 0 ("free") and 15 are not used.
_BITRATES = {
    True: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),  # MPEG 1
    False: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),  # MPEG 2 and 2.5
}
_SAMPLE_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # in Hz, by version


class Length(NamedTuple):
    """Counted length and stated length of an mp3 file.

    Attributes:
        start: position of the first frame in bytes. An ID3v2 tag or other data may precede it.
        counted: number of samples in all frames. `None` if the frames cannot be counted.
        stated: number of samples that the Xing header states. `None` if no Xing header states a number.
    """

    start: int
    counted: int | None
    stated: int | None


def length(path: str) -> Length:
    """Count the frames of an mp3 file.

    Args:
        path: a file that is not empty.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        start = position = _end_of_id3(data)
        constant_bits, frames, false_starts, stated = None, 0, 0, None
        while (position := data.find(b"\xff", position)) >= 0 and false_starts < _MAX_FALSE_STARTS:
            header = data[position : position + 4]
            size, samples = _parse_frame_header(header)
            bits = int.from_bytes(header, "big") & _CONSTANT_BITS
            end = position + size
            if constant_bits is None and size and _parse_frame_header(data[end : end + 4])[0]:  # two consecutive frames
                start, constant_bits = position, bits
                stated = _stated_frames(data[position:end])
                # A frame with a Xing header contains no audio.
                samples_of_frame, frames = samples, 0 if stated is None else -1
            if size and bits == constant_bits and end <= len(data):
                frames += 1
                position = end
            else:
                false_starts += 1
                position += 1
    if constant_bits is None or false_starts >= _MAX_FALSE_STARTS:
        return Length(start, None, None)
    return Length(start, frames * samples_of_frame, stated * samples_of_frame if stated else None)


class XingFile(io.RawIOBase):
    """Read-only mp3 file in which a Xing header replaces all data before the first frame.

    Args:
        path: path of the file.
        start: position of the first frame in bytes.
        sample_rate: in Hz.
        channels: 1 or 2.
        samples: the length that the Xing header states.
    """

    def __init__(self, path: str, start: int, sample_rate: int, channels: int, samples: int):
        super().__init__()
        self._head = _xing_frame(sample_rate, channels, samples)
        self._file = open(path, "rb")
        self._start, self._position = start, 0
        self._size = len(self._head) + self._file.seek(0, io.SEEK_END) - start

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = (0, self._position, self._size)[whence] + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        buffer = memoryview(buffer)
        if self._position < len(self._head):
            part = self._head[self._position : self._position + len(buffer)]
            buffer[: len(part)] = part
            count = len(part)
        else:
            self._file.seek(self._start + self._position - len(self._head))
            count = self._file.readinto(buffer)
        self._position += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _end_of_id3(data):
    """Return the size of the ID3v2 tag at the start of a file in bytes, or 0 if there is no tag."""
    head = data[:10]
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])  # four bytes of seven bits


def _parse_frame_header(header):
    """Parse a frame header of four bytes.

    Returns:
        tuple of the size in bytes and the number of samples of the frame, or `(0, 0)` if the header is not valid.
    """
    bits = int.from_bytes(header, "big")
    version, layer = bits >> 19 & 3, bits >> 17 & 3
    bitrate, rate, padding = bits >> 12 & 15, bits >> 10 & 3, bits >> 9 & 1
    if len(header) < 4 or bits >> 21 != 0x7FF or version == 1 or layer != _LAYER_3 or bitrate in (0, 15) or rate == 3:
        return 0, 0
    is_version_1 = version == _VERSION_1
    samples = 1152 if is_version_1 else 576
    return samples // 8 * _BITRATES[is_version_1][bitrate - 1] * 1000 // _SAMPLE_RATES[version][rate] + padding, samples


def _stated_frames(frame):
    """Return the number of frames that the Xing header in a frame states.

    Returns:
        int, 0 if the Xing header states no number, or `None` if the frame has no Xing header.
    """
    match = re.search(rb"(?:Xing|Info)\x00\x00\x00([\x00-\x0f])(.{4})", frame[:200], re.DOTALL)
    if not match:
        return None
    return int.from_bytes(match[2], "big") if match[1][0] & 1 else 0


def _xing_frame(sample_rate, channels, samples):
    """Return a frame of 128 kbit/s that contains a Xing header with the number of frames, and no audio."""
    version = next(version for version, rates in _SAMPLE_RATES.items() if sample_rate in rates)
    is_version_1 = version == _VERSION_1
    bitrate, rate = _BITRATES[is_version_1].index(128) + 1, _SAMPLE_RATES[version].index(sample_rate)
    mono = channels == 1
    header = 0xFFE10000 | version << 19 | _LAYER_3 << 17 | bitrate << 12 | rate << 10 | (3 if mono else 0) << 6
    size, samples_of_frame = _parse_frame_header(struct.pack(">I", header))
    side_information = bytes({(True, False): 32, (False, True): 9}.get((is_version_1, mono), 17))
    head = struct.pack(">I", header) + side_information + b"Info" + struct.pack(">II", 1, samples // samples_of_frame)
    return head.ljust(size, b"\x00")
