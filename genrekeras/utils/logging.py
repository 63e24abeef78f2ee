"""Suppress log messages of absl about the internals of TFDS."""

import contextlib
import contextvars
import logging

from absl import logging as absl_logging

_only_errors = contextvars.ContextVar("only_errors", default=False)


@contextlib.contextmanager
def only_absl_errors():
    """Drop log messages of absl below ERROR, in this thread only; global levels and handlers do not change."""
    absl_logging.get_absl_logger().addFilter(_passes)  # the same filter is added once
    token = _only_errors.set(True)
    try:
        yield
    finally:
        _only_errors.reset(token)


def _passes(record):
    return record.levelno >= logging.ERROR or not _only_errors.get()
