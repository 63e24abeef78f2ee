"""Store finished rows of a long computation in a file, so that a later call does not compute them again."""

import contextlib
import json
import os
import warnings
import zlib

import filelock
from genrekeras.utils.io import atomic_write


class Journal:
    """Rows of files by path; a context manager that reads the rows of earlier calls and stores new ones.

    It is a text file. Its first line records what the rows depend on. Each other line holds a row, and the size and
    modification time of its file. Each line begins with its checksum.

    Args:
        path: str or path-like, the file; `None` keeps nothing.
        about: JSON-serializable dict, what the rows depend on. Rows that depend on something else and damaged rows are
            removed, with a warning.

    Attributes:
        rows: dict, path -> row, of the files that did not change and could be read.

    Raises:
        ValueError: on entering, the file is not a journal.
        OSError: on entering, it cannot be written, or another process is using it.
    """

    def __init__(self, path, about):
        self.rows = {}
        self._path = None if path is None else os.fspath(path)
        self._about = about
        self._file = None
        self._opened = contextlib.ExitStack()

    def __enter__(self):
        with self._opened:  # closes the open files after an error
            if self._path is not None:
                open(self._path, "ab").close()  # so that an error names this file, not the lock file
                self._opened.enter_context(_one_user(self._path))
                self._restore()
                self._file = self._opened.enter_context(open(self._path, "ab"))
            self._opened = self._opened.pop_all()
        return self

    def __exit__(self, *error):
        self._opened.close()

    def add(self, row):
        """Store a row, a dict with `path` and `error`."""
        self.rows[row["path"]] = row
        if self._file:
            self._file.write(_line([row, _state(row["path"])]))
            self._file.flush()

    def _restore(self):
        with open(self._path, "rb") as file:
            content = file.read()
        first = _line(self._about)
        head, *lines = content.splitlines(keepends=True) or [b""]
        if lines and not lines[-1].endswith(b"\n"):  # the process ended while it wrote
            lines.pop()
        kept = [line for line in lines if _value(line) is not None]
        if head != first and not first.startswith(content):
            if _value(head) is None and not kept:
                raise ValueError(f"{self._path} is not a journal of predictions. Remove it, or choose another file.")
            self._warn("is of another model, of other limits or of another `max_clips`, or damaged: it is started anew")
            kept = []
        elif damaged := len(lines) - len(kept):
            self._warn(f"is damaged: {damaged} of its rows are removed, and their files are processed again")
        for row, state in map(_value, kept):
            if row["error"] is None and state == _state(row["path"]):
                self.rows[row["path"]] = row
        wanted = b"".join([first, *kept])
        if wanted != content:
            with atomic_write(self._path) as temporary, open(temporary, "wb") as file:
                file.write(wanted)

    def _warn(self, what):
        warnings.warn(f"{self._path} {what}.", stacklevel=5)


def _line(value):
    text = json.dumps(value, default=str).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _value(line):
    """Return the value that `_line` encoded; `None` for a damaged line."""
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    return json.loads(text) if checksum == b"%08x" % zlib.crc32(text) else None


def _state(path):
    """Return size and modification time of a file, by which changes are detected; `None` if it is missing."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


@contextlib.contextmanager
def _one_user(path):
    """Lock a file; raise `BlockingIOError` if another process holds its lock."""
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
