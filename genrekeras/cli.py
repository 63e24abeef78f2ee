"""The command line: `genrekeras`, or `python -m genrekeras`."""

import contextlib
import json
import os
import shlex
import warnings

import click
import genrekeras as gk  # before keras: it chooses the backend
import keras
import numpy as np
from genrekeras import inference
from genrekeras.datasets import fma
from genrekeras.datasets.fma.archives import ARCHIVES, BASE_URL
from genrekeras.datasets.folder import load_folder
from genrekeras.datasets.splits import PROTOCOLS, leakage
from genrekeras.files import size, whole_file

FOLDER = click.argument("folder", type=click.Path(file_okay=False))
SUBSET = click.option(
    "--subset", type=click.Choice(list(fma.SUBSETS)), default="small", show_default=True, help="Of FMA."
)


class _InOrder(click.Group):
    """Commands in the order in which they are written here, which is that in which they are needed."""

    def list_commands(self, context):
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="genrekeras", prog_name="genrekeras")
def main():
    """Tell the genre of music with Keras 3."""


MODEL = click.option(
    "-m", "--model", "path", required=True, type=click.Path(), help="A saved GenreClassifier, such as model.keras."
)
PROTOCOL = click.option("--protocol", type=click.Choice(PROTOCOLS), help="How clips were dealt to splits.")
CROPS = click.option(
    "--crops", type=click.IntRange(min=1), default=3, show_default=True, help="Heard of each track and averaged."
)


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path())
@MODEL
@click.option("--csv", "form", flag_value="csv", help="A row for each file, with all probabilities.")
@click.option("--json", "form", flag_value="json", help="The same as a JSON list.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False), help="Write to this file; the ending tells the format."
)
@click.option("--top", type=click.IntRange(min=1), default=3, show_default=True, help="Genres shown for each file.")
@click.option("--max-clips", type=click.IntRange(min=1), default=30, show_default=True, help="Heard of a long track.")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Threads that decode.")
@click.option("--write-tags", is_flag=True, help="Put the genre into the files' own tags.")
@click.option("--keep-copies", is_flag=True, help="Keep each file as it was, as FILE.orig, before its tags change.")
@click.pass_context
def predict(context, files, path, form, output, top, max_clips, workers, write_tags, keep_copies):
    """Tell the genre of files and folders.

    FILES are audio files, and folders with audio files anywhere below them. A track is heard in clips side by side, and
    their probabilities are averaged. With --output, a call that was broken off goes on when it is made again.

    The exit code is 0 if all files could be read (and tagged), 1 if some could not, and 2 for a wrong call.
    """
    with _errors_named():
        form = form or _form(output)
        paths = inference.find_files(files)
        journal = None if output is None else f"{output}.part"
        table = _load(path).predict_files(paths, max_clips=max_clips, workers=workers, journal=journal)
        text = {"csv": _as_csv, "json": _as_json, None: _as_bars}[form](table, top)
        text = text.encode("utf-8", "surrogateescape")  # names may be of any bytes
        if output is None:
            click.echo(text, nl=False)
        else:
            with whole_file(output) as temporary, open(temporary, "wb") as file:
                file.write(text)
            os.remove(journal)
        wrong = table[table["error"].notna()]
        for row in wrong.itertuples() if form else ():
            click.echo(f"{row.path}: {row.error}", err=True)
        if len(wrong):
            click.echo(f"{len(wrong)} of {len(table)} files could not be read.", err=True)
        untagged = _write_tags(table[table["error"].isna()], keep_copies) if write_tags else []
        for error in untagged:
            click.echo(str(error), err=True)
    context.exit(1 if len(wrong) or untagged else 0)


