"""Commands about files: what a model makes of them."""

import json
import os

import click
import genrekeras as gk
import keras
from genrekeras import inference
from genrekeras.cli.common import (
    FILE,
    FILES,
    MAX_CLIPS,
    MODEL,
    PICTURES,
    bar,
    errors_named,
    file_to_write,
    tell_unread,
)
from genrekeras.files import whole_file
from genrekeras.loading import load_model


@click.command()
@FILES
@MODEL
@click.option("--csv", "form", flag_value="csv", help="A row for each file, with all probabilities.")
@click.option("--json", "form", flag_value="json", help="The same as a JSON list.")
@file_to_write("-o", "--output", endings=(), help="Write to this .csv or .json file.")
@click.option("--top", type=click.IntRange(min=1), default=3, show_default=True, help="Genres shown for each file.")
@MAX_CLIPS
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Threads that decode.")
@click.option("--write-tags", is_flag=True, help="Put the genre into the files' own tags, where it is not unsure.")
@click.option("--keep-copies", is_flag=True, help="Keep each file as it was, as FILE.orig, before its tags change.")
@click.pass_context
def predict(context, files, path, form, output, top, max_clips, workers, write_tags, keep_copies):
    """Tell the genre of files and folders.

    FILES are audio files, and folders with audio files anywhere below them. A track is heard in clips side by side, and
    their probabilities are averaged. One that is between genres, or like none of them, is marked unsure. With --output,
    a call that was broken off goes on when it is made again.

    The exit code is 0 if all files could be read (and tagged), 1 if some could not, and 2 for a wrong call.
    """
    with errors_named():
        form = form or _form(output)
        paths = inference.find_files(files)
        journal = None if output is None else f"{output}.part"
        table = load_model(path).predict_files(paths, max_clips=max_clips, workers=workers, journal=journal)
        text = {"csv": _as_csv, "json": _as_json, None: _as_bars}[form](table, top)
        text = text.encode("utf-8", "surrogateescape")  # names may be of any bytes
        if output is None:
            click.echo(text, nl=False)
        else:
            with whole_file(output) as temporary, open(temporary, "wb") as file:
                file.write(text)
        wrong = table[table["error"].notna()]
        if form:
            tell_unread(wrong)
        if len(wrong):
            click.echo(f"{len(wrong)} of {len(table)} files could not be read.", err=True)
        untagged = _write_tags(table[table["error"].isna()], keep_copies) if write_tags else []
        for error in untagged:
            click.echo(str(error), err=True)
        if journal:
            os.remove(journal)
    context.exit(1 if len(wrong) or untagged else 0)


@click.command()
@FILE
@MODEL
@file_to_write("-o", "--output", endings=(*PICTURES, ".csv"), required=True, help="A picture or a .csv table.")
@click.option("--hop-seconds", type=float, help="From clip to clip.  [default: half a clip]")
def timeline(file, path, output, hop_seconds):
    """Tell the genres along a track.

    FILE is heard in clips that overlap by half; a picture or a table shows the genres of each.
    """
    from genrekeras import report

    with errors_named():
        table = load_model(path).predict_timeline(file, hop_seconds=hop_seconds)
        if output.lower().endswith(".csv"):
            with whole_file(output) as temporary:
                table.to_csv(temporary, index=False)
        else:
            report.timeline(table, output, os.path.basename(file))
        click.echo(f"{len(table)} clips of {file}: {output}")


@click.command()
@FILE
@FILES
@MODEL
@click.option("--count", type=click.IntRange(min=1), default=10, show_default=True, help="Of files, the most.")
@MAX_CLIPS
@click.pass_context
def similar(context, file, files, path, count, max_clips):
    """Find the files that sound most like one.

    FILES are audio files, and folders with audio files anywhere below them; FILE may be among them. Similarity is the
    cosine of the mean features of two files: 1 is the same.

    The exit code is 1 if some files could not be read.
    """
    with errors_named():
        paths = inference.find_files(files)
        others = [other for other in paths if os.path.realpath(other) != os.path.realpath(file)]
        found = load_model(path).embed_files([file, *others], max_clips=max_clips)
        tell_unread(found.errors)
        if file not in set(found.files["path"]):
            raise ValueError(f"{file} cannot be read, so nothing is like it.")
        for row in found.nearest(file, count).itertuples():
            click.echo(f"{row.similarity:6.3f}  {row.path}   ({row.genre})")
    context.exit(1 if len(found.errors) else 0)


