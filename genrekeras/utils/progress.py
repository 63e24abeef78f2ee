"""Progress and messages on standard error, so that results can be piped."""

import re
import sys

import tqdm

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def print_message(text):
    """Print a line above any progress bar; do nothing without a standard error."""
    if _is_open(sys.stderr):
        tqdm.tqdm.write(printable(text, keep="\n"), file=sys.stderr)


def bar(total, what, unit, **options):
    """Return a progress bar, a context manager with `update(n)`; it is disabled without a standard error."""
    return tqdm.tqdm(total=total, desc=what, unit=unit, smoothing=0.05, disable=not _is_open(sys.stderr), **options)


def printable(text, keep=""):
    r"""Escape control characters, such as `\x1b`, and bytes of a file name that are not UTF-8.

    Args:
        text: str.
        keep: str, control characters that stay as they are.
    """

    def escaped(found):
        character = found[0]
        if "\udc80" <= character <= "\udcff":  # Python's surrogate escape of a byte
            return f"\\x{ord(character) - 0xDC00:02x}"
        return character if character in keep else character.encode("unicode_escape").decode()

    return _CONTROL.sub(escaped, text)


def _is_open(stream):
    return stream is not None and not getattr(stream, "closed", False)
