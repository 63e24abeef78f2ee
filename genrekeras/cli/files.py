"""Commands for audio files: predict, timeline, similar, map, spectrogram."""

import csv
import functools
import os
import shlex

import click
from genrekeras.cli.common import (
    EXPORTED,
    FILE,
    FILES,
    MAX_CLIPS,
    MODEL,
    PICTURES,
    TRACK_CLASSIFIER,
    WORKERS,
    bar,
    check_ending,
    check_writable,
    echo,
    error_handling,
    file_to_write,
    load_model,
    load_track_classifier,
    plural,
    print_errors,
)
from genrekeras.utils.io import atomic_write, is_stream
from genrekeras.utils.progress import printable


def _check_output(context, parameter, path):
    """Check the option --output of `predict`: a file, or with --beam a folder on any file system."""
    if path is not None and context.params["beam"] is None:
        click.Path(dir_okay=False)(path, parameter, context)
        check_writable(path)
    return path


@click.command()
@FILES
@TRACK_CLASSIFIER
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, one row per file, with all probabilities.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list, one object per file, with all probabilities.")
@click.option("-o", "--output", callback=_check_output, help="Write a .csv or .json file. With --beam: the folder.")
@click.option(
    "--top", type=click.IntRange(min=1), default=3, show_default=True, help="Number of genres to show for each file."
)
@click.option("--all-labels", is_flag=True, help="Also show labels that are not genres, such as moods and instruments.")
@MAX_CLIPS
@WORKERS
@click.option(
    "--beam",
    metavar="OPTIONS",
    is_eager=True,  # `_check_output` needs the value.
    help="Predict with Apache Beam and these options, such as "
    '"--runner=DirectRunner --direct_num_workers=2 --direct_running_mode=multi_processing".',
)
@click.pass_context
def predict(context, files, path, as_csv, as_json, output, top, all_labels, max_clips, workers, beam):
    """Predict the genre of audio files.

    FILES are audio files, or folders that are searched for audio files recursively. The model processes evenly spaced
    clips of each track, and the probabilities of the clips are averaged. A multi-label model can predict several genres
    of a track. A prediction has low confidence if its probability is low, if the track is unlike the training data, or
    if the model is not better than chance.

    With --output FILE, finished rows are stored in FILE.journal. A later call with the same FILE, model and --max-clips
    processes only files that are new or have changed.

    With --beam, each row is a JSON object in a line of one of the files predictions-*.jsonl in the folder --output. A
    later call with the same arguments keeps the finished files. FILES may also be text files (.txt, .txt.gz) with the
    path of one audio file per line. All files may be on file systems that Apache Beam supports, such as
    gs://bucket/song.mp3, except that folders in FILES must be local or mounted.

    The exit code is 0 on success, 1 if some files could not be read, and 2 if the arguments are invalid.
    """
    if beam is not None:
        if as_csv or as_json or output is None:
            raise click.UsageError("--beam needs --output FOLDER, and excludes --csv and --json.")
        unreadable = _predict_with_beam(files, path, output, max_clips, workers, beam)
        context.exit(1 if unreadable else 0)
    output_format = _output_format(as_csv, as_json, output)
    with error_handling(path):
        from genrekeras import inference

        paths = inference.find_files(files)
        journal = _journal(output)
        model = load_track_classifier(path)
        rows = inference.predict_rows(model, paths, max_clips=max_clips, workers=workers, journal=journal)
        if output_format is None:
            text = _format_text(rows, top, inference.label_kinds(model), model.multi_label, all_labels)
        else:
            table = inference.to_table(model, rows)
            text = {"csv": inference.format_csv, "json": inference.format_json}[output_format](table)
        text = text.encode("utf-8", "surrogateescape")  # Some file names are not UTF-8.
        if output is None:
            click.echo(text, nl=False)
        else:
            with atomic_write(output) as temporary, open(temporary, "wb") as file:
                file.write(text)
            click.echo(f"{plural(len(rows), 'file')}: {printable(output)}", err=True)
        if output_format:
            print_errors(table[table["error"].notna()])
        unreadable = sum(row["error"] is not None for row in rows)
        if unreadable:
            click.echo(f"{unreadable} of {len(rows)} files could not be read.", err=True)
    context.exit(1 if unreadable else 0)


