"""Temperature-scale a model, and determine its thresholds for predictions with low confidence and for labels."""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from genrekeras.evaluation.class_thresholds import check_precision, choose_class_thresholds
from genrekeras.evaluation.intervals import effective_size, wilson_interval
from genrekeras.evaluation.multi_label import MultiLabelReport
from genrekeras.evaluation.report import Report
from genrekeras.evaluation.scoring import in_genres_of, is_multi_label, predict_crops, to_report
from genrekeras.models.genre_classifier import GenreClassifier
from genrekeras.models.labels import candidate_labels
from genrekeras.models.thresholds import NEVER, Thresholds
from scipy import optimize, special

if TYPE_CHECKING:  # Importing the datasets takes seconds.
    from genrekeras.datasets import SpectrogramSplit, Split

_TEMPERATURE_RANGE = (0.05, 1e4)  # of `calibrate`
# `min_confidence` must be above this multiple of 1 / genres. Otherwise it would mark only nearly equal probabilities.
_MIN_CONFIDENCE_FACTOR = 1.01


class Calibration(NamedTuple):
    """Result of `calibrate`.

    Attributes:
        temperature: `> 0`. A value above 1 means that the model was overconfident.
        thresholds: limits of the calibrated model. `min_confidence` is `None` if no prediction is correct, or if
            the limit is not clearly above 1 / genres. `max_ood_score` is `None` if no prediction is correct, or if
            there are fewer than 20 clips or artists.
        low_confidence_share: shares of the correct and of the wrong predictions that have low confidence. The keys are
            `correct` and `wrong`.
        before: scores on the split before the calibration.
        after: scores on the split after the calibration.
    """

    temperature: float
    thresholds: Thresholds
    low_confidence_share: dict[str, float]
    before: Report | MultiLabelReport
    after: Report | MultiLabelReport


