"""Journal of finished rows of a long computation, which a later call reads instead of computing them again."""

import contextlib
import json
import os
import warnings
import zlib

import filelock
from genrekeras.utils.io import atomic_write


class Journal:
    """Rows of files by path: a context manager that reads the rows of earlier calls and stores new rows.

    The journal is a text file. Its first line records what the rows depend on. Each other line contains a row, and the
    size and modification time of its audio file. Each line begins with its checksum.

    Args:
        path: str or path-like, the journal; with `None`, nothing is stored.
        about: JSON-serializable dict, what the rows depend on. Rows that depend on something else and damaged rows are
            removed, with a warning.

    Attributes:
        rows: dict, path -> row, for the audio files that have not changed and could be read.

    Raises:
        ValueError: on entering, if the file is not a journal.
        OSError: on entering, if the file cannot be written or another process is using it.
    """

    def __init__(self, path, about):
        self.rows = {}
        self._path = None if path is None else os.fspath(path)
        self._about = about
        self._file = None
        self._exit_stack = contextlib.ExitStack()

    def __enter__(self):
        with self._exit_stack:  # closes the files after an error
            if self._path is not None:
                open(self._path, "ab").close()  # an error names this file rather than the lock file
                self._exit_stack.enter_context(_lock(self._path))
                self._read()
                self._file = self._exit_stack.enter_context(open(self._path, "ab"))
            self._exit_stack = self._exit_stack.pop_all()
        return self

    def __exit__(self, *error):
        self._exit_stack.close()

    def add(self, row):
        """Store a row, a dict with `path` and `error`."""
        self.rows[row["path"]] = row
        if self._file:
            self._file.write(_encode([row, _file_state(row["path"])]))
            self._file.flush()

    def _read(self):
        """Read the rows, and remove those that are damaged or depend on something else from the file."""
        with open(self._path, "rb") as file:
            content = file.read()
        expected_head = _encode(self._about)
        head, *lines = content.splitlines(keepends=True) or [b""]
        if lines and not lines[-1].endswith(b"\n"):  # the process ended while it was writing
            lines.pop()
        valid = [line for line in lines if _decode(line) is not None]
        if head != expected_head and not expected_head.startswith(content):
            if _decode(head) is None and not valid:
                raise ValueError(f"{self._path} is not a journal of predictions. Remove it, or choose another file.")
            self._warn(
                "belongs to another model, other thresholds or another `max_clips`, or is damaged. All of its rows are "
                "removed"
            )
            valid = []
        elif damaged := len(lines) - len(valid):
            self._warn(f"is damaged. {damaged} of its rows are removed, and their files are processed again")
        for row, state in map(_decode, valid):
            if row["error"] is None and state == _file_state(row["path"]):
                self.rows[row["path"]] = row
        new_content = b"".join([expected_head, *valid])
        if new_content != content:
            with atomic_write(self._path) as temporary, open(temporary, "wb") as file:
                file.write(new_content)

    def _warn(self, what):
        warnings.warn(f"The journal {self._path} {what}.", stacklevel=5)


def _encode(value):
    """Return a line with a checksum and the value as JSON."""
    text = json.dumps(value, default=str).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _decode(line):
    """Return the value of a line of `_encode`; `None` for a damaged line."""
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    return json.loads(text) if checksum == b"%08x" % zlib.crc32(text) else None


def _file_state(path):
    """Return size and modification time of a file, by which changes are detected; `None` if it is missing."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


@contextlib.contextmanager
def _lock(path):
    """Lock a file; raise `BlockingIOError` if another process has locked it."""
    lock = filelock.FileLock(f"{path}.lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout as error:
        raise BlockingIOError(f"Another process is using {path}. Wait for it, or choose another file.") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # on Windows, filelock itself removes the file
            os.remove(lock.lock_file)
        lock.release()