@main.command()
@click.argument("folder", type=click.Path(file_okay=False))
@MODEL
@SUBSET
@PROTOCOL
@click.option("--split", type=click.Choice(["train", "validation", "test"]), default="test", show_default=True)
@CROPS
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="A .json file for all figures and probabilities.")
@click.option("--picture", type=click.Path(dir_okay=False), help="A .png, .pdf or .svg file for the confusion matrix.")
def evaluate(folder, path, subset, protocol, split, crops, output, picture):
    """Tell how good a model is.

    FOLDER is FMA, or music with one folder a genre; the model hears one of its splits.
    """
    from genrekeras import evaluation

    with _errors_named():
        model = _load(path)
        data = _data(folder, subset, protocol, model.sample_rate)
        report = evaluation.evaluate(model, getattr(data, split), crop="even", crops=crops)
        width = max(map(len, report.genres))
        click.echo(f"{data}\n{report}\n\n{'':<{width}}  found        95 %")
        for genre, share in report.genre_accuracy.items():
            if share is not None:
                low, high = report.genre_accuracy_interval[genre]
                click.echo(f"{genre:<{width}} {share:6.1%}  {low:5.0%} to {high:4.0%}  {_bar(share)}")
        if output:
            report.to_json(output)
        if picture:
            report.plot(picture)


@main.command()
@click.argument("folder", type=click.Path(file_okay=False))
@MODEL
@SUBSET
@PROTOCOL
@CROPS
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), help="The calibrated model, .keras.")
@click.option("--picture", type=click.Path(dir_okay=False), help="A file for the reliability before and after.")
def calibrate(folder, path, subset, protocol, crops, output, picture):
    """Make a model as sure of itself as it is right.

    On the validation split of FOLDER, which is FMA, or music with one folder a genre. The temperature that is found
    goes into the last layer of the model that is written.
    """
    from genrekeras import evaluation, report

    with _errors_named():
        if not output.endswith(".keras"):
            raise ValueError(f"--output must end in .keras. Received: {output}")
        model = _load(path)
        data = _data(folder, subset, protocol, model.sample_rate)
        found = evaluation.calibrate(model, data.validation, crops=crops)
        click.echo(f"Temperature {found.temperature:.3f}\nbefore: {found.before}\nafter:  {found.after}")
        with whole_file(output) as temporary:
            model.save(temporary)
        if picture:
            report.reliability({"before": found.before, "after": found.after}, picture)


def _data(folder, subset, protocol, sample_rate):
    """The splits of FMA, or of a folder with a folder a genre."""
    options = {"sample_rate": sample_rate, **({"protocol": protocol} if protocol else {})}
    if fma.is_fma(folder):
        return fma.load_fma(folder, subset, **options)
    return load_folder(folder, **options)


@main.command()
@click.argument("file", type=click.Path())
@MODEL
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), help="A .png, .pdf, .svg or .csv file.")
@click.option("--hop-seconds", type=float, help="From clip to clip.  [default: half a clip]")
def timeline(file, path, output, hop_seconds):
    """Tell the genres along a track.

    FILE is heard in clips that overlap by half; a picture or a table shows the genres of each.
    """
    from genrekeras import report

    with _errors_named():
        table = _load(path).predict_timeline(file, hop_seconds=hop_seconds)
        if output.lower().endswith(".csv"):
            with whole_file(output) as temporary:
                table.to_csv(temporary, index=False)
        else:
            report.timeline(table, output, os.path.basename(file))
        click.echo(f"{len(table)} clips of {file}: {output}")


@main.command(name="map")
@click.argument("files", nargs=-1, required=True, type=click.Path())
@MODEL
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), help="A .png, .pdf or .svg file.")
@click.option("--max-clips", type=click.IntRange(min=1), default=30, show_default=True, help="Heard of a long track.")
@click.pass_context
def map_command(context, files, path, output, max_clips):
    """Draw a collection on a plane.

    What sounds alike to the model lies close together. FILES are audio files, and folders with audio files anywhere
    below them.

    The exit code is 1 if some files could not be read.
    """
    from genrekeras import report

    with _errors_named():
        found = _load(path).embed_files(files, max_clips=max_clips)
        report.collection_map(found, output)
        for row in found.errors.itertuples():
            click.echo(f"{row.path}: {row.error}", err=True)
        click.echo(f"{len(found.files)} files: {output}")
    context.exit(1 if len(found.errors) else 0)


