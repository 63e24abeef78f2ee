"""Suppress log messages of absl about the internals of TFDS."""

import contextlib
import contextvars
import logging

from absl import logging as absl_logging

_quiet = contextvars.ContextVar("quiet", default=False)


@contextlib.contextmanager
def quiet_absl():
    """Drop log messages of absl below ERROR, in this thread only; global levels and handlers do not change."""
    token = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(token)


def _passes(record):
    return record.levelno >= logging.ERROR or not _quiet.get()


absl_logging.get_absl_logger().addFilter(_passes)
