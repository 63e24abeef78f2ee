"""The command line: `genrekeras`, or `python -m genrekeras`."""

import click
from genrekeras.cli import app, collection, files, fma, library, models, runs
from genrekeras.cli.common import OrderedGroup
from genrekeras.utils.progress import printable
from genrekeras.version import __version__


class _Main(OrderedGroup):
    """The main command, which escapes control characters in error messages."""

    def invoke(self, context):
        try:
            return super().invoke(context)
        except click.ClickException as error:
            error.message = printable(error.message or "", keep="\n")  # The message may contain file names.
            raise


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="genrekeras")
def main():
    """Classify music by genre with Keras 3."""


COMMANDS = (
    files.predict,
    files.timeline,
    files.similar,
    files.map_command,
    files.spectrogram,
    library.tag,
    collection.train,
    collection.audit,
    app.app,
    models.info,
    models.evaluate,
    models.calibrate,
    models.export,
    runs.report,
    runs.compare,
    fma.group,
)
for command in COMMANDS:
    main.add_command(command)