def calibrate(
    model: GenreClassifier,
    split: Split | SpectrogramSplit,
    batch_size: int = 16,
    crop: Literal["start", "center", "even", "random"] = "even",
    crops: int = 3,
    rejection_rate: float = 0.05,
    precision: float | None = None,
) -> Calibration:
    """Temperature-scale a model on held-out clips, and determine its thresholds.

    The logits are divided by the temperature that minimizes the log-loss. This does not change the order of the genres
    for a crop. The log-loss is computed from the mean probabilities of several crops, as in the prediction of files.
    The weights of the last layer are divided by the temperature, so the saved model is calibrated.

    `model.thresholds` gets two limits. A prediction has low confidence in two cases:

    - Its probability is below `min_confidence`: no genre is clearly the most probable.
    - The out-of-distribution score of its features is above `max_ood_score`: the track is unlike the clips of the
      split.

    The limits are copied to the card of the model. The scores in the card are removed, because they do not apply to the
    calibrated model.

    `model.thresholds.better_than_chance` is true if the 95 % interval of the accuracy lies above chance. Chance is
    Cohen's expected agreement: the expected accuracy if the predictions of the model were shuffled among the clips. For
    a model that always predicts one genre, it is the share of the clips with this label. For uniform predictions, it is
    1 / genres. If the model is not better than chance, all its predictions have low confidence.

    A multi-label model also gets `class_thresholds`, above which a genre is predicted, see
    `genrekeras.evaluation.class_thresholds.choose_class_thresholds`. They are chosen for the best F1 score, or for a
    precision. The log-loss is the binary cross-entropy of all pairs of a clip and a genre. For the limits of low
    confidence, a prediction is the most probable of `genrekeras.models.labels.candidate_labels`. It is correct if it is
    one of the genres of the clip. The model is better than chance if the 95 % interval of the macro ROC-AUC lies above
    0.5.

    The data may have other genres than a multi-label model, see `evaluate`. Labels that `evaluate` leaves out have no
    effect on the calibration. Since nothing is known about their precision, their threshold is 1, so they are never
    predicted. `model.card["calibration"]["positives"]` contains the number of clips with each label, and 0 for the
    labels that are left out.

    Sources: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017. Platt, "Probabilistic Outputs for
    Support Vector Machines", 1999, section 2.2 (labels are smoothed, so that the temperature cannot become 0 if there
    are few clips). Cohen, "A Coefficient of Agreement for Nominal Scales", 1960.

    Args:
        model: it is changed in place.
        split: held-out clips, such as `data.validation`. The genres are matched by name, as in `evaluate`.
        batch_size: as in `evaluate`.
        crop: as in `evaluate`.
        crops: as in `evaluate`.
        rejection_rate: in [0, 1), share of the correctly classified clips of the split that each limit marks as low
            confidence. For later predictions, it holds for the same number of crops. A higher rate also marks more of
            the wrong predictions. The card records the share of the correct and of the wrong predictions that at least
            one limit marks.

    Returns:
        Result of the calibration. Do not publish the scores of `after`, because the temperature was fitted on the same
        clips.

    Raises:
        ValueError: `rejection_rate` or `precision` is out of range, or `precision` is given for a single-label model.
            Also raises the errors of `evaluate`.

    Warns:
        UserWarning: the model is not better than chance, the temperature is at the limit of its range, a genre has too
            few clips for a threshold of its own, or no threshold of a genre has the precision.
    """
    if not 0 <= rejection_rate < 1:
        raise ValueError(f"`rejection_rate` must lie in [0, 1). Received: rejection_rate={rejection_rate}")
    check_precision(precision)
    multi_label = is_multi_label(model)
    if precision is not None and not multi_label:
        raise ValueError(f"`precision` must be None for a single-label model. Received: precision={precision}")
    split, scored = in_genres_of(model, split)
    coverage = split.input_coverage(model.clip_seconds, crop, crops)
    probabilities, features = predict_crops(model, split, batch_size, crop, crops, "probabilities", "features")
    kernel, bias = (weight.astype("float64") for weight in model.output_layer.get_weights())
    logits = (features @ kernel + bias)[..., scored]  # They are exact, even if a probability is rounded to 0.
    before = to_report(model, split, probabilities, coverage, scored)
    return calibrate_on_logits(model, before, logits, features, split.groups, rejection_rate, precision)


def calibrate_on_logits(
    model: GenreClassifier,
    before: Report | MultiLabelReport,
    logits: np.ndarray,
    features: Sequence[np.ndarray] | np.ndarray,
    groups: np.ndarray,
    rejection_rate: float = 0.05,
    precision: float | None = None,
) -> Calibration:
    """Calibrate a model on the logits of held-out clips. See `calibrate` for the other arguments, result and warnings.

    The logits may be out-of-fold logits, which were computed by models that were trained in the same way.

    Args:
        model: it is changed in place.
        before: report of the clips, with probabilities that are not calibrated.
        logits: `(clips, crops, genres)`. Rows of NaN are crops that a clip does not have.
        features: for each clip, `(crops, features)`.
        groups: `(clips,)` int, group of each clip, such as its artist.
        rejection_rate: as in `calibrate`.
        precision: as in `calibrate`.
    """
    multi_label = isinstance(before, MultiLabelReport)
    layer, scored = model.output_layer, np.array([model.genres.index(genre) for genre in before.genres])
    temperature = fit_temperature(logits, before.labels)
    _warn_at_limit(temperature)
    probabilities = mean_probabilities(logits / temperature, multi_label)
    after: Report | MultiLabelReport = dataclasses.replace(before, probabilities=probabilities)
    class_thresholds, candidates, label_card = None, scored, {}
    if isinstance(after, MultiLabelReport):
        values, positives = np.full(len(model.genres), NEVER), np.zeros(len(model.genres), int)
        positives[scored] = after.genre_counts
        values[scored] = choose_class_thresholds(after.labels, after.probabilities, after.genres, precision)
        after = dataclasses.replace(after, thresholds=values[scored])
        class_thresholds = tuple(values.tolist())
        candidates = candidate_labels(model, class_thresholds)
        label_card = {"precision": precision, "positives": positives.tolist()}
    ood_scores = model.ood_score.fit(features, groups)
    problem = not_better_than_chance(after)
    is_better = problem is None
    if problem:
        advice = "Train the model further, or calibrate it on more clips."
        warnings.warn(f"{problem} All predictions of the calibrated model have low confidence. {advice}", stacklevel=3)
    top = top_predictions(after, np.isin(scored, candidates))
    min_confidence, max_ood_score, low_confidence_share = _limits(top, ood_scores, rejection_rate, is_better)
    thresholds = Thresholds(
        model.thresholds.temperature * temperature, min_confidence, max_ood_score, is_better, class_thresholds
    )
    layer.set_weights([weight / temperature for weight in layer.get_weights()])
    model.thresholds = thresholds
    model.card = {
        **{key: value for key, value in model.card.items() if key != "scores"},
        "calibration": {
            **dataclasses.asdict(thresholds),
            **label_card,
            "low_confidence_share": low_confidence_share,
            "on": {
                "split": before.split,
                "protocol": before.protocol,
                "input_coverage": before.input_coverage,
                "clips": len(before.labels),
            },
            "log_loss": {"before": before.log_loss, "after": after.log_loss},
            "calibration_error": {"before": before.calibration_error, "after": after.calibration_error},
        },
    }
    return Calibration(temperature, thresholds, low_confidence_share, before, after)


