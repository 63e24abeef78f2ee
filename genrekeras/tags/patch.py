"""Differences between two versions of a file, from which the old version can be restored exactly."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np
from genrekeras.tags.containers import blocks, read_part, size_of

_WINDOW = 32  # bytes that must be equal to find a part of the old file in the new file
_SMALL = 128  # bytes; smaller parts are not searched
_NEAR = 1 << 16  # bytes; a part is first searched at this distance from its old place


class Hunk(NamedTuple):
    """A part of a file that was replaced.

    Attributes:
        offset: offset of the part in the new file, in bytes.
        length: length of the part in the new file.
        old: the bytes of the old file in the place of this part.
    """

    offset: int
    length: int
    old: bytes


def diff(old: BinaryIO, new: BinaryIO) -> list[Hunk]:
    """Return the parts of an old file that are different in a new file, in the order of their offsets.

    Args:
        old: the old file.
        new: the new file.
    """
    old_size, new_size = size_of(old), size_of(new)
    start = _common(blocks(old), blocks(new))
    limit = min(old_size, new_size) - start
    end = _common(_backwards(old, old_size, limit), _backwards(new, new_size, limit))
    return list(_hunks(read_part(old, start, old_size - end), read_part(new, start, new_size - end), start))


def restored(new: BinaryIO, hunks: Sequence[Hunk]) -> Iterator[bytes]:
    """Yield the bytes of the old file.

    Args:
        new: the new file.
        hunks: result of `diff`.

    Raises:
        ValueError: the hunks are outside the file or not in order.
    """
    position, size = 0, size_of(new)
    for offset, length, old in hunks:
        if not 0 <= position <= offset <= offset + length <= size:
            raise ValueError("the stored parts do not fit the file")
        yield from blocks(new, position, offset)
        yield old
        position = offset + length
    yield from blocks(new, position)


def sha256(content: Iterable[bytes]) -> str:
    """Return the SHA-256 checksum of blocks of bytes, as hexadecimal digits."""
    digest = hashlib.sha256()
    for block in content:
        digest.update(block)
    return digest.hexdigest()


def _backwards(file, stop, count, size=1 << 20):
    """Yield the last `count` bytes before `stop` in blocks, in reverse order."""
    for position in range(stop, stop - count, -size):
        yield read_part(file, max(position - size, stop - count), position)[::-1]


def _common(first, second):
    """Return the number of equal bytes at the start of two sequences of blocks of the same size."""
    total = 0
    for a, b in zip(first, second, strict=False):
        if a == b:
            total += len(a)
            continue
        length = min(len(a), len(b))
        differs = np.frombuffer(a, np.uint8, length) != np.frombuffer(b, np.uint8, length)
        return total + (int(np.argmax(differs)) if differs.any() else length)
    return total


def _hunks(old, new, offset):
    """Yield the hunks of two parts. `offset` is the offset of `new` in its file."""
    start = _common([old], [new])
    end = _common([old[start:][::-1]], [new[start:][::-1]])
    old, new, offset = old[start : len(old) - end], new[start : len(new) - end], offset + start
    if not old and not new:
        return
    match = _find(old, new) if len(old) > _SMALL else None
    if match is None:
        yield Hunk(offset, len(new), old)
        return
    old_at, new_at = match
    yield from _hunks(old[:old_at], new[:new_at], offset)
    yield from _hunks(old[old_at:], new[new_at:], offset + new_at)


def _find(old, new):
    """Return the offsets of a window that is in both parts, or `None` if none is found."""
    shift = len(new) - len(old)
    for eighths in (4, 2, 6, 1, 3, 5, 7):
        old_at = min(len(old) * eighths // 8, len(old) - _WINDOW)
        window = old[old_at : old_at + _WINDOW]
        first, last = sorted((old_at, max(0, old_at + shift)))
        # most often, the window has moved with the start or with the end of the part
        for start, stop in ((first, first + _WINDOW), (last, last + _WINDOW), (max(0, first - _NEAR), last + _NEAR)):
            if (new_at := new.find(window, start, stop)) >= 0:
                return old_at, new_at
        if (new_at := new.find(window)) >= 0:
            return old_at, new_at
    return None
