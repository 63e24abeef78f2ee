"""Commands for models: info, evaluate, calibrate, export."""

import os
import textwrap

import click
from genrekeras.cli.common import (
    COLUMNS,
    CROPS,
    FOLDER,
    MODEL_FILE,
    PICTURES,
    PROTOCOL,
    REQUIRED_MODEL,
    SUBSET,
    check_ending,
    echo,
    error_handling,
    file_to_write,
    format_genre_scores,
    load_data,
    load_model,
    model_file,
)
from genrekeras.utils.io import atomic_write, format_size
from genrekeras.utils.progress import printable

# Copies of values in `genrekeras.export.FORMATS`: the endings of all formats, and the quantizations of LiteRT.
EXPORTS = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2", "saved_model": "", "litert": ".tflite", "web": ""}
QUANTIZE = ("float16", "int8")


def _split_option(default, help):
    """Return the option `--split`."""
    splits = click.Choice(["train", "validation", "test", "all"])
    return click.option("--split", type=splits, default=default, show_default=True, help=help)


@click.command()
@MODEL_FILE
@file_to_write("--card", endings=(".md",), help="Write a model card for model hubs to this .md file.")
def info(path, card):
    """Show a model's architecture, training data and scores.

    MODEL is a preset, a .keras file, or the output folder of a training run. The default is the preset musicnn_msd.
    """
    with error_handling():
        from genrekeras import reports

        path = model_file(path)
        model = load_model(path)
        echo(f"{path}: {format_size(os.path.getsize(path))}")
        summary = reports.describe(model)
        width = max(len(name) for name, _ in summary)
        for name, text in summary:
            lines = textwrap.wrap(printable(text), COLUMNS - width - 1, break_on_hyphens=False, break_long_words=False)
            for number, line in enumerate(lines or [""]):
                click.echo(f"{'' if number else name:<{width}} {line}")
        if card:
            reports.model_card(model, card)


@click.command()
@FOLDER
@REQUIRED_MODEL
@SUBSET
@PROTOCOL
@_split_option(default="test", help="The split to evaluate.")
@CROPS
@file_to_write("-o", "--output", endings=(".json",), help="Write all scores and probabilities to this .json file.")
@file_to_write(
    "--picture",
    endings=PICTURES,
    help="Draw the confusion matrix, or the label pairs of a multi-label model, to this .png, .pdf or .svg file.",
)
def evaluate(folder, path, subset, protocol, split, crops, output, picture):
    """Evaluate a model on labelled music.

    FOLDER contains FMA, or one folder of music per genre. The names of these folders must be genres of the model. Not
    every genre of the model needs a folder. For a multi-label model, FOLDER contains FMA, or music with genres in its
    tags. Genres in tags that the model does not have are left out. Genres of the model are left out if fewer than 5
    tracks have them, or if fewer than 5 tracks do not have them.
    """
    with error_handling():
        from genrekeras import evaluation

        model = load_model(path)
        data, clips = load_data(folder, subset, protocol, model, split)
        report = evaluation.evaluate(model, clips, crop="even", crops=crops)
        echo("\n".join([str(data), str(report), "", *format_genre_scores(report)]))
        if output:
            report.to_json(output)
        if picture:
            report.plot(picture)


