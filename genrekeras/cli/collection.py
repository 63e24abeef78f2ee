"""Commands for a labelled music collection: train, audit."""

import os
import shlex

import click
from genrekeras.cli.common import (
    COLUMNS,
    MAX_CLIPS,
    MUSIC,
    WORKERS,
    echo,
    error_handling,
    file_to_write,
    format_genre_scores,
    wrap,
)
from genrekeras.utils.io import atomic_write
from genrekeras.utils.progress import printable

# Names in `models.backbones.BACKBONES` that have pretrained weights. This copy avoids a slow import.
BACKBONES = ("musicnn", "efficientnet_b0", "efficientnet_lite0", "resnet50")

_OPTIONS = (
    MUSIC,
    click.option(
        "--labels",
        default="folders",
        show_default=True,
        metavar="SOURCE",
        help="Source of the genres: folders (one folder in MUSIC per genre), tags (of the files), or a .csv file with "
        "the path of a file and its genres in each row.",
    ),
    click.option(
        "--backbone",
        type=click.Choice(BACKBONES),
        default="musicnn",
        show_default=True,
        help="The pretrained network that computes the features.",
    ),
    click.option(
        "--pretrained",
        metavar="WEIGHTS",
        help="Weights of the network: msd, mtt, imagenet, or a .weights.h5 file.  [default: msd for musicnn, imagenet "
        "for others]",
    ),
    click.option(
        "--min-tracks",
        type=click.IntRange(min=1),
        default=10,
        show_default=True,
        help="Leave out genres with fewer tracks.",
    ),
    MAX_CLIPS,
    WORKERS,
    click.option(
        "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the assignment to folds."
    ),
)


def _collection_options(command):
    """Add the argument and the options that `train` and `audit` share."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command()
@_collection_options
@click.option(
    "--fine-tune",
    type=click.Choice(["head", "all"]),
    default="head",
    show_default=True,
    help="Train the last layer (head), or all layers, which takes much longer.",
)
@click.option(
    "--distribute",
    is_flag=True,
    help="Train all layers on all devices of this computer. Needs --fine-tune all and the backend JAX.",
)
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False), help="Output folder, new or empty.")
@click.pass_context
def train(context, music, output, **options):
    """Train a model for your genres.

    MUSIC is a folder. A pretrained network computes features of all tracks, and the last layer is trained on them. The
    printed accuracy holds for artists that the model was not trained on: all tracks of an artist or album are in the
    same fold of a cross-validation.

    With --fine-tune all, the network is trained once, on 70 % of the tracks. 10 % select the epoch, and the printed
    accuracy is that of the other 20 %. No artist or album is in two of these parts.

    The output folder contains model.keras, report.html, and the scores. Use the model with "genrekeras predict FILES
    --model OUTPUT". Features are cached, so a later call computes only those of new files. If a call is interrupted,
    run it again.

    The exit code is 1 if some files could not be read.
    """
    with error_handling():
        from genrekeras.runs.collection import train_collection
        from genrekeras.runs.head_scores import describe_learning_curve

        result = train_collection(music, output, **options)
        report, curve = result.report, result.learning_curve
        for text in (result.headline, result.explanation, *(f"Note: {note}" for note in result.collection.notes)):
            click.echo("\n".join(wrap(text)))
        click.echo("\n".join(["", *format_genre_scores(report)]))
        if curve:
            click.echo(f"\nWould more music help? Share of the artists in training, and {report.SCORE_NAME}:")
        for row in curve:
            interval = "" if row["low"] is None else f" [{100 * row['low']:.0f}, {100 * row['high']:.0f}]"
            size = f"{row['artists']:,} artists, {row['tracks']:,} tracks"
            click.echo(f"  {row['share']:4.0%}  {size:<30} {100 * row['score']:3.0f} %{interval}")
        if curve:
            click.echo("\n".join(wrap(describe_learning_curve(curve, report.SCORE_NAME))))
        if result.collection.rare:
            rare = ", ".join(f"{genre} ({size})" for genre, size in result.collection.rare.items())
            text = f"Left out, with fewer than {options['min_tracks']} tracks or only one artist: {rare}"
            click.echo("\n".join(["", *wrap(text)]))
        echo(f"\nReport:  {os.path.join(output, 'report.html')}")
        echo(f"Predict: genrekeras predict FILES --model {shlex.quote(output)}")
    context.exit(1 if result.broken else 0)


@click.command()
@_collection_options
@click.option(
    "--count", type=click.IntRange(min=1), default=50, show_default=True, help="Maximum number of tracks to list."
)
@file_to_write(
    "-o",
    "--output",
    endings=(".csv", ".html"),
    help="Write a .csv table of all tracks, or an .html page to listen to the listed tracks.",
)
@click.pass_context
def audit(context, music, count, output, **options):
    """List the tracks that may have a wrong genre.

    MUSIC is a folder. Each track is predicted by a model that was not trained on its artist. The tracks
    whose genre has the lowest probability are listed, as many as are estimated to have a wrong genre. Listen to a track
    before you change its genre: a correct genre of an unusual track is listed too. No file is changed.

    The features and the models are those of "genrekeras train".

    The exit code is 1 if some files could not be read.
    """
    with error_handling():
        from genrekeras.library import audit as audit_collection
        from genrekeras.reports.audit_page import audit_html

        result = audit_collection(music, **options)
        tracks = result.tracks
        suspicious = tracks[tracks["suspicious"]]
        listed = suspicious.head(count)
        summary = f"{len(suspicious):,} of {len(tracks):,} tracks may have a wrong genre"
        if len(listed) < len(suspicious):
            summary += f". The {len(listed)} most suspicious are listed"
        if output and output.lower().endswith(".csv"):
            with atomic_write(output) as temporary:
                table = tracks.assign(genres=["; ".join(genres) for genres in tracks["genres"]])
                table.to_csv(temporary, index=False, errors="surrogateescape")
        elif output:
            audit_html(listed, output, summary, result.headline)
        if output:
            echo(f"{result.headline}\n{summary}: {output}")
        else:
            echo(f"{result.headline}\n{summary}.")
            for number, row in enumerate(listed.itertuples(), 1):
                click.echo("\n".join(_format_track(number, row, os.path.abspath(music))))
    context.exit(1 if result.broken else 0)


def _format_track(number, row, folder):
    """Return two lines of text for a suspicious track: its genre and the suggested genre, and its path."""
    texts = [f"{printable(row.genre)} ({row.probability:.0%})"]
    if row.suggested:
        texts.append(f"{printable(row.suggested)} ({row.suggested_probability:.0%})")
    path, room = printable(os.path.relpath(row.path, folder)), COLUMNS - 6
    return [f"{number:4}. {' -> '.join(texts)}", f"      {path if len(path) <= room else '...' + path[-room + 3 :]}"]
