"""Find the parts of audio files: ID3 and APEv2 tags, blocks of FLAC, pages of Ogg, chunks of WAV and AIFF, MP4 atoms.

The functions read from binary file objects. They raise `ContainerError` if the sizes in a file contradict each other.
"""

import contextlib
import os
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

OGG_HEADER = struct.Struct("<4sBBqIIIB")  # magic, version, flags, granule, serial, sequence, checksum, segments
_APE_FOOTER = struct.Struct("<8s4I8x")  # magic, version, size, number of items, flags
_APE_HAS_HEADER = 1 << 31
_ID3V1_SIZE = 128


class ContainerError(ValueError):
    """Exception for a file whose parts cannot be found."""


class Part(NamedTuple):
    """A part of a file.

    Attributes:
        name: name of the part in its format.
        start: offset of the header of the part, in bytes.
        data: offset of the content.
        stop: end of the content.
    """

    name: bytes
    start: int
    data: int
    stop: int


def size_of(file: BinaryIO) -> int:
    """Return the size of a file in bytes."""
    return file.seek(0, os.SEEK_END)


def read_part(file: BinaryIO, start: int, stop: int) -> bytes:
    """Return the bytes of a file from `start` to `stop`."""
    file.seek(start)
    content = file.read(stop - start)
    if len(content) < stop - start:
        raise ContainerError("the file is damaged or cut short")
    return content


def blocks(file: BinaryIO, start: int = 0, stop: int | None = None, size: int = 1 << 20) -> Iterator[bytes]:
    """Yield the bytes of a file from `start` to `stop`, or to the end, in blocks of at most `size` bytes."""
    stop = size_of(file) if stop is None else stop
    for position in range(start, stop, size):
        yield read_part(file, position, min(position + size, stop))


def synchsafe(number: int) -> bytes:
    """Return a number as four bytes of seven bits each, as in the header of an ID3v2 tag."""
    if not 0 <= number < 1 << 28:
        raise ContainerError("its ID3 tag would be larger than 256 MiB")
    return bytes([number >> shift & 127 for shift in (21, 14, 7, 0)])


def from_synchsafe(content: bytes) -> int:
    """Return the number that `synchsafe` converted."""
    return sum((byte & 127) << shift for byte, shift in zip(content, (21, 14, 7, 0), strict=True))


def id3_stop(file: BinaryIO, start: int = 0, limit: int | None = None) -> int:
    """Return the end of an ID3v2 tag.

    Args:
        file: the file.
        start: offset at which the tag begins.
        limit: the largest possible end. `None` is the end of the file.

    Returns:
        The offset after the tag. It is `start` if there is no tag.
    """
    limit = size_of(file) if limit is None else limit
    header = read_part(file, start, min(start + 10, limit))
    if len(header) < 10 or header[:3] != b"ID3" or header[3] not in (2, 3, 4) or max(header[6:]) > 127:
        return start
    has_footer = header[3] == 4 and header[5] & 0x10
    stop = start + 10 + from_synchsafe(header[6:]) + 10 * bool(has_footer)
    if stop > limit:
        raise ContainerError("its ID3 tag is damaged or cut short")
    return stop


def ape_tag(file: BinaryIO) -> tuple[int, int] | None:
    """Return the start and the end of the APEv2 tag at the end of a file, or `None` if there is none.

    An ID3v1 tag may follow. A tag at the start of a file is not found.
    """
    size = size_of(file)
    for stop in (size, size - _ID3V1_SIZE):
        if stop < _APE_FOOTER.size:
            continue
        footer = read_part(file, stop - _APE_FOOTER.size, stop)
        magic, version, length, _, flags = _APE_FOOTER.unpack(footer)
        if magic == b"APETAGEX" and (stop == size or read_part(file, stop, stop + 3) == b"TAG"):
            start = stop - length - _APE_FOOTER.size * bool(flags & _APE_HAS_HEADER)
            if version != 2000 or start < 0 or length < _APE_FOOTER.size:
                raise ContainerError("its APE tag is damaged, or is not an APEv2 tag")
            return start, stop
    return None


def tail_start(file: BinaryIO) -> int:
    """Return the offset of the APEv2 and ID3v1 tags at the end of a file, or the size of the file if there is none."""
    with contextlib.suppress(ContainerError):
        if tag := ape_tag(file):
            return tag[0]
    size = size_of(file)
    has_id3v1 = size >= _ID3V1_SIZE and read_part(file, size - _ID3V1_SIZE, size - _ID3V1_SIZE + 3) == b"TAG"
    return size - _ID3V1_SIZE * has_id3v1


