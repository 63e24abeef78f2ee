"""Commands for audio files: predictions, similar files, and pictures."""

import csv
import json
import os

import click
from genrekeras.cli.common import (
    FILE,
    FILES,
    MAX_CLIPS,
    MODEL,
    PICTURES,
    bar,
    check_ending,
    echo,
    errors_named,
    file_to_write,
    load_model,
    tell_unread,
)
from genrekeras.utils.io import atomic_write, is_stream
from genrekeras.utils.progress import printable


@click.command()
@FILES
@MODEL
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV: a row for each file, with all probabilities.")
@click.option("--json", "as_json", is_flag=True, help="Print the same as a JSON list.")
@file_to_write("-o", "--output", endings=(), help="Write to this .csv or .json file.")
@click.option("--top", type=click.IntRange(min=1), default=3, show_default=True, help="Genres shown for each file.")
@MAX_CLIPS
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Threads that decode.")
@click.option("--write-tags", is_flag=True, help="Write the genre into the files' tags, except at low confidence.")
@click.option("--keep-copies", is_flag=True, help="Keep a copy of each original file as FILE.orig.")
@click.pass_context
def predict(context, files, path, as_csv, as_json, output, top, max_clips, workers, write_tags, keep_copies):
    """Predict the genre of files and folders.

    FILES are audio files, and folders with audio files anywhere below them. Clips are taken from a track at even
    distances, and their probabilities are averaged. A prediction has low confidence if its probability is low, or if
    the track is unlike the training data.

    With --output FILE, finished rows are kept in FILE.journal. A later call with the same FILE, model and --max-clips
    processes only files that are new or have changed.

    The exit code is 0 if all files could be read (and tagged), 1 if some could not, and 2 for a wrong call.
    """
    form = _form(as_csv, as_json, output)
    with errors_named():
        from genrekeras import inference

        paths = inference.find_files(files)
        journal = _journal(output)
        table = load_model(path).predict_files(paths, max_clips=max_clips, workers=workers, journal=journal)
        text = {"csv": _as_csv, "json": _as_json, None: _as_bars}[form](table, top)
        text = text.encode("utf-8", "surrogateescape")  # names may be of any bytes
        if output is None:
            click.echo(text, nl=False)
        else:
            with atomic_write(output) as temporary, open(temporary, "wb") as file:
                file.write(text)
        wrong = table[table["error"].notna()]
        if form:
            tell_unread(wrong)
        if len(wrong):
            click.echo(f"{len(wrong)} of {len(table)} files could not be read.", err=True)
        untagged = _write_tags(table[table["error"].isna()], keep_copies) if write_tags else []
        for error in untagged:
            echo(str(error), err=True)
    context.exit(1 if len(wrong) or untagged else 0)


@click.command()
@FILE
@MODEL
@file_to_write("-o", "--output", endings=(*PICTURES, ".csv"), help="A picture or a .csv table, instead of text.")
@click.option("--hop-seconds", type=float, help="Maximum seconds between clip starts.  [default: half a clip]")
def timeline(file, path, output, hop_seconds):
    """Show the genres along a track.

    FILE is split into clips that overlap, by half unless --hop-seconds is given. The most probable genre of each clip
    is printed, or the probabilities of all genres are written to a picture or a table.
    """
    with errors_named():
        table = load_model(path).predict_timeline(file, hop_seconds=hop_seconds)
        if output is None:
            click.echo(_as_text(table), nl=False)
            return
        if output.lower().endswith(".csv"):
            with atomic_write(output) as temporary:
                table.to_csv(temporary, index=False, quoting=csv.QUOTE_NONNUMERIC)
        else:
            from genrekeras import visualization

            visualization.timeline(table, output, os.path.basename(file))
        echo(f"{len(table)} clips of {file}: {output}")


@click.command()
@FILE
@FILES
@MODEL
@click.option("--count", type=click.IntRange(min=1), default=10, show_default=True, help="Maximum files to print.")
@MAX_CLIPS
@click.pass_context
def similar(context, file, files, path, count, max_clips):
    """List the files that sound most like a file.

    FILES are audio files, and folders with audio files anywhere below them; FILE may be among them. Similarity is the
    cosine of the mean features of two files: 1 is the same.

    The exit code is 1 if some files could not be read.
    """
    with errors_named():
        from genrekeras import inference

        paths = inference.find_files(files)
        others = [other for other in paths if os.path.realpath(other) != os.path.realpath(file)]
        found = load_model(path).embed_files([file, *others], max_clips=max_clips)
        tell_unread(found.errors)
        if file not in set(found.files["path"]):
            raise ValueError(f"{file} cannot be read.")
        for row in found.nearest(file, count).itertuples():
            click.echo(printable(f"{row.similarity:6.3f}  {row.path}   ({row.genre})"))
    context.exit(1 if len(found.errors) else 0)


