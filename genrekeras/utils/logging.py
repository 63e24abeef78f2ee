"""Filter the log messages of absl, which TFDS uses."""

import contextlib
import contextvars
import logging
from collections.abc import Iterator

from absl import logging as absl_logging

_only_errors = contextvars.ContextVar("only_errors", default=False)


@contextlib.contextmanager
def only_absl_errors() -> Iterator[None]:
    """Context manager that discards the log messages of absl below the level ERROR.

    The messages of other threads are not discarded. The levels and handlers of the loggers do not change.
    """
    absl_logging.get_absl_logger().addFilter(_is_shown)  # has no effect if the logger already has this filter
    token = _only_errors.set(True)
    try:
        yield
    finally:
        _only_errors.reset(token)


def _is_shown(record):
    return record.levelno >= logging.ERROR or not _only_errors.get()
