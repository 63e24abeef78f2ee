"""The journal of written tags: a file from which the old tags can be restored."""

from __future__ import annotations

import base64
import contextlib
import datetime
import errno
import json
import os
import secrets
import socket
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from genrekeras.tags import Change
from genrekeras.tags.patch import Hunk
from genrekeras.utils.io import StrPath, process_lock, state_dir
from genrekeras.version import __version__

_FORMAT = "genrekeras tag journal"
_VERSION = 1


class JournalError(ValueError):
    """Exception for a file that is not a journal of written tags."""


class JournalContent(NamedTuple):
    """Content of a journal.

    Attributes:
        host: name of the machine that wrote it.
        folders: folders in which files were written.
        changes: the changes of files, in the order in which they were written.
        damaged: numbers of the lines that cannot be read. The first line has the number 1.
    """

    host: str
    folders: list[str]
    changes: list[Change]
    damaged: list[int]


class TagJournal:
    """Context manager that records changes of tags in a file, before they are made.

    The journal is a text file with a JSON object in each line. The first line describes the journal. Another line
    contains a change, or a folder in which files are written. A change contains the bytes that are replaced, so its
    file can be restored exactly. Each line is written to the disk before the file is replaced. If the journal exists,
    lines are appended.

    Args:
        path: path of the journal. `None` uses a new file in the state folder of the user.

    Attributes:
        path: path of the journal.

    Raises:
        JournalError: on entering, if the file exists and is not a journal.
        OSError: on entering, if the file cannot be written.
    """

    def __init__(self, path: StrPath | None = None):
        if path is None:
            time = datetime.datetime.now().strftime("%Y-%m-%dT%H-%M-%S")
            path = os.path.join(state_dir(), "tag", f"{time}-{secrets.token_hex(2)}.jsonl")
        self.path = os.fspath(path)
        self._file: BinaryIO | None = None
        self._folders: set[str] = set()

    def __enter__(self) -> TagJournal:
        with tag_lock():
            os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
            exists = os.path.exists(self.path) and os.path.getsize(self.path) > 0
            if exists:
                read_journal(self.path)
            self._file = open(self.path, "ab", buffering=0)
            try:
                if exists:
                    self._end_last_line()
                else:
                    header = {"format": _FORMAT, "version": _VERSION, "genrekeras": __version__}
                    self._write({**header, "host": socket.gethostname()})
            except BaseException:
                self._file.close()
                raise
        return self

    def __exit__(self, *error: object) -> None:
        assert self._file is not None
        self._file.close()

    def add_folder(self, path: str) -> bool:
        """Record a folder in which files will be written. Return whether it was not recorded before."""
        is_new = path not in self._folders
        if is_new:
            self._write({"folder": path})
            self._folders.add(path)
        return is_new

    def add_change(self, change: Change) -> None:
        """Record a change that will be made."""
        hunks = [[hunk.offset, hunk.length, base64.b64encode(hunk.old).decode()] for hunk in change.hunks]
        time = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        self._write({**change._asdict(), "hunks": hunks, "time": time})

    def _write(self, value: dict[str, Any]) -> None:
        """Append a line, and wait until it is on the disk."""
        assert self._file is not None
        line = json.dumps(value).encode() + b"\n"
        size = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
            os.fsync(self._file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(size)  # Otherwise, the next line would be damaged too.
            raise

    def _end_last_line(self):
        """End the last line with a newline, or remove the line that a process was writing when it was killed."""
        with open(self.path, "rb") as file:
            content = file.read()
        start = content.rfind(b"\n") + 1
        if _decode(content[start:]) is None:  # Its change was not made.
            self._file.truncate(start)
        else:
            self._file.write(b"\n")


def read_journal(path: StrPath) -> JournalContent:
    """Read a journal.

    Args:
        path: path of the journal.

    Raises:
        JournalError: the file is not a journal.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        *lines, last = file.read().split(b"\n")
    if not lines and not last:  # The process was killed before it wrote the first line.
        return JournalContent("", [], [], [])
    if _decode(last) is not None:  # Otherwise, there is nothing, or an incomplete line whose change was not made.
        lines.append(last)  # Some text editors remove the last newline.
    header = _decode(lines[0]) if lines else None
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        raise JournalError(f"{os.fspath(path)} is not a journal of `genrekeras tag`, or its first line is damaged.")
    if header.get("version") != _VERSION:
        raise JournalError(f"{os.fspath(path)} was written by another version of genrekeras.")
    content = JournalContent(str(header.get("host", "")), [], [], [])
    for number, line in enumerate(lines[1:], 2):
        value = _decode(line)
        try:
            if "folder" in value:
                content.folders.append(os.fspath(value["folder"]))
            else:
                content.changes.append(_to_change(value))
        except (TypeError, KeyError, ValueError, AttributeError):
            content.damaged.append(number)
    return content


@contextlib.contextmanager
def tag_lock() -> Iterator[None]:
    """Context manager that only one process of a user at a time can enter. Other processes wait.

    Raises:
        OSError: the state folder of the user, which contains the lock, cannot be created or written.
    """
    folder = state_dir()
    with contextlib.suppress(OSError):
        os.makedirs(folder, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OSError(
            f"The state folder {folder} cannot be created or written. On Linux, set the environment variable "
            "XDG_STATE_HOME to another folder."
        )
    with process_lock(folder, "tag files", announce=False):
        yield


def _to_change(value):
    """Return the `Change` in the object of a line."""
    hunks = [
        Hunk(int(offset), int(length), base64.b64decode(old, validate=True)) for offset, length, old in value["hunks"]
    ]
    texts = {name: os.fspath(value[name]) for name in ("path", "audio", "before", "after")}
    return Change(**texts, old=tuple(value["old"]), new=tuple(value["new"]), hunks=tuple(hunks))


def _decode(line):
    """Return the JSON value in a line, or `None` if the line is damaged."""
    try:
        return json.loads(line)
    except ValueError:
        return None
