"""Write files atomically, lock folders, check the free disk space, and read and list files."""

import contextlib
import errno
import glob
import heapq
import os
import re
import secrets
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Container, Iterator
from typing import TypeAlias

import filelock
import numpy as np
import platformdirs
from genrekeras.utils.progress import print_message

StrPath: TypeAlias = str | os.PathLike[str]  # path of a file or folder
TEMPORARY = ".tmp-"  # prefix of the names of temporary files
# Exceptions that NumPy and zipfile raise when they read a damaged file.
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
    """Exception for a disk that has too little free space."""


@contextlib.contextmanager
def atomic_write(path: StrPath) -> Iterator[str]:
    """Context manager to write a file completely or not at all.

    The body of the `with` statement writes to a temporary file in the folder of `path`. At the end of the body, the
    temporary file replaces the file at `path`. If the body raises an exception, the temporary file is removed. Missing
    folders are created. If `path` is a symbolic link, the target of the link is replaced, and the link is kept. If
    `path` is a stream (see `is_stream`), the content of the temporary file is appended to the stream.

    Args:
        path: path of the file or stream.

    Yields:
        Path of the temporary file. It has the extension of `path`. The body may append an extension to the
        temporary path, as `numpy.savez` does.
    """
    path = os.fspath(path)
    to_stream = is_stream(path)
    target = path if to_stream else os.path.realpath(path)
    folder = tempfile.gettempdir() if to_stream else os.path.dirname(target)
    os.makedirs(folder, exist_ok=True)
    prefix = os.path.join(folder, f"{TEMPORARY}{secrets.token_hex(4)}")
    temporary = f"{prefix}-{_temporary_suffix(target)}"
    try:
        yield temporary
        source = temporary
        if not os.path.exists(temporary):
            source = next(glob.iglob(f"{glob.escape(prefix)}*"), temporary)
        if to_stream:
            with open(source, "rb") as source_file, open(target, "ab") as stream:
                shutil.copyfileobj(source_file, stream)
            os.remove(source)
        else:
            _flush(source)  # without this, the file could be empty after a power failure
            os.replace(source, target)
    except BaseException:
        for leftover in glob.glob(f"{glob.escape(prefix)}*"):
            os.remove(leftover)
        raise


def remove_leftovers(folder: StrPath, extensions: Container[str]) -> None:
    """Remove temporary files in a folder that `atomic_write` left behind because its process was killed.

    A process that is writing such a file fails, and the file that it would have replaced stays as it is.

    Args:
        folder: folder of the files that were written. Its subfolders are not searched.
        extensions: extensions of the files that were written, in lower case, such as ".mp3". Temporary files of other
            files, and of files that do not exist, are kept.
    """
    names = os.listdir(folder)
    temporary = [name for name in names if re.match(f"{re.escape(TEMPORARY)}[0-9a-f]{{8}}-", name)]
    if temporary:
        is_written = {_temporary_suffix(name) for name in names if os.path.splitext(name)[1].lower() in extensions}
        for name in temporary:
            if name[len(TEMPORARY) + 9 :] in is_written:
                os.remove(os.path.join(folder, name))


def _temporary_suffix(path):
    """Return the end of the name of a temporary file. A file name has at most 255 bytes."""
    return os.fsencode(os.path.basename(path))[-100:].decode("utf-8", "ignore")


def is_stream(path: StrPath) -> bool:
    """Return whether a path is a device, a pipe, a socket or a standard stream such as `/dev/stdout`."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    # A standard stream may be redirected to a regular file. Content must be appended to this file.
    is_device = os.path.dirname(os.path.abspath(path)) in ("/dev", "/dev/fd", "/proc/self/fd")
    return is_device or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _flush(path):
    """Wait until the content of a file is written to the disk."""
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def process_lock(folder: StrPath, task: str, announce: bool = True) -> Iterator[None]:
    """Context manager that only one process at a time can enter. Other processes wait.

    If a process dies, its lock is released.

    Args:
        folder: folder of the lock file. The folder is created if it does not exist.
        task: name of the task, such as "download fma_small". Each task in a folder has its own lock.
        announce: whether a message is printed if this process has to wait.
    """
    os.makedirs(folder, exist_ok=True)
    lock = filelock.FileLock(os.path.join(folder, f".{task.replace(' ', '-')}.lock"))
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        if announce:
            print_message(f"Waiting for another process ({task} in {folder}).")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def cache_dir() -> str:
    """Return the folder for files that can be computed again.

    The environment variable GENREKERAS_CACHE can set this folder. By default, it is a folder in the cache of the user.
    """
    return os.environ.get("GENREKERAS_CACHE") or platformdirs.user_cache_dir("genrekeras")


def state_dir() -> str:
    """Return the folder for files that cannot be computed again, such as journals: the state folder of the user."""
    return platformdirs.user_state_dir("genrekeras")


def read_arrays(path: StrPath) -> dict[str, np.ndarray]:
    """Read the arrays of an npz file that may be damaged or untrusted.

    Pickled objects are not loaded.

    Args:
        path: path of the file.

    Returns:
        Name -> array.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged or is not an npz file.
    """
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:  # NumPy would not close the file
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise
    except _DAMAGED_FILE_ERRORS as error:
        raise ValueError(f"{os.fspath(path)} cannot be read as an npz file: {error!r}") from error


def files_below(folder: StrPath) -> tuple[list[str], list[str]]:
    """Find all files in a folder and its subfolders.

    Links to folders are followed. Each folder is visited once, even if several links refer to it. Its files are listed
    under the path without links, if there is one. Hidden files and folders are skipped.

    Args:
        folder: path of the folder.

    Returns:
        Two lists. The first list contains the paths of the files relative to `folder`, separated by "/", sorted by
        folder and name. The second list contains the folders and links that cannot be opened, with the reasons.
    """
    names: list[tuple[str, ...]] = []
    unreadable: list[str] = []
    visited: set[tuple[int, int]] = set()
    # A heap of (is a link, parts of the path), in which links come after folders.
    queue: list[tuple[bool, tuple[str, ...]]] = [(False, ())]
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
            except OSError as error:  # a link that refers to itself
                unreadable.append(f"{entry.path}: {error.strerror}")
    return ["/".join(parts) for parts in sorted(names)], sorted(unreadable)


def check_disk_space(folder: StrPath, required: int, purpose: str) -> None:
    """Raise an exception if a disk has too little free space.

    Args:
        folder: an existing folder on the disk.
        required: required space in bytes.
        purpose: first words of the message, such as "Unpacking fma_small.zip".

    Raises:
        DiskSpaceError: fewer than `required` bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if required > free:
        raise DiskSpaceError(
            errno.ENOSPC,
            f"{purpose} needs {format_size(required)} in {os.fspath(folder)}, but only {format_size(free)} are free",
        )


def format_size(count: float) -> str:
    """Format a number of bytes as text. For example, `format_size(7_679_594_875)` returns "7.15 GiB"."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count} bytes" if unit == "bytes" else f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"
