"""Files that are there whole or not at all."""

import contextlib
import os


@contextlib.contextmanager
def whole_file(path):
    """A name to write to, beside `path`; what was written there is moved to `path` at the end, and removed after an
    error.

    Args:
        path: str or path-like.

    Yields:
        str, with the extension of `path`.
    """
    folder, name = os.path.split(os.fspath(path))
    temporary = os.path.join(folder, f".{os.getpid()}-{name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)
