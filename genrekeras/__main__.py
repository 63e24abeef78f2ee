"""`python -m genrekeras`, and `genrekeras` itself."""

import os
import sys

from genrekeras.cli import main


def run():
    """Run the command line."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed, and the next file that is opened would take its place
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
    main(prog_name="genrekeras")


if __name__ == "__main__":
    run()
