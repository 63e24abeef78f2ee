"""The command line: `genrekeras`, or `python -m genrekeras`."""

import click
from genrekeras.cli import files, fma, models, runs


class _InOrder(click.Group):
    """Commands in the order in which they are needed, which is that of `COMMANDS`."""

    def list_commands(self, context):
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="genrekeras", prog_name="genrekeras")
def main():
    """Tell the genre of music with Keras 3."""


COMMANDS = (
    files.predict,
    files.timeline,
    files.similar,
    files.map_command,
    files.spectrogram,
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