def mean_probabilities(logits: np.ndarray, multi_label: bool) -> np.ndarray:
    """Return the mean probabilities of the crops of each clip, `(clips, genres)`.

    Args:
        logits: `(clips, crops, genres)`. Rows of NaN are crops that a clip does not have.
        multi_label: whether the probabilities of the genres are independent of each other.
    """
    return np.nanmean(activation(multi_label)(logits), axis=1)


def activation(multi_label: bool) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that computes probabilities from logits `(..., genres)`."""
    return special.expit if multi_label else functools.partial(special.softmax, axis=-1)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature that minimizes the log-loss of the mean probabilities of the crops.

    Args:
        logits: `(clips, crops, genres)`. Rows of NaN are crops that a clip does not have.
        labels: `(clips,)` int, or `(clips, genres)` in {0, 1} for a multi-label model.
    """
    # The labels are smoothed by the rule of succession, as in Platt scaling. If all predictions are correct, the
    # log-loss of hard labels would be lowest at a temperature of 0.
    count, genres, tiny = len(labels), logits.shape[-1], np.finfo("float32").tiny
    multi_label = labels.ndim == 2
    if multi_label:
        positives = labels.sum(axis=0)
        targets = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (count - positives + 2))
    else:
        targets = np.where(np.eye(genres)[labels] > 0, 1 - 1 / (count + 2), 1 / (count + 2) / (genres - 1))

    def loss(log_temperature):
        mean = mean_probabilities(logits / math.exp(log_temperature), multi_label)
        losses = targets * np.log(np.maximum(mean, tiny))
        if multi_label:
            losses += (1 - targets) * np.log(np.maximum(1 - mean, tiny))
        return -losses.sum(axis=1).mean()

    return math.exp(optimize.minimize_scalar(loss, bounds=np.log(_TEMPERATURE_RANGE), method="bounded").x)


def _warn_at_limit(temperature):
    """Warn if a temperature is at the limit of its range. The search comes close to a limit, but never reaches it."""
    if np.abs(np.log(_TEMPERATURE_RANGE) - math.log(temperature)).min() < 0.01:
        warnings.warn(
            f"The temperature {temperature:.5g} is at the limit of its range, {_TEMPERATURE_RANGE[0]:g} to "
            f"{_TEMPERATURE_RANGE[1]:g}. The model's logits do not fit these clips at "
            "any temperature. Check that the model was trained and that the labels are correct.",
            stacklevel=4,
        )


