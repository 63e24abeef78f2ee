"""Files that are there whole or not at all, work that one process does at a time, and room on the disk."""

import contextlib
import errno
import glob
import heapq
import os
import secrets
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib

import filelock
import numpy as np
import platformdirs
from genrekeras.utils.progress import print_message

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


class DiskSpaceError(OSError):
    """A disk has not enough room for what is about to be written."""


@contextlib.contextmanager
def atomic_write(path):
    """Write a file so that it is there whole or not at all.

    The caller writes to a temporary file in the same folder, which is moved to `path` at the end and removed after an
    error. The folder is made if it does not exist. A link is followed: its target is replaced and the link stays.
    A stream (see `is_stream`) is not replaced: at the end, the content is written into it.

    Args:
        path: str or path-like.

    Yields:
        str, the temporary file, with the ending of `path`. A writer that adds an ending of its own, as `numpy.savez`
        does, may be used too.
    """
    path = os.fspath(path)
    into_stream = is_stream(path)
    target = path if into_stream else os.path.realpath(path)
    folder = tempfile.gettempdir() if into_stream else os.path.dirname(target)
    os.makedirs(folder, exist_ok=True)
    prefix = os.path.join(folder, f"{TEMPORARY}{secrets.token_hex(4)}")
    ending = os.fsencode(os.path.basename(target))[-100:].decode("utf-8", "ignore")  # a name has 255 bytes at most
    temporary = f"{prefix}-{ending}"
    try:
        yield temporary
        written = temporary
        if not os.path.exists(temporary):
            written = next(glob.iglob(f"{glob.escape(prefix)}*"), temporary)
        if into_stream:
            with open(written, "rb") as source, open(target, "ab") as stream:
                shutil.copyfileobj(source, stream)
            os.remove(written)
        else:
            _flush(written)  # or after a power failure the new name might stand for an empty file
            os.replace(written, target)
    except BaseException:
        for left in glob.glob(f"{glob.escape(prefix)}*"):
            os.remove(left)
        raise


def is_stream(path):
    """Return whether a path is a device, a pipe, a socket or a standard stream such as `/dev/stdout`."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    # A standard stream may be redirected to a regular file, which is written to from where it stands.
    is_open = os.path.dirname(os.path.abspath(path)) in ("/dev", "/dev/fd", "/proc/self/fd")
    return is_open or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


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
def process_lock(folder, what):
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
        print_message(f"Another process is at work ({what} in {folder}): waiting for it.")
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


def files_below(folder):
    """Find the files below a folder, at any depth.

    Links to folders are followed. Each folder is visited once, under its own name rather than that of a link, so that
    links may form circles. Hidden files and folders are skipped.

    Args:
        folder: str.

    Returns:
        tuple of two lists of str: the names of the files, relative to `folder`, with "/", sorted by folder and name;
        and the folders and links that cannot be opened, each with the reason.
    """
    names, closed, visited = [], [], set()
    waiting = [(False, ())]  # a heap, on which links come after all that is reached without them
    while waiting:
        _, parts = heapq.heappop(waiting)
        here = os.path.join(folder, *parts)
        try:
            status = os.stat(here)
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            entries = list(os.scandir(here))
        except OSError as error:
            closed.append(f"{here}: {error.strerror}")
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            below = (*parts, entry.name)
            try:
                if entry.is_dir():
                    heapq.heappush(waiting, (entry.is_symlink(), below))
                else:
                    names.append(below)
            except OSError as error:  # a link to itself
                closed.append(f"{entry.path}: {error.strerror}")
    return ["/".join(parts) for parts in sorted(names)], sorted(closed)


def check_disk_space(folder, wanted, what):
    """Raise if a disk has not enough room.

    Args:
        folder: str, which exists.
        wanted: int, in bytes.
        what: str, what they are for.

    Raises:
        DiskSpaceError: with how much is wanted and how much is there.
    """
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise DiskSpaceError(
            errno.ENOSPC, f"{what} needs {size(wanted)} in {os.fspath(folder)}, and {size(free)} are free there"
        )


def size(count):
    """Bytes as people read them: `size(7_679_594_875)` is "7.15 GiB"."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count} bytes" if unit == "bytes" else f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"
