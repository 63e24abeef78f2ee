"""Progress bars and messages. They are printed on standard error, so standard output can be piped."""

import re
import sys
from typing import Any

import tqdm

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def print_message(text: str, to_stdout: bool = False) -> None:
    """Print text on standard error or standard output, above the progress bars.

    Nothing is printed if the process has no such stream.
    """
    stream = sys.stdout if to_stdout else sys.stderr
    if _is_open(stream):
        tqdm.tqdm.write(printable(text, keep="\n"), file=stream)


def bar(total: int | None, description: str, unit: str, **options: Any) -> tqdm.tqdm:
    """Return a progress bar on standard error.

    The progress bar is disabled if the process has no standard error.

    Args:
        total: number of steps. `None` if the number is unknown.
        description: text before the bar.
        unit: name of a step.
        **options: further arguments of `tqdm.tqdm`.

    Returns:
        The bar, which is a context manager. Call its method `update(n)` after `n` steps.
    """
    disable = not _is_open(sys.stderr)
    return tqdm.tqdm(total=total, desc=description, unit=unit, smoothing=0.05, disable=disable, **options)


def printable(text: str, keep: str = "") -> str:
    r"""Escape the control characters in a text, such as `\x1b`.

    If the text is a file name, bytes of it that are not UTF-8 are escaped too.

    Args:
        text: any text.
        keep: control characters that are not escaped.
    """

    def escape(match):
        character = match[0]
        if "\udc80" <= character <= "\udcff":  # Python represents an undecodable byte in this way
            return f"\\x{ord(character) - 0xDC00:02x}"
        return character if character in keep else character.encode("unicode_escape").decode()

    return _CONTROL.sub(escape, text)


def _is_open(stream):
    return stream is not None and not getattr(stream, "closed", False)
