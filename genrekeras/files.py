"""Files that are there whole or not at all, work that one process does at a time, and room on the disk."""

import contextlib
import errno
import os
import secrets
import shutil
import struct
import zipfile
import zlib

import filelock
import numpy as np
import platformdirs
from genrekeras.progress import say

# What NumPy and zipfile raise on their way through a damaged file.
_DAMAGES = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    EOFError,
    RuntimeError,
    MemoryError,
    OverflowError,
)
_DAMAGES += (struct.error, zipfile.BadZipFile, zlib.error)
TEMPORARY = ".tmp-"  # how the names of files begin that are not whole yet


class NoRoomError(OSError):
    """A disk has not enough room for what is about to be written."""


@contextlib.contextmanager
def whole_file(path):
    """A name to write to, beside `path`; what was written there is moved to `path` at the end, and removed after an
    error. A folder that is not there, or no longer, is made.

    Args:
        path: str or path-like.

    Yields:
        str, with the extension of `path`.
    """
    folder, name = os.path.split(os.fspath(path))
    os.makedirs(folder or os.curdir, exist_ok=True)
    temporary = os.path.join(folder, f"{TEMPORARY}{secrets.token_hex(4)}-{name[-100:]}")
    try:
        yield temporary
        _flush(temporary)  # or after a power failure the new name might stand for an empty file
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def _flush(path):
    """Wait until a file, or a folder's list of files, is on the disk."""
    if os.name == "nt" and os.path.isdir(path):
        return  # pragma: no cover - Windows opens no folders
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def one_at_a_time(folder, what):
    """Wait until no other process is within this for the same folder and work; a process that dies lets go.

    Args:
        folder: str, made if it is not there.
        what: str, the work, such as "download fma_small"; a part of the lock file's name.
    """
    os.makedirs(folder, exist_ok=True)
    lock = filelock.FileLock(os.path.join(folder, f".{what.replace(' ', '-')}.lock"))
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        say(f"Another process is at work ({what} in {folder}): waiting for it.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def cache_dir():
    """Where what can be made again is kept: the environment variable GENREKERAS_CACHE, else the user's cache folder."""
    return os.environ.get("GENREKERAS_CACHE") or platformdirs.user_cache_dir("genrekeras")


def read_arrays(path):
    """The arrays in an npz file: dict, name -> array. Nothing in it is run (no pickle).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or something else; with the reason.
    """
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:  # NumPy would leave it open
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise
    except _DAMAGES as error:
        raise ValueError(f"{os.fspath(path)} cannot be read as an npz file: {error!r}") from error


def files_below(folder, closed, name="", above=()):
    """Names relative to a folder, with "/", in order; hidden ones are passed over, links followed, circles not.

    Folders that cannot be opened are added to `closed`.
    """
    here = os.path.join(folder, *name.split("/")) if name else folder
    real = os.path.realpath(here)
    if real in above:
        return
    try:
        entries = sorted(os.scandir(here), key=lambda entry: entry.name)
    except OSError as error:
        closed.append(f"{here}: {error.strerror}")
        return
    for entry in entries:
        below = f"{name}/{entry.name}" if name else entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from files_below(folder, closed, below, (*above, real))
        else:
            yield below


def check_room(folder, wanted, what):
    """Raise if a disk has not enough room.

    Args:
        folder: str, which exists.
        wanted: int, in bytes.
        what: str, what they are for.

    Raises:
        NoRoomError: with how much is wanted and how much is there.
    """
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise NoRoomError(
            errno.ENOSPC, f"{what} needs {size(wanted)} in {os.fspath(folder)}, and {size(free)} are free there"
        )


def size(count):
    """Bytes as people read them: `size(7_679_594_875)` is "7.15 GiB"."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count} bytes" if unit == "bytes" else f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"