@click.command(name="map")
@FILES
@MODEL
@file_to_write("-o", "--output", endings=PICTURES, required=True, help="A .png, .pdf or .svg file.")
@MAX_CLIPS
@click.pass_context
def map_command(context, files, path, output, max_clips):
    """Draw a collection on a plane.

    What sounds alike to the model lies close together. FILES are audio files, and folders with audio files anywhere
    below them.

    The exit code is 1 if some files could not be read.
    """
    from genrekeras import report

    with errors_named():
        found = load_model(path).embed_files(files, max_clips=max_clips)
        report.collection_map(found, output)
        tell_unread(found.errors)
        click.echo(f"{len(found.files)} files: {output}")
    context.exit(1 if len(found.errors) else 0)


@click.command()
@FILE
@file_to_write("-o", "--output", endings=PICTURES, required=True, help="A .png, .pdf or .svg file.")
@click.option("-m", "--model", "path", type=click.Path(), help="Whose front end.  [default: a new GenreClassifier's]")
@click.option("--offset", type=click.FloatRange(min=0), default=0.0, show_default=True, help="In s, where to begin.")
def spectrogram(file, output, path, offset):
    """Draw what a model sees of a track.

    The gray image that its front end makes of a clip of FILE.
    """
    from genrekeras import audio, report

    with errors_named():
        if path is None:
            front_end, seconds = keras.Sequential(gk.layers.default_front_end()), 10.0
        else:
            model = load_model(path)
            front_end, seconds = model.front_end, model.clip_seconds
        [mel] = [layer for layer in front_end.layers if isinstance(layer, gk.layers.MelSpectrogram)]
        waveform = audio.load(file, mel.sample_rate, offset, seconds)
        waveform = audio.to_length(waveform, round(seconds * mel.sample_rate))
        image = keras.ops.convert_to_numpy(front_end(waveform[None], training=False))[0, :, :, 0]
        flipped = any(getattr(layer, "flip", False) for layer in front_end.layers)
        frequencies = mel.band_frequencies[:: -1 if flipped else 1]
        report.spectrogram(image, seconds, frequencies, output, os.path.basename(file), offset)
        click.echo(f"{image.shape[0]} bands, {image.shape[1]} frames of {seconds:g} s: {output}")


def _write_tags(table, keep_copies):
    """Write the genres into the tags of the files, but for those of low confidence. Return the errors, one a file."""
    from genrekeras import progress, tags

    errors = []
    sure = table[table["unsure"] != True]  # noqa: E712 - None where the model is not calibrated
    with progress.bar(len(sure), "Writing tags", "file") as shown:
        for row in sure.itertuples():
            try:
                tags.write_genre(row.path, row.genre, f"{row.path}.orig" if keep_copies else None)
            except tags.TagError as error:
                errors.append(error)
            shown.update()
    return errors


def _form(output):
    if output is None:
        return None
    ending = os.path.splitext(output)[1].lower()
    if ending not in (".csv", ".json"):
        raise click.UsageError(f"--output must end in .csv or .json, or come with --csv or --json. Received: {output}")
    return ending[1:]


def _as_csv(table, top):
    return table.to_csv(index=False)


def _as_json(table, top):
    rows = [{key: None if value != value else value for key, value in row.items()} for row in table.to_dict("records")]
    return json.dumps(rows, indent=1) + "\n"


def _as_bars(table, top):
    genres = inference.genres_of(table)
    width = max(map(len, genres))
    lines = []
    for _, row in table.iterrows():
        if row["error"]:
            lines += [row["path"], f"  could not be read: {row['error']}"]
            continue
        lines.append(f"{row['path']}   ({row['seconds']:.0f} s heard{', unsure' if row['unsure'] else ''})")
        probabilities = row[genres].astype(float).sort_values(ascending=False)[:top]
        lines += [f"  {genre:<{width}} {share:6.1%}  {bar(share)}" for genre, share in probabilities.items()]
    return "\n".join(lines) + "\n"
