"""grain and TFDS remark on things that nobody asked about; this keeps them to errors."""

import contextlib
import io
import logging


@contextlib.contextmanager
def quiet_absl():
    """Without absl's warnings and without what is printed to standard output."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