@click.command()
@FOLDER
@REQUIRED_MODEL
@SUBSET
@PROTOCOL
@_split_option(
    default="validation",
    help="The split to calibrate on. With all, no music is left to evaluate the calibrated model.",
)
@CROPS
@click.option(
    "--rejection-rate",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.05,
    show_default=True,
    help="Fraction of the correctly classified tracks that each of the two thresholds marks as low confidence.",
)
@click.option(
    "--precision",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Multi-label models: choose the threshold of each genre for this precision on the split.  "
    "[default: for the best F1 score]",
)
@file_to_write("-o", "--output", endings=(".keras",), required=True, help="The .keras file to write.")
@file_to_write(
    "--picture",
    endings=PICTURES,
    help="Draw reliability diagrams, before and after calibration, to this .png, .pdf or .svg file.",
)
def calibrate(folder, path, subset, protocol, split, crops, rejection_rate, precision, output, picture):
    """Calibrate the probabilities of a model on held-out music.

    FOLDER contains FMA, or one folder of music per genre. The weights of the last layer are divided by the temperature
    that minimizes the log-loss. Two thresholds are stored in the new model: a prediction has low confidence if its
    probability is too low, or if its out-of-distribution score is too high.

    For a multi-label model, FOLDER contains FMA, or music with genres in its tags. The new model has a threshold for
    each genre that at least 5 tracks have and at least 5 tracks do not have. Other genres are never predicted.
    """
    with error_handling():
        from genrekeras import evaluation, visualization
        from genrekeras.reports.model_card import describe_class_thresholds

        model = load_model(path)
        _, clips = load_data(folder, subset, protocol, model, split)
        result = evaluation.calibrate(model, clips, crops=crops, rejection_rate=rejection_rate, precision=precision)
        click.echo(f"Temperature {result.temperature:.3f}\nbefore: {result.before}\nafter:  {result.after}")
        limits = (
            ("a probability below", result.thresholds.min_confidence),
            ("an out-of-distribution score above", result.thresholds.max_ood_score),
        )
        if conditions := [f"{name} {limit:.3f}" for name, limit in limits if limit is not None]:
            share = result.low_confidence_share
            click.echo(
                f"Low confidence: {' or '.join(conditions)}. On these clips, it marks {share['correct']:.1%} of the "
                f"correct predictions and {share.get('wrong', 0):.1%} of the wrong ones."
            )
        if class_thresholds := describe_class_thresholds(model):
            echo(f"A genre is predicted above these probabilities: {class_thresholds}")
        with atomic_write(output) as temporary:
            model.save(temporary)
        if picture:
            visualization.reliability({"before": result.before, "after": result.after}, picture)


@click.command()
@MODEL_FILE
@click.option("--to", "target", required=True, type=click.Choice(list(EXPORTS)), help="The format to export to.")
@click.option(
    "--quantize",
    type=click.Choice(QUANTIZE),
    help="Quantize the convolution kernels of the backbone. Only for litert.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    help="The file or new folder to write.  [default: the name of MODEL with the ending of the format]",
)
@click.option(
    "--runtime",
    type=click.Path(dir_okay=False),
    help="Only for web: the .tgz file of onnxruntime-web.  [default: npm downloads it once]",
)
@click.option("--clips", type=click.Path(), help="Audio file or folder to compare on.  [default: synthetic sounds]")
def export(path, target, quantize, output, runtime, clips):
    """Export a model for another runtime.

    MODEL is a preset, a .keras file, or the output folder of a training run. The default is the preset musicnn_msd.

    The exported model is run in its own runtime, and its probabilities are compared with those of MODEL. The exported
    file is kept only if the probabilities agree. The file also contains the genres, sample rate and clip length of
    MODEL.

    The format web is a folder with a page, index.html, which predicts the genres of files in a browser. The page
    contains everything that it needs, so it can be opened from a disk, and no server receives the music.
    """
    if output is not None and EXPORTS[target]:
        check_ending(output, [EXPORTS[target]])
    with error_handling():
        from genrekeras import export as exports

        model = load_model(path)
        if clips is not None:
            clips = _load_clips(model, clips)
        if output is None:
            output = os.path.splitext(path)[0] + (EXPORTS[target] or f"_{target}")
        difference = exports.export(model, output, target, clips, quantize=quantize, runtime=runtime)
        click.echo(f"{output}: probabilities equal those of {path} within {difference:.1g}")


def _load_clips(model, path):
    """Return the first clip of each of up to 16 files, `(clips, samples)`.

    The comparison needs at least two clips. For a single file, the second clip is the reversed first clip.
    """
    import numpy as np
    from genrekeras import audio, inference

    paths = inference.find_files(path)[:16]
    samples = model.input_shape[1]
    clips = [audio.to_length(audio.load(p, model.sample_rate, duration=model.clip_seconds), samples) for p in paths]
    return np.stack(clips if len(clips) > 1 else [clips[0], clips[0][::-1]])