@main.command()
@click.argument("file", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), help="A .png, .pdf or .svg file.")
@click.option("-m", "--model", "path", type=click.Path(), help="Whose front end.  [default: a new GenreClassifier's]")
@click.option("--offset", type=click.FloatRange(min=0), default=0.0, show_default=True, help="In s, where to begin.")
def spectrogram(file, output, path, offset):
    """Draw what a model sees of a track.

    The gray image that its front end makes of a clip of FILE.
    """
    from genrekeras import audio, report

    with _errors_named():
        if path is None:
            model = gk.GenreClassifier(pretrained=None, fine_tune="all")
        else:
            model = _load(path)
        seconds = model.clip_seconds
        waveform = audio.load(file, model.sample_rate, offset, seconds)
        waveform = audio.to_length(waveform, round(seconds * model.sample_rate))
        image = keras.ops.convert_to_numpy(model.front_end(waveform[None], training=False))[0, :, :, 0]
        report.spectrogram(image, seconds, _row_frequencies(model), output, os.path.basename(file), offset)
        click.echo(f"{image.shape[0]} bands, {image.shape[1]} frames of {seconds:g} s: {output}")


def _write_tags(table, keep_copies):
    """Write the genres into the files; the errors."""
    from genrekeras import tags

    errors = []
    for row in table.itertuples():
        try:
            tags.write_genre(row.path, row.genre, f"{row.path}.orig" if keep_copies else None)
        except tags.TagError as error:
            errors.append(error)
    return errors


def _row_frequencies(model):
    """The middle of the band of each row of the image, in Hz."""
    layers = model.front_end.layers
    [mel] = [layer for layer in layers if isinstance(layer, gk.layers.MelSpectrogram)]
    flipped = any(getattr(layer, "flip", False) for layer in layers)
    return mel.band_frequencies[:: -1 if flipped else 1]


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
    lines = []
    for _, row in table.iterrows():
        lines.append(f"{row['path']}" + ("" if row["error"] else f"   ({row['seconds']:.0f} s heard)"))
        if row["error"]:
            lines += [f"  could not be read: {row['error']}"]
            continue
        probabilities = row[_genres(table)].astype(float).sort_values(ascending=False)[:top]
        width = max(map(len, _genres(table)))
        lines += [f"  {genre:<{width}} {share:6.1%}  {_bar(share)}" for genre, share in probabilities.items()]
    return "\n".join(lines) + "\n"


def _genres(table):
    return list(table.columns[3:-2])