@click.command()
@FILE
@TRACK_CLASSIFIER
@file_to_write(
    "-o", "--output", endings=(*PICTURES, ".csv"), help="Write a .png, .pdf or .svg figure, or a .csv table."
)
@click.option(
    "--hop-seconds",
    type=float,
    help="Maximum time between the starts of two clips, in seconds.  [default: half a clip]",
)
def timeline(file, path, output, hop_seconds):
    """Predict the genre along a track.

    FILE is split into clips. Consecutive clips overlap by half, unless --hop-seconds is given. The most probable genre
    of each clip is printed. With --output, the probabilities of all genres are written to a figure or a table instead.
    """
    with error_handling(path):
        from genrekeras import inference

        model = load_track_classifier(path)
        table = model.predict_timeline(file, hop_seconds=hop_seconds)
        genres = inference.genre_labels(model)
        if output is None:
            click.echo(_format_timeline(table, genres), nl=False)
            return
        if output.lower().endswith(".csv"):
            with atomic_write(output) as temporary:
                table.to_csv(temporary, index=False, quoting=csv.QUOTE_NONNUMERIC)
        else:
            from genrekeras import visualization

            visualization.timeline(table, output, os.path.basename(file), genres)
        echo(f"{len(table)} clips of {file}: {output}")


@click.command()
@FILE
@FILES
@TRACK_CLASSIFIER
@click.option(
    "--count", type=click.IntRange(min=1), default=10, show_default=True, help="Maximum number of files to list."
)
@MAX_CLIPS
@click.pass_context
def similar(context, file, files, path, count, max_clips):
    """List the files that are most similar to a file.

    FILES are audio files, or folders that are searched for audio files recursively. FILE may be among them. The printed
    score is the cosine similarity of the mean features of two files. The maximum is 1.

    The exit code is 1 if some files could not be read.
    """
    with error_handling(path):
        from genrekeras import inference

        paths = inference.find_files(files)
        others = [other for other in paths if os.path.realpath(other) != os.path.realpath(file)]
        if not others:
            raise ValueError(f"{file} cannot be compared, because FILES contain no other audio file.")
        embeddings = load_track_classifier(path).embed_files([file, *others], max_clips=max_clips)
        print_errors(embeddings.errors)
        if file not in set(embeddings.files["path"]):
            raise ValueError(f"{file} cannot be read.")
        for row in embeddings.nearest(file, count).itertuples():
            click.echo(printable(f"{row.similarity:6.3f}  {row.path}   ({row.genre})"))
    context.exit(1 if len(embeddings.errors) else 0)


@click.command(name="map")
@FILES
@TRACK_CLASSIFIER
@file_to_write("-o", "--output", endings=PICTURES, required=True, help="The .png, .pdf or .svg file to write.")
@MAX_CLIPS
@click.pass_context
def map_command(context, files, path, output, max_clips):
    """Draw a map of a music collection.

    Files with similar features are close together. FILES are audio files, or folders that are searched for audio files
    recursively.

    The exit code is 1 if some files could not be read.
    """
    with error_handling(path):
        from genrekeras import visualization

        embeddings = load_track_classifier(path).embed_files(files, max_clips=max_clips)
        visualization.collection_map(embeddings, output)
        print_errors(embeddings.errors)
        echo(f"{plural(len(embeddings.files), 'file')}: {output}")
    context.exit(1 if len(embeddings.errors) else 0)


@click.command()
@FILE
@MODEL
@file_to_write("-o", "--output", endings=PICTURES, required=True, help="The .png, .pdf or .svg file to write.")
@click.option(
    "--offset", type=click.FloatRange(min=0), default=0.0, show_default=True, help="Start of the clip, in seconds."
)
def spectrogram(file, path, output, offset):
    """Draw the spectrogram that a model computes.

    The figure shows the image that the front end of the model computes from a clip of FILE.
    """
    with error_handling():
        from genrekeras import inference, visualization

        model = load_model(path)
        image = inference.load_image(model, file, offset)
        title = os.path.basename(file)
        visualization.spectrogram(
            image, model.clip_seconds, model.band_frequencies, output, title, offset, model.image_range
        )
        echo(f"{image.shape[0]} bands, {image.shape[1]} frames of {model.clip_seconds:g} s: {output}")


