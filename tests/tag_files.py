"""Audio files with tags, and what a new genre must not change in them."""

import contextlib
import hashlib
import os
import struct
import subprocess

import mutagen
import pytest
from conftest import write_sine
from genrekeras import tags
from mutagen.flac import FLAC
from mutagen.id3 import ID3

KINDS = ("mp3", "flac", "ogg", "wav", "aiff")  # that soundfile writes
ID3V1 = b"TAG" + b"Title".ljust(30, b" ") + b"Artist".ljust(93, b"\0") + b"\x07\x11"


def id3(version, frames, flags=0, padding=50):
    """Return an ID3v2 tag."""
    body = b"".join(frames) + bytes(padding)
    return b"ID3" + bytes([version, 0, flags]) + synchsafe(len(body)) + body


def synchsafe(number):
    return bytes([number >> shift & 127 for shift in (21, 14, 7, 0)])


def frame(version, name, data, flags=0):
    """Return a frame of an ID3v2 tag."""
    if version == 2:
        return name + struct.pack(">I", len(data))[1:] + data
    size = synchsafe(len(data)) if version == 4 else struct.pack(">I", len(data))
    return name + size + struct.pack(">H", flags) + data


def frames_of(data):
    """Return the version of an ID3v2 tag, its frames as bytes but for the genre, and what follows the tag."""
    end = 10 + sum(byte << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))
    width = 3 if data[3] == 2 else 4
    frames, at = [], 10
    while at < end and data[at]:
        size = data[at + width : at + 2 * width]
        bits = 7 if data[3] == 4 else 8
        length = (6 if width == 3 else 10) + sum(byte << bits * (width - 1 - i) for i, byte in enumerate(size))
        frames.append(data[at : at + length])
        at += length
    return data[3], [each for each in frames if each[:3] != b"TCO"], data[end:]


def mp3(path, tag, end=b""):
    """Write an mp3 file with a tag at its start, and bytes at its end."""
    write_sine(path, 440, seconds=0.3)
    path.write_bytes(tag + path.read_bytes() + end)
    return path


def stream_hash(path):
    """Return a hash of the encoded audio packets, computed by ffmpeg, which must be on the PATH."""
    command = ["ffmpeg", "-v", "error", "-i", path, "-map", "0:a", "-c", "copy", "-f", "hash", "-hash", "sha256", "-"]
    return subprocess.run(list(map(str, command)), check=True, capture_output=True).stdout


def other_tags(path):
    """Return all tags and pictures of a file except the genre, as mutagen reads them."""
    file = mutagen.File(path)
    if file.tags is None:
        return None
    if isinstance(file.tags, ID3):
        return {key: repr(frame) for key, frame in file.tags.items() if key != "TCON"}
    genres = ("genre", "\xa9gen", "wm/genre")
    pictures = [picture.write() for picture in file.pictures] if isinstance(file, FLAC) else []
    return {key: repr(file.tags[key]) for key in file.tags.keys() if key.lower() not in genres}, pictures


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextlib.contextmanager
def refused(path, match):
    """Expect a `TagError` that names the file. The file must not change, and no file may be added."""
    before, names = path.read_bytes(), os.listdir(path.parent)
    with pytest.raises(tags.TagError, match=match) as caught:
        yield
    assert caught.value.path == str(path) and caught.value.reason in str(caught.value)
    assert path.read_bytes() == before and os.listdir(path.parent) == names
