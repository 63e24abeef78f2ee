"""Write genres into a copy of an audio file, one function for each format of tags."""

import io
import shutil
import struct
from collections.abc import Callable, Sequence
from typing import BinaryIO

import mutagen
from genrekeras.tags import asf, id3
from genrekeras.tags.containers import (
    ContainerError,
    ape_tag,
    blocks,
    flac_blocks,
    id3_stop,
    iff_chunks,
    read_part,
    size_of,
    tail_start,
)
from genrekeras.tags.fingerprint import FLAC_COMMENTS
from genrekeras.tags.reading import ape_values, key
from genrekeras.version import __version__
from mutagen.aiff import AIFF
from mutagen.apev2 import APEv2File
from mutagen.asf import ASF
from mutagen.flac import FLAC
from mutagen.id3 import ID3, TALB, TDRC, TIT2, TPE1, TPE2, TRCK
from mutagen.mp3 import MP3
from mutagen.mp4 import MP4, Atoms, MP4Tags
from mutagen.ogg import OggFileType, OggPage
from mutagen.wave import WAVE

_UTF8 = 1  # type of text in MP4 files
_APE_TAG = struct.Struct("<8s4I8x")  # magic, version, size, number of items, flags
_APE_HEADER, _APE_FOOTER = 0xA0000000, 0x80000000  # flags: the tag has a header; this is the header
# item of an APEv2 tag -> frame of an ID3 tag
_COPIED = {"Title": TIT2, "Artist": TPE1, "Album": TALB, "Album Artist": TPE2, "Track": TRCK, "Year": TDRC}
Splice = tuple[int, int, bytes]  # start and end of a part of a file, and the bytes that replace it


def write_copy(opened: mutagen.FileType, target: str, genres: Sequence[str]) -> None:
    """Write genres into a copy of a file.

    Args:
        opened: the file, see `genrekeras.tags.reading.open_tags`.
        target: path of the copy, an empty file.
        genres: the genres.

    Raises:
        ContainerError: the file is damaged, or has a property that is not supported.
        mutagen.MutagenError: the file is damaged.
    """
    for file_type, rewrite in ((MP4, _mp4), (OggFileType, _ogg)):
        if isinstance(opened, file_type):
            shutil.copyfile(str(opened.filename), target)
            rewrite(opened, target, genres)
            return
    edit = next(function for file_type, function in _EDITS.items() if isinstance(opened, file_type))
    with open(str(opened.filename), "rb") as file:
        position = 0
        with open(target, "wb") as copy:
            for start, stop, content in edit(opened, file, genres):
                for block in blocks(file, position, start):
                    copy.write(block)
                copy.write(content)
                position = stop
            for block in blocks(file, position):
                copy.write(block)


# These functions return the parts of a file that are replaced, in the order of their offsets.


def _mp3(opened: MP3, file: BinaryIO, genres: Sequence[str]) -> list[Splice]:
    stop = id3_stop(file)
    if stop:
        return [(0, stop, id3.replace_genres(read_part(file, 0, stop), genres, bool(opened.tags)))]
    if read_part(file, 0, 3) == b"ID3":
        raise ContainerError("its ID3 tag is damaged, or has a version that is not supported")
    # Many programs read only the new tag, so it gets the fields of an ID3v1 or APEv2 tag.
    fields = opened.tags if isinstance(opened.tags, ID3) else ID3()
    fields.delall("TCON")
    for item, frame in _COPIED.items():
        if texts := ape_values(str(opened.filename), item):
            fields.setall(frame.__name__, [frame(encoding=3, text=texts)])
    tag = io.BytesIO()
    fields.save(tag, padding=lambda info: 0)
    return [(0, 0, id3.new_tag(genres, tag.getvalue()[10:]))]


def _flac(opened, file, genres):
    metadata = flac_blocks(file)
    comments = next((block for block in metadata if block.name == FLAC_COMMENTS), None)
    if comments:
        content = _replace_comments(read_part(file, comments.data, comments.stop), genres)
        start, stop = comments.data - 3, comments.stop
        return [(start, stop, _flac_size(content) + content)]
    content = _replace_comments(_new_comments(), genres)
    first = metadata[0]
    is_last = read_part(file, first.start, first.start + 1)[0] & 0x80
    block = bytes([FLAC_COMMENTS[0] | is_last]) + _flac_size(content) + content
    return [(first.start, first.start + 1, first.name), (first.stop, first.stop, block)]


def _iff(opened, file, genres):
    root, chunks, order = iff_chunks(file)
    size = size_of(file)
    tagged = [chunk for chunk in chunks if chunk.name.lower() == b"id3 "]
    if len(tagged) > 1:
        raise ContainerError("it has several ID3 tags")
    if not tagged:
        start = stop = min(root.stop + root.stop % 2, size)
        name, tag = b"id3 " if root.name == b"RIFF" else b"ID3 ", id3.new_tag(genres)
    else:
        [chunk] = tagged
        name, start, stop = chunk.name, chunk.start, min(chunk.stop + (chunk.stop - chunk.data) % 2, size)
        tag_stop = id3_stop(file, chunk.data, chunk.stop)
        if tag_stop == chunk.data:
            raise ContainerError("its ID3 tag is damaged, or has a version that is not supported")
        tag = id3.replace_genres(read_part(file, chunk.data, tag_stop), genres, bool(opened.tags))
        tag += read_part(file, tag_stop, chunk.stop)
    # A chunk starts at an even offset.
    content = bytes(start % 2) + struct.pack(f"{order}4sI", name, len(tag)) + tag + bytes(len(tag) % 2)
    new_stop = start + len(content) + max(0, root.stop - stop)
    return [(4, 8, struct.pack(f"{order}I", new_stop - 8)), (start, stop, content)]


