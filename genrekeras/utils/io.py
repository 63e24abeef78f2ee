"""Atomic file writes, locks between processes, checks of disk space, and lists of files."""

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

TEMPORARY = ".tmp-"  # prefix of the names of temporary files
# Exceptions that NumPy and zipfile raise while they read a damaged file.
_DAMAGED_FILE_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    EOFError,
    RuntimeError,
    MemoryError,
    OverflowError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


class DiskSpaceError(OSError):
    """Exception for a disk with too little free space for a planned write."""


@contextlib.contextmanager
def atomic_write(path):
    """Write a file completely or not at all.

    The caller writes to a temporary file in the same folder. At the end it replaces `path`; after an error it is
    removed. Missing folders are created. If `path` is a symbolic link, its target is replaced and the link is kept. If
    `path` is a stream (see `is_stream`), the content is appended to the stream at the end.

    Args:
        path: str or path-like.

    Yields:
        str, path of the temporary file, with the extension of `path`. A function that appends its own extension to the
        path, as `numpy.savez` does, may write it too.
    """
    path = os.fspath(path)
    into_stream = is_stream(path)
    target = path if into_stream else os.path.realpath(path)
    folder = tempfile.gettempdir() if into_stream else os.path.dirname(target)
    os.makedirs(folder, exist_ok=True)
    prefix = os.path.join(folder, f"{TEMPORARY}{secrets.token_hex(4)}")
    suffix = os.fsencode(os.path.basename(target))[-100:].decode("utf-8", "ignore")  # a file name has at most 255 bytes
    temporary = f"{prefix}-{suffix}"
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
            _flush(written)  # otherwise the new name might refer to an empty file after a power failure
            os.replace(written, target)
    except BaseException:
        for leftover in glob.glob(f"{glob.escape(prefix)}*"):
            os.remove(leftover)
        raise


def is_stream(path):
    """Return whether a path is a device, a pipe, a socket or a standard stream such as `/dev/stdout`."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    # A standard stream may be redirected to a regular file, which must be appended to and not replaced.
    is_open = os.path.dirname(os.path.abspath(path)) in ("/dev", "/dev/fd", "/proc/self/fd")
    return is_open or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _flush(path):
    """Wait until the content of a file is written to the disk."""
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def process_lock(folder, task):
    """Let only one process at a time run a task in a folder; others wait.

    The lock is released if its process dies.

    Args:
        folder: str, created if it does not exist.
        task: str, such as "download fma_small"; part of the name of the lock file.
    """
    os.makedirs(folder, exist_ok=True)
    lock = filelock.FileLock(os.path.join(folder, f".{task.replace(' ', '-')}.lock"))
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        print_message(f"Waiting for another process ({task} in {folder}).")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def cache_dir():
    """Return the folder for files that can be computed again.

    It is the value of the environment variable GENREKERAS_CACHE, or a folder in the user's cache.
    """
    return os.environ.get("GENREKERAS_CACHE") or platformdirs.user_cache_dir("genrekeras")


def read_arrays(path):
    """Read the arrays of an npz file that may be damaged or untrusted; pickled objects are not loaded.

    Args:
        path: str or path-like.

    Returns:
        dict, name -> array.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged or not an npz file.
    """
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:  # given a path, NumPy leaks it
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise
    except _DAMAGED_FILE_ERRORS as error:
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
    names, unreadable, visited = [], [], set()
    queue = [(False, ())]  # a heap that returns links after all folders that are reached without links
    while queue:
        _, parts = heapq.heappop(queue)
        path = os.path.join(folder, *parts)
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            entries = list(os.scandir(path))
        except OSError as error:
            unreadable.append(f"{path}: {error.strerror}")
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            entry_parts = (*parts, entry.name)
            try:
                if entry.is_dir():
                    heapq.heappush(queue, (entry.is_symlink(), entry_parts))
                else:
                    names.append(entry_parts)
            except OSError as error:  # a link to itself
                unreadable.append(f"{entry.path}: {error.strerror}")
    return ["/".join(parts) for parts in sorted(names)], sorted(unreadable)


def check_disk_space(folder, required, purpose):
    """Raise an exception if a disk has too little free space.

    Args:
        folder: str, an existing folder on the disk.
        required: int, in bytes.
        purpose: str, subject of the message, such as "Unpacking fma_small.zip".

    Raises:
        DiskSpaceError: fewer than `required` bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if required > free:
        raise DiskSpaceError(
            errno.ENOSPC,
            f"{purpose} needs {format_size(required)} in {os.fspath(folder)}, but only {format_size(free)} are free",
        )


def format_size(count):
    """Return a number of bytes as text: `format_size(7_679_594_875)` is "7.15 GiB"."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count} bytes" if unit == "bytes" else f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"
