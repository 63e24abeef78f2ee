"""Replace an audio file by a new file that has the same owner, permissions and extended attributes."""

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from genrekeras.tags.reading import TagError
from genrekeras.utils.io import StrPath, atomic_write


def check_replaceable(path: StrPath) -> None:
    """Raise `TagError` if a file cannot be replaced by a new file.

    Args:
        path: the file, without symbolic links.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise TagError(path, "it is not a regular file")
    if status.st_nlink > 1:
        raise TagError(
            path,
            f"it has {status.st_nlink} hard links. The other names would keep the old file. Tag a copy of it instead",
        )
    if not os.access(path, os.W_OK):
        raise TagError(path, "its tags cannot be written: the file is read-only")
    if not os.access(os.path.dirname(path), os.W_OK | os.X_OK):
        raise TagError(path, "its tags cannot be written: the folder is read-only")


class Replacement(NamedTuple):
    """A new file that will replace a file.

    Attributes:
        path: path of the new file.
        check: function that raises `TagError` if another program has changed the old file since the new file was made.
    """

    path: str
    check: Callable[[], None]


@contextlib.contextmanager
def replacement(path: StrPath) -> Iterator[Replacement]:
    """Context manager that yields an empty file, which replaces a file at the end.

    The new file is in the same folder. It has the same owner, group, permissions and extended attributes. The body
    writes its content. If the body raises an exception, the new file is removed and the old file stays as it is.

    Args:
        path: the file, without symbolic links.

    Raises:
        TagError: the file cannot be replaced, see `check_replaceable`; its owner, permissions or extended attributes
            cannot be kept; or another program changed the file in the meantime.
        OSError: the new file cannot be written.
    """
    check_replaceable(path)
    identity = _identity(path)

    def check():
        if _identity(path) != identity:
            raise TagError(path, "another program changed it at the same time")

    with atomic_write(path) as temporary:
        _create_like(path, temporary)
        yield Replacement(temporary, check)
        check()


def _create_like(path, target):
    """Create an empty file with the owner, group, permissions and extended attributes of another file."""
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    status = os.stat(path)
    if _attributes(path)[:2] != _attributes(target)[:2]:
        with contextlib.suppress(OSError):
            os.chown(target, status.st_uid, status.st_gid)
    for name in _attributes(target)[3].keys() - _attributes(path)[3].keys():  # such as an ACL inherited from the folder
        with contextlib.suppress(OSError):
            os.removexattr(target, name)
    shutil.copystat(path, target)
    if _attributes(path) != _attributes(target):
        raise TagError(path, "its owner, group, permissions or extended attributes cannot be set for the new file")


def _attributes(path):
    """Return the owner, group, permissions and extended attributes of a file."""
    status = os.stat(path)
    try:
        names = os.listxattr(path)
    except (AttributeError, OSError):  # the operating system or the file system does not support extended attributes
        names = []
    attributes = {name: os.getxattr(path, name) for name in names}
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), attributes


def _identity(path):
    """Return values that change when another program replaces or changes the file."""
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