def _ape(opened, file, genres):
    tag = ape_tag(file)
    start, stop = tag if tag else (tail_start(file),) * 2
    content = read_part(file, start, stop)
    items, position = [], 0
    if tag:
        _, _, size, count, _ = _APE_TAG.unpack(content[-_APE_TAG.size :])
        content = content[len(content) - size : -_APE_TAG.size]
        for _ in range(count):
            length = int.from_bytes(content[position : position + 4], "little")
            name, separator, _ = content[position + 8 :].partition(b"\0")
            end = position + 8 + len(name) + 1 + length
            if not separator or end > len(content):
                raise ContainerError("its APEv2 tag is damaged")
            items.append((name, content[position:end]))
            position = end
    value = "\0".join(genres).encode("utf-8")
    genre = struct.pack("<2I", len(value), 0) + key(opened, "genre").encode() + b"\0" + value
    kept = [item for name, item in items if name.lower() != b"genre"]
    first = next((index for index, (name, _) in enumerate(items) if name.lower() == b"genre"), len(kept))
    kept.insert(first, genre)
    body = b"".join(kept)
    header, footer = (
        _APE_TAG.pack(b"APETAGEX", 2000, len(body) + _APE_TAG.size, len(kept), flags)
        for flags in (_APE_HEADER, _APE_FOOTER)
    )
    return [(start, stop, header + body + footer)]


def _asf(opened, file, genres):
    stop = int.from_bytes(read_part(file, 16, 24), "little")
    return [(0, stop, asf.replace_genres(read_part(file, 0, stop), genres))]


_EDITS: dict[type, Callable] = {MP3: _mp3, FLAC: _flac, WAVE: _iff, AIFF: _iff, APEv2File: _ape, ASF: _asf}


# These functions change the copy.


def _ogg(opened, target, genres):
    with open(target, "r+b") as file:
        page = OggPage(file)
        while not page.packets[0].startswith((b"\1vorbis", b"OpusHead", b"\x7fFLAC")):
            page = OggPage(file)
        serial, magic, pages = page.serial, page.packets[0][:5], []
        while not (pages and (pages[-1].complete or len(pages[-1].packets) > 1)):
            page = OggPage(file)
            if page.serial == serial:
                pages.append(page)
        packets = OggPage.to_packets(pages)
        # The comments follow "\3vorbis", "OpusTags", or the four bytes of the header of a FLAC block.
        start = {b"\1vorb": 7, b"OpusH": 8, b"\x7fFLAC": 4}[magic]
        head, comments = packets[0][:start], _replace_comments(packets[0][start:], genres)
        if magic == b"\x7fFLAC":
            head = head[:1] + _flac_size(comments)
        packets[0] = head + comments
        OggPage.replace(file, pages, OggPage.from_packets(packets, pages[0].sequence))


def _mp4(opened, target, genres):
    """Write the genre atom after the other atoms, which mutagen writes unchanged because it does not parse them."""
    tags = MP4Tags()
    name = key(opened, "genre").encode("latin-1")
    with open(target, "rb") as file:
        atoms = Atoms(file)
        try:
            children = atoms.path(b"moov", b"udta", b"meta", b"ilst")[-1].children or []
        except KeyError:
            children = []
        for atom in children:
            if atom.name != name:
                content = read_part(file, atom.offset + 8, atom.offset + atom.length)
                tags._failed_atoms.setdefault(atom.name.decode("latin-1"), []).append(content)
    texts = (genre.encode("utf-8") for genre in genres)
    data = (struct.pack(">I4s2I", 16 + len(text), b"data", _UTF8, 0) + text for text in texts)
    tags._failed_atoms[name.decode("latin-1")] = [b"".join(data)]
    tags.save(target)


def _new_comments():
    vendor = f"genrekeras {__version__}".encode()
    return struct.pack("<I", len(vendor)) + vendor + bytes(4)


def _flac_size(content):
    if len(content) >= 1 << 24:
        raise ContainerError("its Vorbis comments are too large")
    return len(content).to_bytes(3, "big")


def _replace_comments(content: bytes, genres: Sequence[str]) -> bytes:
    """Return Vorbis comments with other genres. The other comments keep their bytes and their order.

    Args:
        content: Vorbis comments: vendor, number of comments, comments. Other bytes may follow.
        genres: the genres.
    """
    position = 4 + int.from_bytes(content[:4], "little")
    count = int.from_bytes(content[position : position + 4], "little")
    head, position = content[:position], position + 4
    entries: list[bytes] = []
    first = None
    for _ in range(count):
        stop = position + 4 + int.from_bytes(content[position : position + 4], "little")
        if stop > len(content):
            raise ContainerError("its Vorbis comments are damaged")
        if content[position + 4 : stop].lower().startswith(b"genre="):
            first = len(entries) if first is None else first
        else:
            entries.append(content[position:stop])
        position = stop
    comments = (b"GENRE=" + genre.encode("utf-8") for genre in genres)
    first = len(entries) if first is None else first
    entries[first:first] = [struct.pack("<I", len(comment)) + comment for comment in comments]
    return head + struct.pack("<I", len(entries)) + b"".join(entries) + content[position:]
