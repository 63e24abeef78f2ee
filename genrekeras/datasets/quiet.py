"""Keep absl's warnings about the inner workings of TFDS from users of this library."""

import contextlib
import contextvars
import logging

from absl import logging as absl_logging

_quiet = contextvars.ContextVar("quiet", default=False)


@contextlib.contextmanager
def quiet_absl():
    """Drop what absl logs below an error, in this thread only; levels and streams of the process do not change."""
    token = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(token)


def _passes(record):
    return record.levelno >= logging.ERROR or not _quiet.get()


absl_logging.get_absl_logger().addFilter(_passes)