@click.command(name="map")
@FILES
@MODEL
@file_to_write("-o", "--output", endings=PICTURES, required=True, help="A .png, .pdf or .svg file.")
@MAX_CLIPS
@click.pass_context
def map_command(context, files, path, output, max_clips):
    """Draw a map of a collection.

    Files with similar features lie close together. FILES are audio files, and folders with audio files anywhere
    below them.

    The exit code is 1 if some files could not be read.
    """
    with errors_named():
        from genrekeras import visualization

        found = load_model(path).embed_files(files, max_clips=max_clips)
        visualization.collection_map(found, output)
        tell_unread(found.errors)
        echo(f"{len(found.files)} files: {output}")
    context.exit(1 if len(found.errors) else 0)


@click.command()
@FILE
@MODEL
@file_to_write("-o", "--output", endings=PICTURES, required=True, help="A .png, .pdf or .svg file.")
@click.option(
    "--offset", type=click.FloatRange(min=0), default=0.0, show_default=True, help="Start of the clip, in seconds."
)
def spectrogram(file, path, output, offset):
    """Draw the spectrogram that a model processes.

    The picture shows the gray image that the front end of the model computes from a clip of FILE.
    """
    with errors_named():
        import keras
        from genrekeras import audio, visualization

        model = load_model(path)
        waveform = audio.load(file, model.sample_rate, offset, model.clip_seconds)
        waveform = audio.to_length(waveform, model.input_shape[1])
        image = keras.ops.convert_to_numpy(model.front_end(waveform[None], training=False))[0, :, :, 0]
        title = os.path.basename(file)
        visualization.spectrogram(image, model.clip_seconds, model.band_frequencies, output, title, offset)
        echo(f"{image.shape[0]} bands, {image.shape[1]} frames of {model.clip_seconds:g} s: {output}")


def _write_tags(table, keep_copies):
    """Write the genre of each file into its tags, except at low confidence. Return the errors, one per failed file."""
    from genrekeras import tags
    from genrekeras.utils import progress

    errors = []
    sure = table[table["low_confidence"] != True]  # noqa: E712 - None where the model is not calibrated
    with progress.bar(len(sure), "Writing tags", "file") as shown:
        for row in sure.itertuples():
            try:
                tags.write_genre(row.path, row.genre, f"{row.path}.orig" if keep_copies else None)
            except tags.TagError as error:
                errors.append(error)
            shown.update()
    return errors


def _form(as_csv, as_json, output):
    """Return the format of the output: "csv", "json", or None for text."""
    if as_csv and as_json:
        raise click.UsageError("--csv and --json exclude each other.")
    if as_csv or as_json:
        return "csv" if as_csv else "json"
    if output is None:
        return None
    check_ending(output, (".csv", ".json"), otherwise=", unless --csv or --json is given")
    return output.lower().rpartition(".")[2]


def _journal(output):
    """Return the path of the journal of an output file, or None."""
    return None if output is None or is_stream(output) else f"{output}.journal"


def _as_csv(table, top):
    return table.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC)  # else a carriage return in a name would end the row


def _as_json(table, top):
    rows = [{key: None if value != value else value for key, value in row.items()} for row in table.to_dict("records")]
    return json.dumps(rows, indent=1) + "\n"


def _as_bars(table, top):
    from genrekeras import inference

    genres = inference.genres_of(table)
    width = max(len(printable(genre)) for genre in genres)
    lines = []
    for row in table.to_dict("records"):
        name = printable(row["path"])
        if row["error"]:
            lines += [name, f"  could not be read: {printable(row['error'])}"]
            continue
        confidence = f", low confidence: {row['reason']}" if row["low_confidence"] else ""
        lines.append(f"{name}   ({row['seconds']:.0f} s{confidence})")
        if row["warning"]:
            lines.append(f"  warning: {printable(row['warning'])}")
        shares = sorted(((row[f"probability_{genre}"], genre) for genre in genres), key=lambda share: -share[0])
        lines += [f"  {printable(genre):<{width}} {share:6.1%}  {bar(share)}" for share, genre in shares[:top]]
    return "\n".join(lines) + "\n"


def _as_text(table):
    """Return a line with the most probable genre for each clip of a timeline."""
    from genrekeras import inference

    genres = inference.genres_of(table)
    width = max(len(printable(genre)) for genre in genres)
    lines = []
    for row in table.to_dict("records"):
        share, genre = max(((row[f"probability_{genre}"], genre) for genre in genres), key=lambda share: share[0])
        times = "-".join("{}:{:02d}".format(*divmod(round(row[end]), 60)) for end in ("start", "end"))
        lines.append(f"{times:>13}  {printable(genre):<{width}} {share:6.1%}  {bar(share)}\n")
    return "".join(lines)
