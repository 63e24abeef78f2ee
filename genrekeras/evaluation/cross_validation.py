"""Cross-validation in which all tracks of an artist are in the same fold."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import joblib
import keras
import numpy as np
from genrekeras.evaluation import scoring
from genrekeras.evaluation.calibration import (
    choose_min_confidence,
    fit_temperature,
    mean_probabilities,
    top_predictions,
)
from genrekeras.evaluation.class_thresholds import choose_class_thresholds
from genrekeras.evaluation.multi_label import MultiLabelReport, report_from_dict
from genrekeras.evaluation.report import Report
from genrekeras.utils.io import StrPath, atomic_write
from genrekeras.utils.progress import print_message

if TYPE_CHECKING:  # Importing the datasets takes seconds.
    from genrekeras.datasets import Dataset, SpectrogramSplit, Split

Model = TypeVar("Model")


class CrossValidation(NamedTuple):
    """Result of `cross_validate`.

    Attributes:
        report: scores of the calibrated out-of-fold probabilities. Its `split` is "cross-validation". The thresholds of
            a multi-label report have the shape `(n, genres)`. Those of each fold were chosen on the other folds, for
            the best F1 score.
        uncalibrated: scores of the probabilities before the calibration.
        folds: `(n,)` int, fold of each track.
        temperatures: `(folds,)`, temperature of each fold, fitted on the other folds.
        min_confidence: `(folds,)`, limit of low confidence in each fold, chosen on the other folds. NaN means no limit,
            see `genrekeras.evaluation.Calibration`.
        low_confidence: `(n,)` bool, whether the probability of the most probable genre is below the limit.
        seconds: `(folds,)`, processor time of the training and the prediction of each fold.
    """

    report: Report | MultiLabelReport
    uncalibrated: Report | MultiLabelReport
    folds: np.ndarray
    temperatures: np.ndarray
    min_confidence: np.ndarray
    low_confidence: np.ndarray
    seconds: np.ndarray


def cross_validate(
    make_model: Callable[[], Model],
    train: Callable[[Model, Any], object],
    data: Dataset | Split | SpectrogramSplit,
    folds: int = 5,
    seed: int = 0,
    protocol: Literal["artist_folds", "random_folds"] = "artist_folds",
    evaluate: Callable[[Any, Any], Report | MultiLabelReport] = scoring.evaluate,
    folder: StrPath | None = None,
    processes: int = 1,
) -> CrossValidation:
    """Train a model for each fold on the tracks of all other folds, and predict the tracks of the fold.

    Each track is predicted once. With `"artist_folds"`, the model was not trained on tracks of the same artist. If
    `train` makes a choice, such as the number of epochs, it must use only the tracks of its second argument.

    The probabilities are calibrated. In each fold, their logarithms (for a multi-label model, their logits) are divided
    by a temperature. The temperature, the limit of low confidence and the class thresholds of a fold are fitted on the
    out-of-fold predictions of the other folds. The models that made these predictions were trained on tracks of the
    fold, so the calibration is not completely independent of the labels of the fold.

    Before each fold, `keras.utils.set_random_seed(seed)` is called. The results therefore do not depend on the order of
    the folds or the number of processes.

    Args:
        make_model: function that returns a new, untrained model.
        train: function that trains a model on a split. Its return value is ignored.
        data: the tracks of all splits of a dataset, or of one split.
        folds: `>= 2`, number of folds.
        seed: seed of the assignment of tracks to folds, see `genrekeras.datasets.assign_folds`, and of Keras.
        protocol: `"artist_folds"` or `"random_folds"`, see `genrekeras.datasets.assign_folds`.
        evaluate: function that returns the scores of a model on a split. For several crops of each track:
            `functools.partial(genrekeras.evaluation.evaluate, crop="even", crops=3)`.
        folder: folder for the results of the folds. If the call is interrupted, the next call with the same folder
            computes only the other folds. Use a new folder for another model, training or seed. `None` keeps the
            results in memory only.
        processes: `> 0`, number of folds that are computed at the same time, each in a process of its own. The
            processes share the cores.

    Raises:
        ValueError: the data cannot be assigned to folds, see `genrekeras.datasets.assign_folds`, or `folder` contains
            results of folds with other tracks.
        OSError: the results cannot be written to `folder`.
    """
    from genrekeras.datasets.groups import assign_folds  # imported here because the import is slow
    from genrekeras.datasets.splits import Dataset

    split = data.all if isinstance(data, Dataset) else data
    assigned = assign_folds(split, folds, seed, protocol)
    if folder is not None:
        os.makedirs(folder, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // processes)
    with joblib.parallel_config("loky", inner_max_num_threads=threads if processes > 1 else None):
        results = joblib.Parallel(n_jobs=processes)(
            joblib.delayed(_run_fold)(fold, assigned, protocol, make_model, train, split, seed, evaluate, folder)
            for fold in range(folds)
        )
    reports, seconds = zip(*results, strict=True)
    order = np.argsort(np.concatenate([np.flatnonzero(assigned == fold) for fold in range(folds)]))
    columns: dict[str, list[np.ndarray]] = {}
    for name in ("labels", "probabilities"):
        columns[name] = [getattr(report, name) for report in reports]
    if all(isinstance(report, MultiLabelReport) for report in reports):
        columns["thresholds"] = [np.broadcast_to(x.thresholds, x.probabilities.shape) for x in reports]
    uncalibrated = dataclasses.replace(
        reports[0],
        split="cross-validation",
        protocol=protocol,
        track_ids=split.track_ids,
        groups=scoring.artists_of(split),
        **{name: np.concatenate(arrays)[order] for name, arrays in columns.items()},
    )
    return calibrate_folds(uncalibrated, assigned, np.array(seconds))


def calibrate_folds(
    uncalibrated: Report | MultiLabelReport, folds: np.ndarray, seconds: np.ndarray, logits: np.ndarray | None = None
) -> CrossValidation:
    """Calibrate the out-of-fold probabilities of each fold on the other folds. See `cross_validate`.

    Args:
        uncalibrated: report of the out-of-fold probabilities.
        folds: `(n,)` int, fold of each track.
        seconds: `(folds,)`, processor time of each fold.
        logits: `(n, crops, genres)`, out-of-fold logits. Rows of NaN are crops that a track does not have. `None`
            computes one row for each track from its probabilities.
    """
    multi_label = isinstance(uncalibrated, MultiLabelReport)
    if logits is None:
        tiny = np.finfo("float32").tiny
        logits = np.log(np.maximum(uncalibrated.probabilities, tiny))
        if multi_label:
            logits -= np.log(np.maximum(1 - uncalibrated.probabilities, tiny))
        logits = logits[:, None]
    probabilities, class_thresholds = np.empty((2, *uncalibrated.probabilities.shape))
    low_confidence = np.zeros(len(folds), bool)
    temperatures, limits = [], []
    for fold in range(folds.max() + 1):
        is_other = folds != fold
        temperature = fit_temperature(logits[is_other], uncalibrated.labels[is_other])
        means = mean_probabilities(logits / temperature, multi_label)
        calibrated = dataclasses.replace(uncalibrated, probabilities=means)
        top = top_predictions(calibrated)
        limit = choose_min_confidence(top, clips=is_other)
        if multi_label:
            class_thresholds[~is_other] = choose_class_thresholds(
                calibrated.labels[is_other], calibrated.probabilities[is_other], calibrated.genres
            )
        probabilities[~is_other] = calibrated.probabilities[~is_other]
        low_confidence[~is_other] = top.probabilities[~is_other] < (limit or 0.0)
        temperatures.append(temperature)
        limits.append(np.nan if limit is None else limit)
    fields = {"probabilities": probabilities, **({"thresholds": class_thresholds} if multi_label else {})}
    report = dataclasses.replace(uncalibrated, **fields)
    return CrossValidation(
        report, uncalibrated, folds, np.array(temperatures), np.array(limits), low_confidence, seconds
    )


def _run_fold(fold, assigned, protocol, make_model, train, split, seed, evaluate, folder):
    """Return the report and the processor time of a fold, or read them from `folder`."""
    rows = np.flatnonzero(assigned == fold)
    path = None if folder is None else os.path.join(folder, f"fold-{fold}.json")
    if path is not None and os.path.exists(path):
        return _read_fold(path, split.track_ids[rows])
    start = time.process_time()
    keras.utils.set_random_seed(seed)
    model = make_model()
    train(model, split.select(np.flatnonzero(assigned != fold)))
    report = dataclasses.replace(evaluate(model, split.select(rows)), protocol=protocol)
    seconds = time.process_time() - start
    print_message(f"Fold {fold + 1} of {assigned.max() + 1}: {report}; {seconds:.0f} s of processor time")
    if path is not None:
        with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            json.dump({**report.to_dict(), "seconds": seconds}, file)
        return _read_fold(path, report.track_ids)  # The file has rounded numbers, as in a resumed call.
    return report, seconds


def _read_fold(path, track_ids):
    """Return the report and the processor time of a finished fold."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        report, seconds = report_from_dict(content), float(content["seconds"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the result of a fold. Remove the file: {error}") from error
    if not np.array_equal(report.track_ids, track_ids):
        raise ValueError(f"{path} is the result of other tracks. Use another `folder`, or remove the file.")
    return report, seconds
