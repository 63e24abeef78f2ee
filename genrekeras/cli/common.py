"""What the commands share: options, errors without a traceback, models and data."""

import contextlib
import os
import warnings

import click
from genrekeras.datasets import fma
from genrekeras.datasets.folder import find_files, load_folder
from genrekeras.datasets.splits import PROTOCOLS, match_genres
from genrekeras.files import is_stream
from genrekeras.presets import preset_file

MODEL = click.option(
    "-m",
    "--model",
    "path",
    type=click.Path(),
    default=preset_file("fma_small"),
    help="A saved GenreClassifier, such as model.keras.  [default: fma_small, which comes with genrekeras]",
)
MODEL_FILE = click.argument("path", metavar="[MODEL]", type=click.Path(), default=preset_file("fma_small"))
FILE = click.argument("file", type=click.Path())
FILES = click.argument("files", nargs=-1, required=True, type=click.Path())
FOLDER = click.argument("folder", type=click.Path(file_okay=False))
SUBSET = click.option(
    "--subset", type=click.Choice(list(fma.SUBSETS)), default="small", show_default=True, help="Of FMA."
)
PROTOCOL = click.option("--protocol", type=click.Choice(PROTOCOLS), help="How clips were dealt to splits.")
CROPS = click.option(
    "--crops", type=click.IntRange(min=1), default=3, show_default=True, help="Heard of each track and averaged."
)
MAX_CLIPS = click.option(
    "--max-clips", type=click.IntRange(min=1), default=30, show_default=True, help="Heard of a long track."
)


PICTURES = (".png", ".pdf", ".svg")


def file_to_write(*names, endings, **options):
    """An option that names a file to write, refused before any work where that cannot be done.

    Args:
        names: of the option.
        endings: tuple of str, of which the file must have one; empty for any.
        options: of `click.option`.
    """

    def check(context, parameter, path):
        if path is None:
            return None
        if endings and not path.lower().endswith(endings):
            raise click.BadParameter(
                f"must end in {', '.join(endings[:-1])}{' or ' if endings[1:] else ''}{endings[-1]}"
            )
        if is_stream(path):
            return path
        folder = os.path.dirname(os.path.abspath(path))
        if not os.path.isdir(folder):
            raise click.BadParameter(f"there is no folder {folder}")
        if not os.access(folder, os.W_OK):
            raise click.BadParameter(f"the folder {folder} cannot be written to")
        return path

    return click.option(*names, type=click.Path(dir_okay=False), callback=check, **options)


@contextlib.contextmanager
def errors_named():
    """Errors of use without a traceback, warnings as notes."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *arguments, **options: click.echo(f"Note: {message}", err=True)
        try:
            yield
        except (OSError, ValueError, ImportError) as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt as error:
            raise click.ClickException("broken off. What is whole is kept; call it again to go on.") from error


def load_data(folder, subset, protocol, model, split):
    """Load FMA, or a folder with one folder per genre, to evaluate a model.

    Genres that the model lacks are refused before any file is decoded.

    Args:
        folder, subset, protocol, split: str, of the command; `protocol` may be `None`.
        model: `GenreClassifier`.

    Returns:
        `Dataset` and the `Split` of it.

    Raises:
        ValueError: the genres are not those of the model, or the split has no clips.
    """
    options = {"sample_rate": model.sample_rate, **({"protocol": protocol} if protocol else {})}
    if fma.is_fma(folder):
        match_genres(fma.SUBSETS[subset], model.genres)
        data = fma.load_fma(folder, subset, **options)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `load_folder` gives the same ones
            match_genres(find_files(folder)["genre"], model.genres)
        data = load_folder(folder, **options)
    clips = getattr(data, split)
    if not len(clips):
        raise ValueError(
            f"{folder}: the {split} split has no clips under the protocol {data.protocol}. Choose another "
            "`--protocol`, add music, or evaluate with `--split all`."
        )
    return data, clips


def bar(share, width=30):
    """A share as a bar of blocks."""
    eighths = round(share * width * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def tell_unread(errors):
    """A line on standard error for each row of a table with `path` and `error`."""
    for row in errors.itertuples():
        click.echo(f"{row.path}: {row.error}", err=True)
