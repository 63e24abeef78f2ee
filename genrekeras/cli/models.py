"""Commands about models: what they are, how good they are, and as files for other runtimes."""

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
    errors_named,
    file_to_write,
    load_data,
    load_model,
)
from genrekeras.utils.io import atomic_write, format_size
from genrekeras.utils.progress import printable

# The file endings of `genrekeras.export.FORMATS`, and its quantizations for LiteRT.
EXPORTS = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2", "saved_model": "", "litert": ".tflite"}
QUANTIZE = ("float16", "int8")


@click.command()
@MODEL_FILE
@file_to_write("--card", endings=(".md",), help="Write a model card to this .md file, as hubs read it.")
def info(path, card):
    """Show a model's architecture, training data and scores."""
    with errors_named():
        from genrekeras import reports

        model = load_model(path)
        echo(f"{path}: {format_size(os.path.getsize(path))}")
        for name, text in reports.describe(model):
            lines = textwrap.wrap(printable(text), 80 - 11, break_on_hyphens=False, break_long_words=False)
            for place, line in enumerate(lines or [""]):
                click.echo(f"{name if place == 0 else '':<10} {line}")
        if card:
            reports.model_card(model, card)


@click.command()
@FOLDER
@MODEL
@SUBSET
@PROTOCOL
@click.option("--split", type=click.Choice(["train", "validation", "test", "all"]), default="test", show_default=True)
@CROPS
@file_to_write("-o", "--output", endings=(".json",), help="A .json file for all figures and probabilities.")
@file_to_write("--picture", endings=PICTURES, help="A .png, .pdf or .svg file for the confusion matrix.")
def evaluate(folder, path, subset, protocol, split, crops, output, picture):
    """Evaluate a model on labelled music.

    FOLDER is FMA, or music with one folder per genre. The names of the folders must be genres of the model, but not all
    genres of the model are needed. One split is evaluated, or all clips.
    """
    with errors_named():
        from genrekeras import evaluation

        model = load_model(path)
        data, clips = load_data(folder, subset, protocol, model, split)
        report = evaluation.evaluate(model, clips, crop="even", crops=crops)
        width = max(len(printable(genre)) for genre in report.genres)
        click.echo(printable(f"{data}\n{report}\n\n{'':<{width}}  found        95 %", keep="\n"))
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
    help="Share of the correctly classified tracks that each of the two limits may mark as low confidence.",
)
@file_to_write("-o", "--output", endings=(".keras",), required=True, help="The calibrated model, .keras.")
@file_to_write("--picture", endings=PICTURES, help="A .png, .pdf or .svg file for the reliability before and after.")
def calibrate(folder, path, subset, protocol, crops, rejection_rate, output, picture):
    """Calibrate the probabilities of a model on held-out music.

    FOLDER is FMA, or music with one folder per genre, as for `evaluate`; its validation split is used. The temperature
    that minimizes the log-loss is stored in the last layer of the new model. The limits beyond which a prediction has
    low confidence are stored in its card.
    """
    with errors_named():
        from genrekeras import evaluation, visualization

        model = load_model(path)
        _, clips = load_data(folder, subset, protocol, model, "validation")
        found = evaluation.calibrate(model, clips, crops=crops, rejection_rate=rejection_rate)
        click.echo(f"Temperature {found.temperature:.3f}\nbefore: {found.before}\nafter:  {found.after}")
        thresholds = found.thresholds
        limits = (
            ("a probability below", thresholds.min_confidence),
            ("an OOD score above", thresholds.max_ood_score),
        )
        if told := [f"{name} {limit:.3f}" for name, limit in limits if limit is not None]:
            marked = found.low_confidence_share
            click.echo(
                f"Low confidence: {' or '.join(told)}; on these clips {marked['correct']:.1%} of the right "
                f"predictions and {marked.get('wrong', 0):.1%} of the wrong ones"
            )
        with atomic_write(output) as temporary:
            model.save(temporary)
        if picture:
            visualization.reliability({"before": found.before, "after": found.after}, picture)


@click.command()
@MODEL_FILE
@click.option("--to", "form", required=True, type=click.Choice(list(EXPORTS)))
@click.option(
    "--quantize",
    type=click.Choice(QUANTIZE),
    help="Kernels of the backbone's convolutions in fewer bits, for litert.",
)
@click.option("-o", "--output", type=click.Path(), help="The file to write.  [default: MODEL with another ending]")
@click.option("--clips", type=click.Path(), help="Audio to compare on, a file or a folder.  [default: made-up sounds]")
def export(path, form, quantize, output, clips):
    """Export a model for another runtime.

    The exported model is loaded by its own runtime and compared with MODEL. It is kept only if the probabilities agree.
    The genres, sample rate and clip length of MODEL are stored in it.
    """
    if output is not None and EXPORTS[form]:
        check_ending(output, [EXPORTS[form]])
    with errors_named():
        from genrekeras import export as exports
        from genrekeras.models.presets import preset_file

        model = load_model(path)
        if clips is not None:
            clips = _clips(model, clips)
        if output is None:
            own = path if path != preset_file("fma_small") else os.path.basename(path)  # not into the package
            output = os.path.splitext(own)[0] + (EXPORTS[form] or "_saved_model")
        difference = exports.export(model, output, form, clips, quantize=quantize)
        click.echo(f"{output}: probabilities as those of {path}, to {difference:.1g}")


def _clips(model, path):
    """The first clip of each file, at the most 16, two at the least."""
    import numpy as np
    from genrekeras import audio, inference

    paths = inference.find_files(path)[:16]
    samples = model.input_shape[1]
    clips = [audio.to_length(audio.load(p, model.sample_rate, duration=model.clip_seconds), samples) for p in paths]
    return np.stack(clips if len(clips) > 1 else [clips[0], clips[0][::-1]])