def not_better_than_chance(report: Report | MultiLabelReport) -> str | None:
    """Return a sentence, or `None` if the interval of the score lies above chance. `calibrate` defines chance."""
    if isinstance(report, MultiLabelReport):
        score, interval, chance = report.roc_auc, report.roc_auc_interval, 0.5
    else:
        count = len(report.genres)
        labels, predictions = (np.bincount(x, minlength=count) for x in (report.labels, report.predictions))
        chance = float(labels @ predictions) / len(report.labels) ** 2
        score, interval = report.accuracy, report.accuracy_interval
    if interval is None:  # too few artists: as many independent clips as the effective size
        groups = np.arange(len(report.labels)) if report.groups is None else report.groups
        size = effective_size(np.unique(groups, return_counts=True)[1])
        interval = wilson_interval(size * score, size)
    return None if interval[0] > chance else f"The model is not better than chance ({100 * chance:.1f} %): {report}."


class TopPredictions(NamedTuple):
    """The most probable genre of each clip of a report.

    Attributes:
        probabilities: `(n,)`, calibrated.
        is_correct: `(n,)` bool.
        chance: probability that the most probable genre always exceeds: 1 / genres for a single-label model, else 0.
    """

    probabilities: np.ndarray
    is_correct: np.ndarray
    chance: float


def top_predictions(report: Report | MultiLabelReport, is_candidate: np.ndarray | None = None) -> TopPredictions:
    """Return the most probable genre of each clip of a report.

    Args:
        report: report of calibrated probabilities.
        is_candidate: `(genres,)` bool, the genres of a multi-label report from which the most probable one is chosen.
            `None` chooses from all.
    """
    if isinstance(report, Report):
        return TopPredictions(report.probabilities.max(axis=1), report.is_correct, 1 / len(report.genres))
    ranked = np.where(True if is_candidate is None else is_candidate, report.probabilities, -1.0)
    best = ranked.argmax(axis=1)[:, None]
    probabilities = np.take_along_axis(ranked, best, axis=1)[:, 0]
    is_correct = np.take_along_axis(report.labels == 1, best, axis=1)[:, 0]
    return TopPredictions(probabilities, is_correct & (probabilities >= 0), 0.0)


def choose_min_confidence(
    top: TopPredictions, rejection_rate: float = 0.05, clips: slice | np.ndarray = slice(None)
) -> float | None:
    """Return the probability below which a prediction has low confidence.

    Args:
        top: predictions of a report.
        rejection_rate: share of the correct predictions below the limit.
        clips: the clips of the report from which the limit is chosen, such as a `(n,)` bool mask.

    Returns:
        The limit, or `None` if there are no correct predictions, or if the limit of a single-label model is not clearly
        above 1 / genres.
    """
    confidence = top.probabilities[clips][top.is_correct[clips]]
    if len(confidence) == 0:
        return None
    limit = float(np.quantile(confidence, rejection_rate, method="lower"))
    return limit if limit > _MIN_CONFIDENCE_FACTOR * top.chance else None


def _limits(top, ood_scores, rejection_rate, is_better):
    """Return `min_confidence`, `max_ood_score` and `low_confidence_share`. See `Calibration`."""
    is_correct, max_ood_score = top.is_correct, None
    if not is_correct.any():
        return None, None, {}
    min_confidence = choose_min_confidence(top, rejection_rate)
    is_low = (top.probabilities < (min_confidence or 0.0)) | (not is_better)
    if ood_scores is not None:
        max_ood_score = float(np.quantile(ood_scores[is_correct], 1 - rejection_rate, method="higher"))
        is_low = is_low | (ood_scores > max_ood_score)
    masks = {"correct": is_correct, "wrong": ~is_correct}
    low_confidence_share = {name: float(is_low[mask].mean()) for name, mask in masks.items() if mask.any()}
    return min_confidence, max_ood_score, low_confidence_share