def flac_blocks(file: BinaryIO) -> list[Part]:
    """Return the metadata blocks of a FLAC file. The name of a block is the byte of its type."""
    start, parts, size = id3_stop(file), [], size_of(file)
    if read_part(file, start, min(start + 4, size)) != b"fLaC":
        raise ContainerError("it is not a FLAC file")
    start += 4
    is_last = False
    while not is_last:
        header = read_part(file, start, start + 4)
        is_last = bool(header[0] & 0x80)
        stop = start + 4 + int.from_bytes(header[1:], "big")
        if stop > size:
            raise ContainerError("the sizes of its metadata blocks are wrong")
        parts.append(Part(bytes([header[0] & 0x7F]), start, start + 4, stop))
        start = stop
    return parts


def iff_chunks(file: BinaryIO) -> tuple[Part, list[Part], str]:
    """Return the outer chunk of a WAV or AIFF file, the chunks in it, and the byte order ("<" or ">") of the sizes."""
    size = size_of(file)
    magic = read_part(file, 0, min(12, size))
    if magic[:4] not in (b"RIFF", b"FORM"):
        raise ContainerError("it is not a WAV or AIFF file")
    order = "<" if magic[:4] == b"RIFF" else ">"
    root = Part(magic[:4], 0, 12, 8 + struct.unpack(f"{order}I", magic[4:8])[0])
    chunks, start = [], 12
    while start + 8 <= root.stop <= size:
        name, length = struct.unpack(f"{order}4sI", read_part(file, start, start + 8))
        chunks.append(Part(name, start, start + 8, start + 8 + length))
        start += 8 + length + length % 2
    # Some programs leave out the last padding byte.
    if not chunks or start - root.stop not in (0, 1) or chunks[-1].stop > root.stop:
        raise ContainerError("the sizes in its header are wrong")
    return root, chunks, order


def riff_info(file: BinaryIO) -> dict[str, str]:
    """Return the INFO list of a WAV file: four letters -> text. It is empty for a file without such a list."""
    info = {}
    with contextlib.suppress(ContainerError):
        for chunk in iff_chunks(file)[1]:
            if chunk.name != b"LIST" or read_part(file, chunk.data, min(chunk.data + 4, chunk.stop)) != b"INFO":
                continue
            content = read_part(file, chunk.data + 4, chunk.stop)
            while len(content) >= 8:
                name, length = struct.unpack("<4sI", content[:8])
                value = content[8 : 8 + length].partition(b"\0")[0]
                try:
                    text = value.decode("utf-8")
                except UnicodeDecodeError:
                    text = value.decode("latin-1")
                info[name.decode("latin-1")] = text
                content = content[8 + length + length % 2 :]
    return info


def mp4_atoms(file: BinaryIO, start: int, stop: int) -> list[Part]:
    """Return the atoms of an MP4 file between two offsets, without those inside them."""
    atoms = []
    while start < stop:
        header = read_part(file, start, min(start + 16, stop))
        if header == bytes(4):  # the end of `udta` in a QuickTime file
            break
        if len(header) < 8:
            raise ContainerError("the sizes of its atoms are wrong")
        length, name = struct.unpack(">I4s", header[:8])
        data = start + 8
        if length == 1 and len(header) == 16:
            length, data = int.from_bytes(header[8:], "big"), start + 16
        elif length == 0:  # up to the end
            length = stop - start
        if start + length > stop or start + length < data:
            raise ContainerError("the sizes of its atoms are wrong")
        atoms.append(Part(name, start, data, start + length))
        start += length
    return atoms


def ogg_pages(file: BinaryIO) -> Iterator[tuple[Part, int, int, int, bytes]]:
    """Yield the pages of an Ogg file.

    Yields:
        The page (`Part.name` is its segment table), its serial number, granule position, flags and content.
    """
    start, size = 0, size_of(file)
    while start + OGG_HEADER.size <= size:
        header = read_part(file, start, start + OGG_HEADER.size)
        magic, _, flags, granule, serial, _, _, count = OGG_HEADER.unpack(header)
        if magic != b"OggS":
            raise ContainerError(f"its Ogg pages are damaged at byte {start}")
        data = start + OGG_HEADER.size + count
        table = read_part(file, start + OGG_HEADER.size, data)
        stop = data + sum(table)
        yield Part(table, start, data, stop), serial, granule, flags, read_part(file, data, stop)
        start = stop
    if start != size:
        raise ContainerError(f"its Ogg pages are damaged at byte {start}")
