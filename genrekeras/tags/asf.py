"""Replace the genre in the bytes of the header of an ASF file (wma). All other attributes stay as they are.

As the specification requires, the first value of an attribute is in the extended content description, and further
values are in the metadata library.
"""

import struct
import uuid
from collections.abc import Callable, Sequence

from genrekeras.tags.containers import ContainerError

HEADER, EXTENDED_CONTENT_DESCRIPTION, HEADER_EXTENSION, METADATA, METADATA_LIBRARY = (
    uuid.UUID(guid).bytes_le
    for guid in (
        "75B22630-668E-11CF-A6D9-00AA0062CE6C",
        "D2D0A440-E307-11D2-97F0-00A0C95EA850",
        "5FBF03B5-A92E-11CF-8EE3-00C00C205365",
        "C5F8CBEA-5BAF-4877-8467-AA8C44FA4CCA",
        "44231C94-9498-49D1-A141-1D134E457054",
    )
)
_RESERVED = uuid.UUID("ABD3D211-A9BA-11CF-8EE6-00C00C205365").bytes_le + b"\6\0"  # in each header extension
HEADER_SIZE = 30  # bytes before the objects in the header
_EXTENSION_SIZE = 22  # bytes before the objects in the header extension


def objects(content: bytes) -> list[tuple[bytes, bytes]]:
    """Return the objects in a part of a header: pairs of the GUID and the content of an object."""
    found, start = [], 0
    while start < len(content):
        guid, size = content[start : start + 16], int.from_bytes(content[start + 16 : start + 24], "little")
        if size < 24 or start + size > len(content):
            raise ContainerError("the sizes in its header are wrong")
        found.append((guid, content[start + 24 : start + size]))
        start += size
    return found


def replace_genres(header: bytes, genres: Sequence[str]) -> bytes:
    """Return the header of an ASF file with other genres.

    Args:
        header: the header object, from the start of the file to the data object.
        genres: the genres.

    Raises:
        ContainerError: the header is damaged.
    """
    found = objects(header[HEADER_SIZE:])
    _ensure(found, EXTENDED_CONTENT_DESCRIPTION, bytes(2))
    _ensure(found, HEADER_EXTENSION, _RESERVED + bytes(4))
    first, *others = map(_text, genres)
    descriptor = struct.pack("<H", len(_NAME)) + _NAME + struct.pack("<2H", 0, len(first)) + first
    records = [struct.pack("<4HI", 0, 0, len(_NAME), 0, len(text)) + _NAME + text for text in others]
    parts = []
    for guid, content in found:
        if guid == EXTENDED_CONTENT_DESCRIPTION:
            content = _replace(content, _descriptor_size, [descriptor])
        elif guid == HEADER_EXTENSION:
            content = _replace_in_extension(content, records)
        parts.append(_object(guid, content))
    body = b"".join(parts)
    return HEADER + struct.pack("<QI", HEADER_SIZE + len(body), len(parts)) + header[28:HEADER_SIZE] + body


def _replace_in_extension(content, records):
    """Return the content of a header extension with other genres in its metadata objects."""
    found = objects(content[_EXTENSION_SIZE:])
    if records:
        _ensure(found, METADATA_LIBRARY, bytes(2))
    parts = []
    for guid, part in found:
        if guid in (METADATA, METADATA_LIBRARY):
            part = _replace(part, _record_size, records if guid == METADATA_LIBRARY else [])
        parts.append(_object(guid, part))
    body = b"".join(parts)
    return content[: _EXTENSION_SIZE - 4] + struct.pack("<I", len(body)) + body


def _replace(content: bytes, size_of: Callable[[bytes], tuple[int, bytes]], new: list[bytes]) -> bytes:
    """Return a list of attributes without the genre, followed by new attributes.

    Args:
        content: number of attributes, and attributes.
        size_of: function that returns the size and the name of the attribute at the start of some bytes.
        new: new attributes.
    """
    position, kept = 2, []
    for _ in range(int.from_bytes(content[:2], "little")):
        try:
            size, name = size_of(content[position:])
        except struct.error as error:
            raise ContainerError("its attributes are damaged") from error
        if position + size > len(content):
            raise ContainerError("its attributes are damaged")
        if name != _NAME:
            kept.append(content[position : position + size])
        position += size
    kept += new
    return struct.pack("<H", len(kept)) + b"".join(kept) + content[position:]


def _descriptor_size(content):
    """Return the size and the name of a descriptor of the extended content description."""
    (length,) = struct.unpack_from("<H", content)
    _, value_length = struct.unpack_from("<2H", content, 2 + length)
    return 2 + length + 4 + value_length, content[2 : 2 + length]


def _record_size(content):
    """Return the size and the name of a record of a metadata object."""
    _, _, length, _, value_length = struct.unpack_from("<4HI", content)
    return 12 + length + value_length, content[12 : 12 + length]


def _object(guid, content):
    return guid + struct.pack("<Q", 24 + len(content)) + content


def _ensure(found, guid, content):
    """Add an object to a list if it is not in the list."""
    if guid not in dict(found):
        found.append((guid, content))


def _text(text):
    return (text + "\0").encode("utf-16-le")


_NAME = _text("WM/Genre")
