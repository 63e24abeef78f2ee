"""Train a model on the music of a person: frozen features, a linear head, and scores on other artists."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import warnings
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
import threadpoolctl
from genrekeras.datasets.collection import FOLDERS, Collection, find_collection
from genrekeras.datasets.prepare import format_reasons
from genrekeras.evaluation import MultiLabelReport, Report
from genrekeras.evaluation.calibration import calibrate_on_logits
from genrekeras.inference.features import file_features
from genrekeras.models import GenreClassifier, backbones
from genrekeras.reports import model_card
from genrekeras.runs import distribution, fine_tuning, options, runner, scoring
from genrekeras.runs.head_scores import cross_validate_head, describe_learning_curve, learning_curve
from genrekeras.training.linear_head import FeatureSplit, fit_linear_head
from genrekeras.utils.io import StrPath, atomic_write
from genrekeras.utils.progress import print_message

SCRIPT = "genrekeras train"  # value of the key `script` in the config of a run
_SAVE_EVERY = 60.0  # in s, see `genrekeras.training.fit`


class LoadedCollection(NamedTuple):
    """A collection, and the features of its tracks.

    Attributes:
        collection: the tracks that can be read.
        split: the same tracks with their features.
        model: model for the genres of the collection, whose last layer is not trained.
        input_coverage: the part of each track that the features describe.
        broken: path -> reason, tracks that cannot be read.
        incomplete: path -> reason, damaged tracks that are used as far as they can be read.
    """

    collection: Collection
    split: FeatureSplit
    model: GenreClassifier
    input_coverage: str
    broken: dict[str, str]
    incomplete: dict[str, str]


class TrainedCollection(NamedTuple):
    """Result of `train_collection`.

    Attributes:
        model: the trained and calibrated model.
        report: scores of the out-of-fold predictions, or of the test split with `fine_tune="all"`.
        learning_curve: rows of `genrekeras.runs.head_scores.learning_curve`. Empty with `fine_tune="all"`.
        collection: tracks, genres, and what was left out.
        broken: path -> reason, tracks that could not be read.
        headline: the score as a sentence.
        explanation: what the score means.
    """

    model: GenreClassifier
    report: Report | MultiLabelReport
    learning_curve: list[dict[str, Any]]
    collection: Collection
    broken: dict[str, str]
    headline: str
    explanation: str


def load_collection(
    music: StrPath,
    labels: StrPath = FOLDERS,
    backbone: str = "musicnn",
    pretrained: StrPath | None = None,
    min_tracks: int = 10,
    max_clips: int = 30,
    workers: int = 2,
) -> LoadedCollection:
    """Find the tracks of a collection, and compute their features. See `train_collection` for arguments and errors.

    Warns:
        UserWarning: tracks cannot be read or are incomplete.
    """
    collection = find_collection(music, labels, min_tracks)
    artists = collection.tracks["artist_id"].nunique()
    counts = f"{len(collection.tracks):,} tracks, {len(collection.genres)} genres, {artists:,} artists or groups"
    print_message(f"{collection.source}: {counts}")
    model = _make_model(collection, backbone, pretrained)
    paths = collection.tracks["path"].tolist()
    results = file_features(model, paths, max_clips, workers=workers)
    broken = {path: result.error for path, result in zip(paths, results, strict=True) if result.error}
    incomplete = {path: result.warning for path, result in zip(paths, results, strict=True) if result.warning}
    for reasons, problem in ((broken, "cannot be read and are left out"), (incomplete, "are incomplete, but are used")):
        if reasons:
            names = format_reasons(reasons, collection.source)
            warnings.warn(f"Of {len(paths)} tracks, {len(reasons)} {problem}: {names}", stacklevel=3)
    readable = [position for position, result in enumerate(results) if not result.error]
    selected = collection.select(readable, [results[position].checksum for position in readable], min_tracks)
    if (selected.genres, selected.multi_label) != (collection.genres, collection.multi_label):
        model = _make_model(selected, backbone, pretrained)
    by_path = {path: result.features for path, result in zip(paths, results, strict=True)}
    features = [by_path[path] for path in selected.tracks["path"]]
    split = FeatureSplit(selected.tracks, features, selected.genres)
    coverage = f"up to {max_clips} clips of {model.clip_seconds:.3g} s"
    return LoadedCollection(selected, split, model, coverage, broken, incomplete)


def train_collection(
    music: StrPath,
    output: StrPath,
    labels: StrPath = FOLDERS,
    backbone: str = "musicnn",
    pretrained: StrPath | None = None,
    min_tracks: int = 10,
    max_clips: int = 30,
    workers: int = 2,
    seed: int = 0,
    fine_tune: Literal["head", "all"] = "head",
    distribute: bool = False,
) -> TrainedCollection:
    """Train a model for the genres of a music collection, and score it on artists that it was not trained on.

    A pretrained network computes the features of up to `max_clips` clips of each track, as in `predict_files`. The
    features are cached for each file, so a later call computes only those of new files. The network is not trained.
    The last layer is a logistic regression, see `genrekeras.training.linear_head`.

    The scores are out-of-fold: in each of five folds, the tracks are predicted by a layer that was trained on the other
    folds. All tracks of an artist or an album, and all files with the same audio, are in the same fold. The penalty of
    the layer is chosen by another cross-validation inside the training folds. The predictions are those of the saved
    model: the mean probabilities of the clips. The saved model is trained on all tracks and calibrated on the
    out-of-fold predictions.

    With `fine_tune="all"`, all layers of the network are trained. A cross-validation would take too long, so the
    network is trained once: on about 70 % of the tracks. The epoch and the calibration are chosen on 10 %, and the
    scores are those of the other 20 %. No artist or album is in two of these parts. See
    `genrekeras.runs.fine_tuning`. The saved model is the one that was scored, so it was trained on fewer tracks than
    with `fine_tune="head"`. The seed of Keras, Python and NumPy is set.

    The output folder contains `model.keras`, `report.html`, `model_card.md`, the scores, and the wrong predictions. If
    a call is interrupted, the same call computes only what is missing. On PyTorch, a resumed training of all layers
    gives the same weights as an uninterrupted one.

    Args:
        music: folder with the music.
        output: output folder, new or empty, or the folder of an interrupted call.
        labels: source of the genres: `"folders"`, `"tags"` or the path of a CSV file, see
            `genrekeras.datasets.collection.find_collection`. If tracks have several genres, the model is multi-label.
        backbone: see `genrekeras.GenreClassifier`.
        pretrained: weights of the backbone, see `genrekeras.GenreClassifier`. `None` is `"msd"` for musicnn, and
            `"imagenet"` for other backbones.
        min_tracks: `> 0`. Genres with fewer tracks, and genres of only one artist, are left out.
        max_clips: `> 0`, maximum number of clips of a track, see `predict_files`.
        workers: `> 0`, number of threads that decode files.
        seed: seed of the assignment to folds and splits, and of the training of all layers.
        fine_tune: `"head"` trains the last layer, and `"all"` all layers.
        distribute: whether all layers are trained on all devices of this process. Needs `fine_tune="all"` and the
            backend JAX.

    Raises:
        FileNotFoundError: the folder or the CSV file does not exist.
        ValueError: `output` contains files of something else, fewer than two genres have enough tracks and artists, the
            pretrained weights are not available, or an argument is invalid.
        OSError: `output` or the cache cannot be written, or another process is using `output`.

    Warns:
        UserWarning: tracks cannot be read, or the model is not better than chance.
    """
    output = os.fspath(output)
    is_interrupted = _is_interrupted(output)
    settings: dict[str, Any] = {
        "labels": os.fspath(labels),
        "backbone": backbone,
        "pretrained": pretrained,
        "min_tracks": min_tracks,
    }
    settings |= {"max_clips": max_clips, "workers": workers, "seed": seed, "fine_tune": fine_tune}
    settings |= {"distribute": distribute}
    if fine_tune not in ("head", "all"):
        raise ValueError(f'`fine_tune` must be "head" or "all". Received: fine_tune={fine_tune!r}')
    if distribute and fine_tune != "all":
        raise ValueError(
            'The training is distributed only with `fine_tune="all"`. The last layer is a logistic regression, which '
            f"takes seconds on one device. Received: fine_tune={fine_tune!r}"
        )
    if distribute:
        distribution.check_backend()
    if fine_tune == "all":
        settings |= {"epochs": fine_tuning.EPOCHS, "save_every": _SAVE_EVERY, "jit": False}
    flags = argparse.Namespace(music=os.fspath(music), output=output, **settings, wandb=False)
    flags.resume = output if is_interrupted else None
    with options.locked_folder(output, may_contain_files=is_interrupted):
        run = runner.Run(flags, output, clip_seconds=0.0)
        run.save_config(script=SCRIPT)
        try:
            loaded = load_collection(music, labels, backbone, pretrained, min_tracks, max_clips, workers)
            return _train(run, loaded)
        except Exception:
            run.discard()
            raise
        finally:
            if distribute:
                keras.distribution.set_distribution(None)


def summary_of(report: Report | MultiLabelReport, without_artist: int) -> str:
    """Return the score of out-of-fold predictions as a sentence.

    Args:
        report: report with artists.
        without_artist: number of tracks whose artist and album are unknown.
    """
    bounds = [f"{100 * bound:.0f}" for bound in report.score_interval or ()]
    interval = f" [{', '.join(bounds)}]" if bounds else ""
    name = "" if isinstance(report, Report) else f" {report.SCORE_NAME}"
    artists, tracks = 0 if report.groups is None else len(np.unique(report.groups)), len(report.labels)
    kind = "artists" if without_artist < tracks else "groups of tracks"
    reason = "" if interval else f" (too few {kind} for an interval)"
    score = f"{100 * report.score:.0f} %{name}{interval}"
    return f"On {kind} not in training: {score}, {tracks:,} tracks, {artists:,} {kind}{reason}"


def _explain(report):
    """Return text that states what the score of a report means."""
    if isinstance(report, Report):
        text = "The accuracy is the share of the tracks whose most probable genre is correct."
    else:
        text = (
            "mAP is the mean average precision of the genres. The most probable genre of "
            f"{100 * report.is_correct.mean():.0f} % of the tracks is one of their genres."
        )
    interval = " The 95 % interval in brackets takes artists as independent of each other." * bool(
        report.score_interval
    )
    return f"{text} Artists that share an album count as one.{interval}"


def _make_model(collection, backbone, pretrained, fine_tune="head"):
    """Return a model with a pretrained backbone and a new last layer for the genres of a collection."""
    if pretrained is None:
        pretrained = next(iter(backbones.presets_of(backbone)), "imagenet")
    arguments = {"pretrained": pretrained, "fine_tune": fine_tune, "multi_label": collection.multi_label}
    try:
        # The last layer is fitted to features without dropout.
        return GenreClassifier(backbone, collection.genres, dropout=0.0, **arguments)
    except backbones.PretrainedWeightsError as error:
        raise ValueError(f"The features of {backbone} need pretrained weights. {error}") from error


def _train(run, loaded):
    """Train and score a model, and write the output folder."""
    flags, collection = run.flags, loaded.collection
    if flags.fine_tune == "all":
        keras.utils.set_random_seed(flags.seed)
        if flags.distribute:
            distribution.use_all_devices(runner.BATCH_SIZE)
        model = _make_model(collection, flags.backbone, flags.pretrained, "all")
        with contextlib.redirect_stdout(sys.stderr):  # Standard output has the results only.
            model, reports, comparison = fine_tuning.fine_tune(run, loaded, model)
        curve, training = [], scoring.training_settings(run.config)
    else:
        model, reports, curve, training = _train_head(run, loaded)
        comparison = ""
    report, tracks = reports["test_tracks"], collection.tracks.loc[reports["test_tracks"].track_ids]
    headline = summary_of(report, int(tracks["without_artist"].sum()))
    explanation = f"{_explain(report)} {comparison}".strip()
    broken = {**loaded.broken, **{collection.tracks["path"][track]: text for track, text in run.data.broken.items()}}
    counts = {
        "used": len(collection.tracks) - len(run.data.broken),
        "broken": len(broken),
        "incomplete": len(loaded.incomplete),
    }
    run.save_config(
        data={
            **run.config["data"],
            "broken": {os.path.relpath(path, collection.source): reason for path, reason in broken.items()},
        },
        collection={
            "headline": headline,
            "explanation": explanation,
            "notes": collection.notes,
            "rare": collection.rare,
            "min_tracks": flags.min_tracks,
            "counts": {**collection.counts, **counts},
            "learning_curve": curve,
            "more_music": describe_learning_curve(curve, report.SCORE_NAME) if curve else "",
        },
        model={"backbone": model.backbone},
    )
    model.card = {
        "data": {key: value for key, value in run.config["data"].items() if key != "broken"},
        "training": {
            "script": SCRIPT,
            "labels": flags.labels if flags.labels in (FOLDERS, "tags") else "CSV file",
            **training,
            "seconds": run.config["seconds"],
            "backend": run.config["backend"],
            "versions": run.config["versions"],
        },
        "scores": [report.figures()],
        **model.card,
    }
    run.save_json("card.json", dict(model.card))
    model_card(model, run.path("model_card.md"))
    scoring.write_reports(run, reports)
    with atomic_write(run.model_file) as temporary:
        model.save(temporary)
    run.finish()
    return TrainedCollection(model, report, curve, collection, broken, headline, explanation)


def _train_head(run, loaded):
    """Train the last layer, and score it by cross-validation. Return model, reports, learning curve and settings."""
    split, model, seed = loaded.split, loaded.model, run.flags.seed
    out_of_fold = cross_validate_head(split, loaded.input_coverage, seed)
    validation = out_of_fold.validation
    curve = learning_curve(split, out_of_fold, seed)
    head = fit_linear_head(split, seed)
    model.output_layer.set_weights([head.kernel, head.bias])
    with threadpoolctl.threadpool_limits(1, user_api="blas"):  # faster for small matrices, see `fit_linear_head`
        calibrate_on_logits(model, validation.uncalibrated, out_of_fold.logits, split.few_clips(), split.groups)
    scoring.set_cross_validated_data(run, os.path.basename(loaded.collection.source), split, model.sample_rate)
    training = {"head": f"logistic regression on mean features, L2 penalty {head.penalty:g}"}
    reports = {"test_tracks": validation.report, "test_tracks_uncalibrated": validation.uncalibrated}
    return model, reports, curve, training


def _is_interrupted(folder):
    """Return whether a folder contains an interrupted run of `train_collection`."""
    try:
        with open(os.path.join(folder, options.CONFIG), encoding="utf-8") as file:
            config = json.load(file)
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("script") == SCRIPT and not config.get("finished")
