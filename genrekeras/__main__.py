"""`python -m genrekeras`, and `genrekeras` itself."""

from genrekeras.cli import main
from genrekeras.programs import leave_tensorflow_out


def run():
    leave_tensorflow_out()
    main(prog_name="genrekeras")


if __name__ == "__main__":
    run()
