"""Store the finished rows of a long computation in a file, so that a later call does not compute them again."""

import contextlib
import json
import os
import warnings
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO

import filelock
from genrekeras.utils.io import StrPath, atomic_write


class Journal:
    """Context manager that reads the rows of earlier calls from a file, and adds new rows to the file.

    The journal is a text file. The first line describes the settings with which the rows were computed. Every other
    line contains one row, and the size and modification time of the audio file. Every line begins with a checksum.

    Args:
        path: path of the journal. With `None`, nothing is read or stored.
        settings: JSON-serializable settings with which the rows are computed. If the journal has other settings, all of
            its rows are removed, with a warning. Damaged rows are also removed, with a warning.

    Attributes:
        rows: path of an audio file -> row. Rows of earlier calls are included only if the audio file could be
            read and has not changed.

    Raises:
        ValueError: on entering, if the file is not a journal.
        OSError: on entering, if the file cannot be written or another process is using it.
    """

    def __init__(self, path: StrPath | None, settings: Mapping[str, Any]):
        self.rows: dict[str, dict[str, Any]] = {}
        self._path = None if path is None else os.fspath(path)
        self._settings = settings
        self._file: BinaryIO | None = None
        self._exit_stack = contextlib.ExitStack()

    def __enter__(self):
        with self._exit_stack:  # If a step below fails, close what was opened.
            if self._path is not None:
                open(self._path, "ab").close()  # If this fails, the error names the journal instead of the lock file.
                self._exit_stack.enter_context(_lock(self._path))
                self._read()
                self._file = self._exit_stack.enter_context(open(self._path, "ab"))
            self._exit_stack = self._exit_stack.pop_all()
        return self

    def __exit__(self, *error):
        self._exit_stack.close()

    def add(self, row: dict[str, Any]) -> None:
        """Store a row. It has the keys `path` and `error`, and possibly other keys."""
        self.rows[row["path"]] = row
        if self._file:
            self._file.write(_encode([row, _file_state(row["path"])]))
            self._file.flush()

    def _read(self):
        """Read the rows of earlier calls, and remove rows that are damaged or have other settings."""
        with open(self._path, "rb") as file:
            content = file.read()
        expected_first_line = _encode(self._settings)
        first_line, *lines = content.splitlines(keepends=True) or [b""]
        if lines and not lines[-1].endswith(b"\n"):  # The process ended while it wrote this line.
            lines.pop()
        valid = [line for line in lines if _decode(line) is not None]
        # A new journal is empty, or contains a part of the first line.
        if first_line != expected_first_line and not expected_first_line.startswith(content):
            if _decode(first_line) is None and not valid:
                raise ValueError(f"{self._path} is not a journal of predictions. Remove it, or choose another file.")
            self._warn(
                "belongs to another model, other thresholds or another `max_clips`, or is damaged. All of its rows are "
                "removed"
            )
            valid = []
        elif damaged := len(lines) - len(valid):
            self._warn(f"is damaged. {damaged} of its rows are removed. The files of these rows are processed again")
        for row, state in map(_decode, valid):
            if row["error"] is None and state == _file_state(row["path"]):
                self.rows[row["path"]] = row
        new_content = b"".join([expected_first_line, *valid])
        if new_content != content:
            with atomic_write(self._path) as temporary, open(temporary, "wb") as file:
                file.write(new_content)

    def _warn(self, problem):
        warnings.warn(f"The journal {self._path} {problem}.", stacklevel=5)


def _encode(value):
    """Return a line that contains a checksum and the value as JSON."""
    text = json.dumps(value, default=str).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _decode(line):
    """Return the value in a line that `_encode` returned, or `None` if the line is damaged."""
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    return json.loads(text) if checksum == b"%08x" % zlib.crc32(text) else None


def _file_state(path):
    """Return the size and modification time of a file, or `None` if the file does not exist."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


@contextlib.contextmanager
def _lock(path):
    """Context manager that locks a file. Raise `BlockingIOError` if another process has locked the file."""
    lock = filelock.FileLock(f"{path}.lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout as error:
        raise BlockingIOError(f"Another process is using {path}. Wait for it, or choose another file.") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # On Windows, filelock itself removes the lock file.
            os.remove(lock.lock_file)
        lock.release()
