"""Hashes of everything in an audio file that a new genre must not change: the audio stream and the other metadata."""

import bisect
import hashlib
import struct
from collections.abc import Callable, Iterable
from typing import BinaryIO, NamedTuple

import mutagen
from genrekeras.tags import asf
from genrekeras.tags.containers import (
    ContainerError,
    Part,
    ape_tag,
    blocks,
    flac_blocks,
    id3_stop,
    iff_chunks,
    mp4_atoms,
    ogg_pages,
    read_part,
    size_of,
    tail_start,
)
from mutagen.aiff import AIFF
from mutagen.apev2 import APEv2File
from mutagen.asf import ASF
from mutagen.flac import FLAC
from mutagen.mp3 import MP3
from mutagen.mp4 import MP4
from mutagen.ogg import OggFileType
from mutagen.wave import WAVE

FLAC_PADDING, FLAC_COMMENTS = b"\1", b"\4"  # types of metadata blocks
_OTHER_CONTAINERS = (b"RIFF", b"FORM", b"OggS", b"fLaC", b"APET", b"\x30\x26\xb2\x75")
_MP4_PARENTS = {b"moov", b"udta", b"trak", b"mdia", b"minf", b"stbl", b"meta", b"ilst"}
_NO_GRANULE = -1  # granule position of an Ogg page on which no packet ends
# Objects of an ASF header that contain attributes, or padding
_ASF_ATTRIBUTES = (asf.EXTENDED_CONTENT_DESCRIPTION, asf.HEADER_EXTENSION)


class Fingerprint(NamedTuple):
    """Hashes of the parts of an audio file that do not depend on the genre.

    Attributes:
        audio: SHA-256 of the encoded audio, as hexadecimal digits.
        others: names and SHA-256 of the other parts except padding and the tag that contains the genre.
    """

    audio: str
    others: list[tuple[str, str]]


def fingerprint(opened: mutagen.FileType) -> Fingerprint:
    """Return the `Fingerprint` of a file.

    Args:
        opened: result of `genrekeras.tags.reading.open_tags`.

    Raises:
        ContainerError: the sizes in the file contradict each other, or the file has another format than its tags.
    """
    function = next(function for file_type, function in _FUNCTIONS.items() if isinstance(opened, file_type))
    audio = hashlib.sha256()
    with open(str(opened.filename), "rb") as file:
        others = [(name, hashlib.sha256(content).hexdigest()) for name, content in function(file, audio.update)]
    return Fingerprint(audio.hexdigest(), others)


# The functions below receive a binary file and a function that hashes audio, and yield pairs (name, content) of other
# parts.


def _mp3(file: BinaryIO, add_audio: Callable[[bytes], None]) -> Iterable[tuple[str, bytes]]:
    start, stop = id3_stop(file), tail_start(file)
    if read_part(file, start, min(start + 4, size_of(file))) in _OTHER_CONTAINERS:
        raise ContainerError("it is not an mp3 file")
    yield from _audio_and_tail(file, start, max(start, stop), add_audio)


def _ape(file, add_audio):
    tag = ape_tag(file)
    start, stop = tag if tag else (tail_start(file),) * 2
    for block in blocks(file, 0, start):
        add_audio(block)
    yield "end", read_part(file, stop, size_of(file))


def _flac(file, add_audio):
    metadata = flac_blocks(file)
    yield "start", read_part(file, 0, metadata[0].start)
    for block in metadata:
        if block.name not in (FLAC_COMMENTS, FLAC_PADDING):
            yield f"block {block.name[0]}", read_part(file, block.data, block.stop)
    yield from _audio_and_tail(file, metadata[-1].stop, size_of(file), add_audio)