def _bar(share, width=30):
    eighths = round(share * width * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def _load(path):
    """A saved GenreClassifier; an error that says what the file is instead."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no model file {path}")
    try:
        model = keras.saving.load_model(path)
    except Exception as error:  # Keras raises what it meets on its way through the file
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise ValueError(f"{path} cannot be loaded as a Keras model: {reason[0][:300]}") from error
    if not isinstance(model, gk.GenreClassifier):
        raise ValueError(f"{path} holds a {type(model).__name__}, not a GenreClassifier")
    return model


@main.command()
@click.argument("path", metavar="MODEL", type=click.Path())
@click.option("--to", "form", required=True, type=click.Choice(["onnx", "openvino", "litert", "saved_model", "torch"]))
@click.option("-o", "--output", type=click.Path(), help="The file to write.  [default: MODEL with another ending]")
@click.option("--clips", type=click.Path(), help="Audio to compare on, a file or a folder.  [default: made-up sounds]")
def export(path, form, output, clips):
    """Write a model for another runtime.

    What was written is loaded by its own runtime and compared with MODEL; if it computes something else, nothing is
    kept. Genres, sample rate and clip length go with it.
    """
    from genrekeras import export as exports

    with _errors_named():
        model = _load(path)
        if clips is not None:
            clips = _clips(model, clips)
        output = output or os.path.splitext(path)[0] + (exports.FORMATS[form].ending or "_saved_model")
        difference = exports.export(model, output, form, clips)
        click.echo(f"{output}: probabilities as those of {path}, to {difference:.1g}")


def _clips(model, path):
    """The first clip of each file, at the most 16, two at the least."""
    from genrekeras import audio

    paths = inference.find_files(path)[:16]
    samples = model.input_shape[1]
    clips = [audio.to_length(audio.load(p, model.sample_rate, duration=model.clip_seconds), samples) for p in paths]
    return np.stack(clips if len(clips) > 1 else [clips[0], clips[0][::-1]])


@main.command()
@click.argument("path", metavar="MODEL", type=click.Path())
def info(path):
    """Tell what a saved model is."""
    with _errors_named():
        model = _load(path)
        click.echo(f"{path}: {size(os.path.getsize(path))}, {model.count_params():,} weights")
        click.echo(f"backbone   {model.backbone}, stem {model.stem}, dropout {model.dropout}")
        click.echo(f"trained    {model.fine_tune} of it, from {model.pretrained or 'random'} weights")
        click.echo(f"hears      {model.clip_seconds:g} s at {model.sample_rate} Hz")
        for place, layer in enumerate(model.front_end.layers[1:]):
            options = {k: v for k, v in layer.get_config().items() if k not in ("name", "dtype", "trainable")}
            text = ", ".join(f"{key}={value!r}" for key, value in options.items())
            click.echo(f"{'front end ' if place == 0 else '':<10} {type(layer).__name__}({text})")
        click.echo(f"genres     {', '.join(model.genres)}")


@main.group(name="fma")
def fma_commands():
    """Get FMA: download, check, build.

    FMA is a dataset for music analysis. Download and build go on where they were broken off.
    """


@fma_commands.command()
@FOLDER
@SUBSET
@click.option("--only", type=click.Choice(["metadata", "audio"]), help="One of the two archives.  [default: both]")
@click.option("--remove-archives", is_flag=True, help="Remove each archive when all of it is unpacked.")
@click.option("--base-url", default=BASE_URL, show_default=True, help="Where the archives lie: a mirror.")
def download(folder, subset, only, remove_archives, base_url):
    """Download FMA into FOLDER, verify and unpack it.

    small has 8,000 clips in 7.2 GiB, medium 25,000 in 22 GiB, large 106,574 in 93 GiB, full as many whole tracks in 879
    GiB; the metadata have 342 MiB. Twice as much disk is needed, until the archives are removed.
    """
    with _errors_named():
        fma.download(folder, subset, [only] if only else ["metadata", "audio"], base_url, remove_archives)
        name = ARCHIVES["metadata" if only == "metadata" else subset].name
        click.echo(f"{os.path.join(folder, name)} is there, whole. Next: genrekeras fma check {shlex.quote(folder)}")


@fma_commands.command()
@FOLDER
@SUBSET
@click.option("--csv", "table", type=click.Path(dir_okay=False), help="Write a row for each clip to this file.")
@click.pass_context
def check(context, folder, subset, table):
    """Decode every clip in FOLDER and tell what is there.

    The exit code is 0 if FOLDER is what it should be, and 1 if it is not.
    """
    with _errors_named():
        found = fma.check(folder, subset)
        click.echo(str(found))
        if table:
            with whole_file(table) as temporary:
                found.clips.to_csv(temporary)
    context.exit(0 if found.usable else 1)


@fma_commands.command()
@FOLDER
@SUBSET
@click.option("--sample-rate", type=click.IntRange(min=1), default=22050, show_default=True, help="In Hz.")
@click.option("--prepared-dir", type=click.Path(file_okay=False), help="Where to.  [default: FOLDER/prepared]")
@click.option(
    "--beam",
    metavar="OPTIONS",
    help='Build with Apache Beam under these options, such as "--runner=DirectRunner --direct_num_workers=8 '
    '--direct_running_mode=multi_processing".',
)
def build(folder, subset, sample_rate, prepared_dir, beam):
    """Decode the clips in FOLDER once and store them for training."""
    with _errors_named():
        options = None if beam is None else shlex.split(beam)
        data = fma.load_fma(
            folder,
            subset,
            sample_rate=sample_rate,
            prepared_dir=prepared_dir,
            beam_options=options,
            protocol=_any(folder),
        )
        click.echo(f"{data}\n\nWhat the splits share:\n\n{leakage(data)}")


def _any(folder):
    """A protocol that the folder's table can serve: train_labels.csv knows no splits."""
    return "official" if os.path.basename(fma.find_table(folder)) == "tracks.csv" else "random"


@contextlib.contextmanager
def _errors_named():
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
