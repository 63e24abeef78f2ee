"""Entry point of the command `genrekeras` and of `python -m genrekeras`."""

import os
import sys

from genrekeras.cli import main


def run() -> None:
    """Run the command line."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller; the next file to be opened would get its descriptor
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
    main(prog_name="genrekeras")


if __name__ == "__main__":
    run()