def _ogg(file, add_audio):
    """Hash the packets of the first music stream but its comment packet, and the pages of other streams."""
    serial, packet, starts_audio = None, 0, False
    for part, page_serial, granule, flags, content in ogg_pages(file):
        if serial is None and content.startswith((b"\1vorbis", b"OpusHead", b"\x7fFLAC")):
            serial = page_serial
        if page_serial != serial:
            add_audio(struct.pack("<IqB", page_serial, granule, flags) + part.name + content)
            continue
        starts_audio = starts_audio or granule not in (0, _NO_GRANULE)
        if starts_audio:
            add_audio(struct.pack("<qB", granule, flags) + part.name + content)
            continue
        # Pages of headers may be divided in another way. Packets end with a segment of fewer than 255 bytes.
        position = 0
        for size in part.name:
            if packet != 1:
                add_audio(content[position : position + size])
            position += size
            if size < 255:
                packet += 1
                add_audio(b"packet")
    return ()


def _iff(file, add_audio):
    root, chunks, _ = iff_chunks(file)
    yield "type", read_part(file, 8, 12)
    for chunk in chunks:
        if chunk.name in (b"data", b"SSND"):
            for block in blocks(file, chunk.data, chunk.stop):
                add_audio(block)
            yield "audio", chunk.name
        elif chunk.name.lower() != b"id3 ":
            yield chunk.name.decode("latin-1"), read_part(file, chunk.data, chunk.stop)
    yield "end", read_part(file, min(root.stop + root.stop % 2, size_of(file)), size_of(file))


def _asf(file, add_audio):
    stop = int.from_bytes(read_part(file, 16, 24), "little")
    header = read_part(file, 0, stop)
    if header[:16] != asf.HEADER:
        raise ContainerError("it is not an ASF file")
    for guid, content in asf.objects(header[asf.HEADER_SIZE :]):
        if guid not in _ASF_ATTRIBUTES:
            yield guid.hex(), content
    for block in blocks(file, stop):
        add_audio(block)


def _mp4(file, add_audio):
    size = size_of(file)
    top = mp4_atoms(file, 0, size)
    media = [atom for atom in top if atom.name == b"mdat"]
    for atom in media:
        for block in blocks(file, atom.data, atom.stop):
            add_audio(block)
    for atom in top:
        if atom.name == b"moof":
            raise ContainerError("it is a fragmented MP4 file. Convert it with ffmpeg -c copy first")
        if atom.name == b"moov":
            yield from sorted(_mp4_leaves(file, atom, "moov", [part.start for part in media]))
        elif atom.name != b"mdat":
            yield atom.name.decode("latin-1"), read_part(file, atom.start, atom.stop)


def _mp4_leaves(file: BinaryIO, atom: Part, path: str, media: list[int]) -> Iterable[tuple[str, bytes]]:
    """Yield the path and the content of the atoms in an atom. `media` contains the offsets of the audio."""
    if path == "moov/udta/meta/ilst/\xa9gen" or atom.name in (b"free", b"skip"):
        return
    if atom.name in _MP4_PARENTS and "ilst/" not in path:
        # In MP4, a version precedes the atoms in `meta`. In QuickTime files, it does not.
        has_version = atom.name == b"meta" and read_part(file, atom.data + 4, atom.data + 8) != b"hdlr"
        for child in mp4_atoms(file, atom.data + 4 * has_version, atom.stop):
            yield from _mp4_leaves(file, child, f"{path}/{child.name.decode('latin-1')}", media)
    elif atom.name in (b"stco", b"co64"):
        content = read_part(file, atom.data, atom.stop)
        width = 4 if atom.name == b"stco" else 8
        offsets = [int.from_bytes(content[at : at + width], "big") for at in range(8, len(content), width)]
        places = [bisect.bisect_right(media, offset) - 1 for offset in offsets]
        relative = [(place, offset - media[place]) for place, offset in zip(places, offsets, strict=True) if media]
        yield path, content[:8] + repr(relative).encode()
    elif not path.endswith("udta/meta/hdlr"):  # It is added with the first tag.
        yield path, read_part(file, atom.data, atom.stop)


def _audio_and_tail(file, start, stop, add_audio):
    """Hash the audio between two offsets, and yield what follows."""
    for block in blocks(file, start, stop):
        add_audio(block)
    yield "end", read_part(file, stop, size_of(file))


_FUNCTIONS = {
    MP3: _mp3,
    FLAC: _flac,
    OggFileType: _ogg,
    MP4: _mp4,
    ASF: _asf,
    WAVE: _iff,
    AIFF: _iff,
    APEv2File: _ape,
}