def _predict_with_beam(files, path, output, max_clips, workers, beam):
    """Write predictions to a folder with Apache Beam. Return the number of files that could not be read."""
    with error_handling(path):
        from genrekeras.inference.beam import predict_with_beam

        load = functools.partial(_load_in_worker, path)
        done = predict_with_beam(load, files, output, shlex.split(beam), max_clips, workers)
        click.echo(f"{plural(done.files, 'file')} in {plural(done.shards, 'shard')}: {printable(output)}", err=True)
        if done.unreadable:
            click.echo(f"{done.unreadable} of {plural(done.processed, 'file')} could not be read.", err=True)
    return done.unreadable


def _load_in_worker(path):
    """Load a model in a process that Apache Beam started."""
    from genrekeras.utils import process

    process.configure(keras=not path.endswith(EXPORTED))
    return load_track_classifier(path)


def _output_format(as_csv, as_json, output):
    """Return the format of the output: "csv", "json", or `None` for text."""
    if as_csv and as_json:
        raise click.UsageError("--csv and --json exclude each other.")
    if as_csv or as_json:
        return "csv" if as_csv else "json"
    if output is None:
        return None
    check_ending(output, (".csv", ".json"), otherwise=", unless --csv or --json is given")
    return output.lower().rpartition(".")[2]


def _journal(output):
    """Return the path of the journal of an output file. Return `None` for a stream or without an output file."""
    return None if output is None or is_stream(output) else f"{output}.journal"


def _format_text(rows, num_genres, kinds, multi_label, all_labels):
    """Return text with a bar for the probability of each of the most probable genres of each file.

    Args:
        rows: result of `predict_rows`.
        num_genres: number of genres of each file.
        kinds: dict, label -> kind.
        multi_label: whether an additional line lists the predicted genres.
        all_labels: whether the same number of labels of other kinds is shown too.
    """
    labels = list(kinds)
    groups = [[label for label in labels if (kinds[label] == "genre") == is_genre] for is_genre in (True, False)]
    groups = groups if all_labels or not groups[0] else groups[:1]
    texts = {label: printable(label if kinds[label] == "genre" else f"{label} ({kinds[label]})") for label in labels}
    width = max(len(texts[label]) for group in groups for label in group)
    lines = []
    for row in rows:
        name = printable(row["path"])
        if row["error"]:
            lines += [name, f"  could not be read: {printable(row['error'])}"]
            continue
        confidence = f", low confidence: {row['reason']}" if row["low_confidence"] else ""
        lines.append(f"{name}   ({row['seconds']:.0f} s{confidence})")
        if row["warning"]:
            lines.append(f"  warning: {printable(row['warning'])}")
        if multi_label:
            lines.append(f"  genres: {printable(', '.join(row['genres'])) or 'none above its threshold'}")
        probabilities = {label: row[f"probability_{label}"] for label in labels}
        for group in groups:
            for label in sorted(group, key=lambda label: -probabilities[label])[:num_genres]:
                lines.append(f"  {texts[label]:<{width}} {probabilities[label]:6.1%}  {bar(probabilities[label])}")
    return "\n".join(lines) + "\n"


def _format_timeline(table, genres):
    """Return one line of text per clip of a timeline, with the most probable genre of the clip.

    Args:
        table: result of `predict_timeline`.
        genres: labels from which the most probable one is chosen.
    """
    width = max(len(printable(genre)) for genre in genres)
    lines = []
    for row in table.to_dict("records"):
        genre = max(genres, key=lambda genre: row[f"probability_{genre}"])
        probability = row[f"probability_{genre}"]
        times = "-".join("{}:{:02d}".format(*divmod(round(row[end]), 60)) for end in ("start", "end"))
        lines.append(f"{times:>13}  {printable(genre):<{width}} {probability:6.1%}  {bar(probability)}\n")
    return "".join(lines)
