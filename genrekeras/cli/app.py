"""Command of the local web page: app."""

import os

import click
from genrekeras.cli.common import MODEL, PRESETS, echo, error_handling, model_file, print_errors


@click.command()
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address of the network interface. 0.0.0.0 means all interfaces.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=7860,
    show_default=True,
    help="Port of the page. 0 selects a free port.",
)
@MODEL
@click.option(
    "--index",
    type=click.Path(exists=True, file_okay=False),
    metavar="FOLDER",
    help="A folder with tracks. The page shows those that are most similar to an uploaded track.",
)
def app(host, port, path, index):
    """Serve a web page that predicts the genres of uploaded or recorded music.

    The page shows the genres of a track, a timeline and a spectrogram, and makes a CSV table of many files. --model is
    the model that is selected at first. By default, only this computer can open the page. With --host 0.0.0.0, all
    computers in the network can. Uploaded files are deleted after the answer.

    The command needs the extra `app`. Stop it with Ctrl-C.
    """
    with error_handling():
        from genrekeras import inference
        from genrekeras.app import analysis, server

        tracks = inference.find_files(index) if index else ()
        names = dict.fromkeys((path, *PRESETS))  # the selected model first
        models = {name if name in PRESETS else os.path.basename(name): model_file(name) for name in names}

        def make_analyser():
            analyser = analysis.Analyser(models, tracks, index)
            print_errors(analyser.errors)
            return analyser

        server.serve(host, port, make_analyser, lambda address: echo(f"Open {address} in a browser. Stop with Ctrl-C."))
