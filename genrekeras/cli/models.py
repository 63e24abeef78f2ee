"""Commands for models: info, evaluate, calibrate, export."""

import os
import textwrap

import click
from genrekeras.cli.common import (
    CROPS,
    FOLDER,
    MODEL,
    MODEL_FILE,
    PICTURES,
    PROTOCOL,
    SUBSET,
    bar,
    check_ending,
    echo,
    error_handling,
    file_to_write,
    load_data,
    load_model,
    model_file,
)
from genrekeras.utils.io import atomic_write, format_size
from genrekeras.utils.progress import printable

_COLUMNS = 80
# Copies of the endings in `genrekeras.export.FORMATS`, and of its quantizations for LiteRT.
EXPORTS = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2", "saved_model": "", "litert": ".tflite"}
QUANTIZE = ("float16", "int8")


@click.command()
@MODEL_FILE
@file_to_write("--card", endings=(".md",), help="Write a model card, in the format of model hubs, to this .md file.")
def info(path, card):
    """Show a model's architecture, training data and scores.

    MODEL is a preset, a .keras file, or the output folder of an experiment. The default is the preset fma_small.
    """
    with error_handling():
        from genrekeras import reports

        path = model_file(path)
        model = load_model(path)
        echo(f"{path}: {format_size(os.path.getsize(path))}")
        summary = reports.describe(model)
        width = max(len(name) for name, _ in summary)
        for name, text in summary:
            lines = textwrap.wrap(printable(text), _COLUMNS - width - 1, break_on_hyphens=False, break_long_words=False)
            for number, line in enumerate(lines or [""]):
                click.echo(f"{'' if number else name:<{width}} {line}")
        if card:
            reports.model_card(model, card)


@click.command()
@FOLDER
@MODEL
@SUBSET
@PROTOCOL
@click.option(
    "--split",
    type=click.Choice(["train", "validation", "test", "all"]),
    default="test",
    show_default=True,
    help="The split to evaluate.",
)
@CROPS
@file_to_write("-o", "--output", endings=(".json",), help="Write all scores and probabilities to this .json file.")
@file_to_write("--picture", endings=PICTURES, help="Draw the confusion matrix to this .png, .pdf or .svg file.")
def evaluate(folder, path, subset, protocol, split, crops, output, picture):
    """Evaluate a model on labelled music.

    FOLDER is FMA, or music in one folder per genre. The names of the folders must be genres of the model, but the
    music may lack some of the model's genres.
    """
    with error_handling():
        from genrekeras import evaluation

        model = load_model(path)
        data, clips = load_data(folder, subset, protocol, model, split)
        report = evaluation.evaluate(model, clips, crop="even", crops=crops)
        width = max(len(printable(genre)) for genre in report.genres)
        click.echo(printable(f"{data}\n{report}\n\n{'':<{width}} recall        95 %", keep="\n"))
        for genre, share in report.genre_recall.items():
            if share is not None:
                low, high = report.genre_recall_interval[genre]
                click.echo(f"{printable(genre):<{width}} {share:6.1%}  {low:5.0%} to {high:4.0%}  {bar(share)}")
        if output:
            report.to_json(output)
        if picture:
            report.plot(picture)


@click.command()
@FOLDER
@MODEL
@SUBSET
@PROTOCOL
@CROPS
@click.option(
    "--rejection-rate",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.05,
    show_default=True,
    help="Share of the correctly classified tracks that each of the two limits marks as low confidence.",
)
@file_to_write("-o", "--output", endings=(".keras",), required=True, help="The .keras file to write.")
@file_to_write(
    "--picture", endings=PICTURES, help="Draw the reliability before and after to this .png, .pdf or .svg file."
)
def calibrate(folder, path, subset, protocol, crops, rejection_rate, output, picture):
    """Calibrate the probabilities of a model on held-out music.

    FOLDER is FMA, or music in one folder per genre, as for `evaluate`; its validation split is used. The weights of the
    last layer are divided by the temperature that minimizes the log-loss. The limits of probability and
    out-of-distribution score beyond which a prediction has low confidence are stored in the new model.
    """
    with error_handling():
        from genrekeras import evaluation, visualization

        model = load_model(path)
        _, clips = load_data(folder, subset, protocol, model, "validation")
        result = evaluation.calibrate(model, clips, crops=crops, rejection_rate=rejection_rate)
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
    help="Quantize the convolution kernels of the backbone; for litert.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    help="The file to write.  [default: the name of MODEL with the ending of the format]",
)
@click.option(
    "--clips", type=click.Path(), help="Audio file or folder for the comparison.  [default: synthetic sounds]"
)
def export(path, target, quantize, output, clips):
    """Export a model for another runtime.

    MODEL is a preset, a .keras file, or the output folder of an experiment. The default is the preset fma_small.

    The exported model is run by its own runtime and compared with MODEL. It is kept only if the probabilities agree.
    It contains the genres, sample rate and clip length of MODEL.
    """
    if output is not None and EXPORTS[target]:
        check_ending(output, [EXPORTS[target]])
    with error_handling():
        from genrekeras import export as exports

        model = load_model(path)
        if clips is not None:
            clips = _clips(model, clips)
        if output is None:
            output = os.path.splitext(path)[0] + (EXPORTS[target] or "_saved_model")
        difference = exports.export(model, output, target, clips, quantize=quantize)
        click.echo(f"{output}: probabilities equal those of {path} within {difference:.1g}")


def _clips(model, path):
    """Return the first clips of up to 16 files, `(clips, samples)`; of a single file also the reversed clip."""
    import numpy as np
    from genrekeras import audio, inference

    paths = inference.find_files(path)[:16]
    samples = model.input_shape[1]
    clips = [audio.to_length(audio.load(p, model.sample_rate, duration=model.clip_seconds), samples) for p in paths]
    return np.stack(clips if len(clips) > 1 else [clips[0], clips[0][::-1]])
