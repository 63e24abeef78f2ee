"""`python -m genrekeras`."""

from genrekeras.cli import main

main(prog_name="genrekeras")
