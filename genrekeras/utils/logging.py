"""Filter the log messages of absl, with which TFDS reports its internals."""

import contextlib
import contextvars
import logging

from absl import logging as absl_logging

_only_errors = contextvars.ContextVar("only_errors", default=False)


@contextlib.contextmanager
def only_absl_errors():
    """Discard log messages of absl below ERROR in this thread. Global levels and handlers do not change."""
    absl_logging.get_absl_logger().addFilter(_passes)  # adding the same filter again has no effect
    token = _only_errors.set(True)
    try:
        yield
    finally:
        _only_errors.reset(token)


def _passes(record):
    return record.levelno >= logging.ERROR or not _only_errors.get()
