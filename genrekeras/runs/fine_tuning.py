"""Train all layers of a pretrained network on a music collection, and score it on artists that it was not trained on.

The tracks are assigned to three splits by artist: a fifth to the test, a tenth to the validation, and the others to the
training. The training starts from the last layer that `genrekeras.training.linear_head` fits to the features of the
pretrained network. Batch normalization keeps the statistics of the pretrained network, on which these features depend.
Each epoch has one random clip of each track. The model of the epoch with the lowest validation loss is kept.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import tempfile
from typing import TYPE_CHECKING

import genrekeras as gk
import keras
import numpy as np
from genrekeras.datasets.labels import label_rows
from genrekeras.datasets.prepare import as_dataset, prepare
from genrekeras.datasets.tagged import TaggedMusic
from genrekeras.evaluation import MultiLabelReport, Report, compare
from genrekeras.evaluation.calibration import calibrate_on_logits
from genrekeras.inference.features import file_features
from genrekeras.models import GenreClassifier
from genrekeras.runs import runner
from genrekeras.runs.head_scores import to_report
from genrekeras.training.linear_head import LinearHead, fit_linear_head
from genrekeras.utils.io import cache_dir
from genrekeras.utils.logging import only_absl_errors

if TYPE_CHECKING:  # This module imports `fine_tuning`.
    from genrekeras.runs.collection import LoadedCollection

EPOCHS, LEARNING_RATE = 10, 1e-4
_VALIDATION_CROPS = {"crop": "even", "crops": 3}


def fine_tune(
    run: runner.Run, loaded: LoadedCollection, model: GenreClassifier
) -> tuple[GenreClassifier, dict[str, Report | MultiLabelReport], str]:
    """Train all layers of a model, calibrate it and score it. An interrupted training is resumed.

    Args:
        run: `run.data` is set to the splits.
        loaded: the tracks, and their features by the pretrained network.
        model: the pretrained network and a new last layer, with `fine_tune="all"`.

    Returns:
        The model, its reports by name, and a comparison with a model whose last layer only was trained.

    Raises:
        ValueError: the collection has too few artists, or the folder of `run` contains the state of another training.
        OSError: the decoded tracks cannot be stored, or a file cannot be read any more.
    """
    run.data = _load_splits(loaded.collection, model.sample_rate, run.flags.seed)
    run.config["data"] = run.data_config()
    print(f"Data:    {run.data}")
    rows = loaded.split.tracks.index
    train, validation, test = (
        dataclasses.replace(loaded.split.select(rows.get_indexer(part.track_ids)), name=part.name)
        for part in (run.data.train, run.data.validation, run.data.test)
    )
    head = fit_linear_head(train, run.flags.seed)
    model.output_layer.set_weights([head.kernel, head.bias])
    for layer in model.feature_extractor.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    loss = "binary_crossentropy" if model.multi_label else "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.Adam(LEARNING_RATE), loss, metrics=[] if model.multi_label else ["accuracy"])
    batches = run.batches(run.data.train, model, crop="random", shuffle=True)
    held_out = run.batches(run.data.validation, model, **_VALIDATION_CROPS)
    best = run.path(f"training{runner.BEST}")
    run.fit(model, functools.partial(gk.training.fit, model, batches, validation_data=held_out), best, (), "val_loss")

    model = GenreClassifier.from_config(model.get_config())  # without optimizer, which only fits frozen normalization
    model.load_weights(best)
    # The same tracks, predicted by a model of which only the last layer was trained, on all tracks of other artists.
    frozen_head = fit_linear_head(loaded.split.select(np.flatnonzero(~rows.isin(test.track_ids))), run.flags.seed)
    frozen = to_report(test, frozen_head.logits(test.features), loaded.input_coverage, "test")
    validation, test = (_features_by(model, split, run.flags) for split in (validation, test))
    logits = _logits(model, validation)
    before = to_report(validation, logits, loaded.input_coverage, "validation")
    calibration = calibrate_on_logits(model, before, logits, validation.few_clips(), validation.groups)
    logits = _logits(model, test)
    report = to_report(test, logits, loaded.input_coverage, "test")
    uncalibrated = to_report(test, logits * calibration.temperature, loaded.input_coverage, "test")
    if isinstance(report, MultiLabelReport):
        report = dataclasses.replace(report, thresholds=np.array(model.thresholds.class_thresholds))
    reports = {"validation_tracks": calibration.after, "test_tracks": report, "test_tracks_uncalibrated": uncalibrated}
    text = f"It was trained on {len(train):,} tracks, and the epoch was chosen on {len(validation):,} other tracks."
    return model, reports, f"{text} {_compare(frozen, report)}"


def _load_splits(collection, sample_rate, seed):
    """Decode and store the tracks of a collection, and return them as a `Dataset` with splits by artist."""
    tracks, folder = collection.tracks, os.path.join(cache_dir(), "folders")
    stored = tracks[["path", "bytes", "changed"]]  # The stored clips do not depend on genres and artists.
    with only_absl_errors():
        store = prepare(TaggedMusic, stored, (), "tagged", sample_rate, "random", folder)
    name = os.path.basename(collection.source)
    data = as_dataset(store, tracks, collection.genres, name, "random", seed, collection.source)
    try:
        data = data.fold(0, seed=seed)
        for part in (data.validation, data.test):  # before the training, which may take hours
            shares = label_rows(part.labels, len(data.genres)).mean(axis=0)
            if not ((shares > 0) & (shares < 1)).any():
                raise ValueError(f"all {part.name} tracks have the same genres")
        return data
    except ValueError as error:
        raise ValueError(
            f"{collection.source}: there are too few artists for a training, a validation and a test split ({error}). "
            "Add music of other artists, or train the last layer only."
        ) from error


def _features_by(model, split, flags):
    """Return a `FeatureSplit` with the features of the clips that `predict_files` processes."""
    paths = split.tracks["path"].tolist()
    with tempfile.TemporaryDirectory() as folder:  # The features of this model are not used again.
        results = file_features(model, paths, flags.max_clips, workers=flags.workers, cache_dir=folder)
    for path, result in zip(paths, results, strict=True):
        if result.error:
            raise OSError(f"{path} cannot be read any more: {result.error}")
    return dataclasses.replace(split, features=[result.features for result in results])


def _logits(model, split):
    """Return the logits of the clips of tracks, see `LinearHead.logits`."""
    kernel, bias = model.output_layer.get_weights()
    return LinearHead(kernel, bias, penalty=0.0).logits(split.features)


def _compare(frozen, report):
    """Return text that compares a model with one of which only the last layer was trained."""
    row = compare({"frozen": frozen, "all": report}).loc["all"]
    difference = f"{round(100 * row['difference']):+d} percentage points"
    if row["difference_low"] == row["difference_low"]:  # not NaN
        bounds = (f"{round(100 * row[name]):+d}" for name in ("difference_low", "difference_high"))
        difference += f" [{', '.join(bounds)}]"
    return (
        f"On the same tracks, a model whose last layer only was trained has {100 * frozen.score:.0f} % "
        f"{report.SCORE_NAME}. The difference is {difference}."
    )
