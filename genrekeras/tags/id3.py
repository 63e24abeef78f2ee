"""Replace the genre in the bytes of an ID3v2 tag. All other bytes of the tag stay as they are."""

import codecs
import re
import struct
from collections.abc import Sequence
from typing import NamedTuple

from genrekeras.tags.containers import ContainerError, from_synchsafe, synchsafe

_UNSYNCHRONISATION, _EXTENDED_HEADER, _FOOTER = 0x80, 0x40, 0x10  # flags of a tag
_FRAME_NAME = re.compile(rb"[A-Z0-9]{3}[A-Z0-9 \0]?")
_HEADER_SIZES = {2: 6, 3: 10, 4: 10}  # version -> bytes before the content of a frame
_PADDING = 1024  # bytes after the frames of a new tag


class _Frame(NamedTuple):
    """A frame of a tag: its name, and its bytes with the header."""

    name: bytes
    content: bytes


def new_tag(genres: Sequence[str], frames: bytes = b"") -> bytes:
    """Return an ID3v2.4 tag.

    Args:
        genres: its genres.
        frames: other frames of the tag.
    """
    body = frames + genre_frame(genres, 4) + bytes(_PADDING)
    return b"ID3\4\0\0" + synchsafe(len(body)) + body


def replace_genres(tag: bytes, genres: Sequence[str], is_read: bool) -> bytes:
    """Return an ID3v2 tag with other genres.

    The version of the tag, all other frames, their order, and the number of padding bytes stay as they are. The new
    frame takes the place of the first genre frame. If there is none, it comes after the last frame.

    Args:
        tag: ID3v2.2, ID3v2.3 or ID3v2.4 tag, from its header to its end.
        genres: the new genres.
        is_read: whether a genre could be read from the tag.

    Raises:
        ContainerError: the tag is damaged, contains a genre that could not be read, or has a property that is not
            supported.
    """
    version, flags = tag[3], tag[5]
    footer = b"3DI" if version == 4 and flags & _FOOTER else b""
    body = tag[10 : len(tag) - 10 if footer else len(tag)]
    if version < 4 and flags & _UNSYNCHRONISATION:
        # The decoded frames are written without unsynchronisation, so the flag is cleared. In ID3v2.4, each frame is
        # encoded separately. The UTF-8 text of the new frame contains no byte that needs the encoding.
        body, flags = body.replace(b"\xff\0", b"\xff"), flags & ~_UNSYNCHRONISATION
    if version == 2 and flags & _EXTENDED_HEADER:  # a flag with another meaning in this version
        raise ContainerError("its ID3v2.2 tag is compressed")
    start = _extended_header_size(body, version) if flags & _EXTENDED_HEADER else 0
    frames, padding = _split(body[start:], version)
    name = b"TCO" if version == 2 else b"TCON"
    position = next((index for index, frame in enumerate(frames) if frame.name == name), len(frames))
    if not is_read and any(frame.name == name and frame.content[_HEADER_SIZES[version] + 1 :] for frame in frames):
        raise ContainerError("its genre cannot be read, because it is compressed, encrypted or damaged")
    kept = [frame.content for frame in frames if frame.name != name]
    # No frame before `position` has this name, so `position` is valid in `kept` too.
    kept.insert(position, genre_frame(genres, version))
    body = body[:start] + b"".join(kept) + padding
    header = bytes([version, tag[4], flags]) + synchsafe(len(body))
    return b"ID3" + header + body + (footer + header if footer else b"")


def genre_frame(genres: Sequence[str], version: int) -> bytes:
    """Return a genre frame with one value for each genre.

    Args:
        genres: the genres.
        version: 2, 3 or 4 for ID3v2.2, ID3v2.3 or ID3v2.4.
    """
    text = "\0".join(genres)
    if version == 4:
        content = b"\3" + text.encode("utf-8")
        return b"TCON" + synchsafe(len(content)) + b"\0\0" + content
    try:
        content = b"\0" + text.encode("latin-1")
    except UnicodeEncodeError:
        encoded = (codecs.BOM_UTF16_LE + genre.encode("utf-16-le") for genre in genres)
        content = b"\1" + b"\0\0".join(encoded)
    size = struct.pack(">I", len(content))
    return b"TCO" + size[1:] + content if version == 2 else b"TCON" + size + b"\0\0" + content


def _extended_header_size(body, version):
    """Return the size of the extended header at the start of the body of a tag."""
    if _FRAME_NAME.fullmatch(body[:4]):  # iTunes sets the flag without an extended header.
        return 0
    if version == 3:
        size, has_checksum = 4 + int.from_bytes(body[:4], "big"), body[4:5] >= b"\x80"
    else:
        size, has_checksum = from_synchsafe(body[:4]), bool(body[5:6] and body[5] & 0x20)
    if has_checksum or not 6 <= size <= len(body):
        raise ContainerError("its ID3 tag has an extended header that is damaged or contains a checksum")
    return size


def _split(body, version):
    """Return the frames in the body of a tag, and the padding after them."""
    # Old versions of iTunes write sizes in ID3v2.4 tags as plain integers.
    for to_size in (from_synchsafe, _plain_size) if version == 4 else (_plain_size,):
        if (result := _walk(body, version, to_size)) is not None:
            return result
    raise ContainerError("its ID3 tag is damaged: the sizes of its frames are wrong")


def _plain_size(content):
    return int.from_bytes(content, "big")


def _walk(body, version, to_size):
    """Return the frames and the padding like `_split`, or `None` if the sizes are wrong.

    Args:
        body: bytes.
        version: see `genre_frame`.
        to_size: function from the bytes of a size to the size.
    """
    width, header = 3 if version == 2 else 4, _HEADER_SIZES[version]  # bytes of a name and of a size; of both and flags
    frames, start = [], 0
    while start + header <= len(body) and body[start]:
        name = body[start : start + width]
        stop = start + header + to_size(body[start + width : start + 2 * width])
        if not _FRAME_NAME.fullmatch(name) or stop > len(body):
            return None
        frames.append(_Frame(name, body[start:stop]))
        start = stop
    return None if any(body[start:]) else (frames, body[start:])
