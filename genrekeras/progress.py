"""What long work tells while it runs: on standard error, so that results can be piped."""

import sys

import tqdm


def say(text):
    """One line, above any progress bar."""
    tqdm.tqdm.write(text, file=sys.stderr)


def bar(total, what, unit, **options):
    """A progress bar with the time left; a context manager with `update(n)`."""
    return tqdm.tqdm(total=total, desc=what, unit=unit, smoothing=0.05, **options)
