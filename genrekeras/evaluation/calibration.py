"""Temperature scaling, and thresholds beyond which a prediction has low confidence."""

import dataclasses
import math
import warnings
from typing import NamedTuple

import numpy as np
from genrekeras.evaluation.report import Report
from genrekeras.evaluation.scoring import in_genres_of, predict_crops, to_report
from genrekeras.models.thresholds import Thresholds
from scipy import optimize, special

_TEMPERATURES = (0.05, 1e4)  # bounds of the search in `calibrate`
_LEAST_CONFIDENCE = 1.01  # times 1 / genres; a limit below this would mark nearly equal probabilities only


class Calibration(NamedTuple):
    """Result of `calibrate`.

    Attributes:
        temperature: float > 0; a value above 1 means that the model was overconfident.
        thresholds: `Thresholds` of the calibrated model. `min_confidence` is `None` if no prediction is correct, or if
            the limit is not clearly above 1 / genres. `max_ood_score` is `None` if no prediction is correct, with fewer
            than 20 clips or artists, or for a model with a `"mel_kernel"`.
        low_confidence_share: dict, share of the `correct` and of the `wrong` predictions with low confidence.
        before, after: `Report` of the split.
    """

    temperature: float
    thresholds: Thresholds
    low_confidence_share: dict
    before: Report
    after: Report


def calibrate(model, split, batch_size=16, crop="even", crops=3, rejection_rate=0.05):
    """Temperature-scale a model on held-out clips, and determine its thresholds of low confidence.

    The logits are divided by the temperature that minimizes the log-loss. This does not change the order of genres in a
    crop. The log-loss is that of the mean probabilities of several crops, as for whole files. The weights of the last
    layer are divided by the temperature, so that the saved model is calibrated.

    `model.thresholds` gets two limits. `predict_files` marks a prediction as low confidence if its probability is below
    the first (the track is between genres), or if the out-of-distribution score of its features is above the second
    (the track is unlike these clips; not for a model with a `"mel_kernel"`, whose features of unlike clips are 0).
    Both are copied to the card of the model. Scores in the card no longer apply and are removed.

    `model.thresholds.better_than_chance` is whether the 95 % interval of the accuracy lies above chance. Chance is
    Cohen's expected agreement: the accuracy of predictions with the same genre frequencies that are independent of the
    labels. For a constant prediction it is the share of that genre, for uniform predictions 1 / genres. If the model is
    not better than chance, all its predictions have low confidence.

    Sources: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017. Platt, "Probabilistic Outputs for
    Support Vector Machines", 1999, section 2.2 (smoothed labels keep the temperature of few clips above 0). Cohen, "A
    Coefficient of Agreement for Nominal Scales", 1960.

    Args:
        model: `GenreClassifier`; changed in place.
        split: `genrekeras.datasets.Split`, such as `data.validation`; its genres are matched as in `evaluate`.
        batch_size, crop, crops: as in `evaluate`.
        rejection_rate: float in [0, 1), share of the correctly classified tracks that each of the two limits marks as
            low confidence, with this number of crops. The card records the share that both mark together. A higher rate
            also marks more of the wrong predictions.

    Returns:
        `Calibration`. `after` is computed on the clips that the temperature was fitted on: report scores on others.

    Raises:
        ValueError: as `evaluate`; `rejection_rate` is out of range.

    Warns:
        UserWarning: the model is not better than chance, or the temperature is at a bound of its search.
    """
    if not 0 <= rejection_rate < 1:
        raise ValueError(f"`rejection_rate` must lie in [0, 1). Received: rejection_rate={rejection_rate}")
    split = in_genres_of(model, split)
    coverage = split.input_coverage(model.clip_seconds, crop, crops)
    probabilities, features = predict_crops(model, split, batch_size, crop, crops, "probabilities", "features")
    layer = model.output_layer
    kernel, bias = (weight.astype("float64") for weight in layer.get_weights())
    logits = features @ kernel + bias  # exact also where probabilities are rounded to 0
    temperature = _temperature(logits, split.labels)
    before = to_report(model, split, probabilities, coverage)
    after = to_report(model, split, special.softmax(logits / temperature, axis=-1), coverage)
    has_kernel = "mel_kernel" in np.atleast_1d(model.backbone)
    ood_scores = None if has_kernel else model.ood_score.fit(features, split.groups)
    is_better = _is_better_than_chance(after)
    min_confidence, max_ood_score, share = _limits(after, ood_scores, rejection_rate, is_better)
    thresholds = Thresholds(model.thresholds.temperature * temperature, min_confidence, max_ood_score, is_better)
    layer.set_weights([weight / temperature for weight in layer.get_weights()])
    model.thresholds = thresholds
    model.card = {
        **{key: value for key, value in model.card.items() if key != "scores"},
        "calibration": {
            **dataclasses.asdict(thresholds),
            "low_confidence_share": share,
            "on": {"split": split.name, "protocol": split.protocol, "input_coverage": coverage, "clips": len(split)},
            "log_loss": {"before": before.log_loss, "after": after.log_loss},
            "calibration_error": {"before": before.calibration_error, "after": after.calibration_error},
        },
    }
    return Calibration(temperature, thresholds, share, before, after)


def _temperature(logits, labels):
    """Return the temperature that minimizes the log-loss; logits are `(clips, crops, genres)`."""
    # Smoothed labels, by the rule of succession as in Platt scaling. With hard labels, the log-loss would be lowest at
    # a temperature of 0 if all predictions are correct.
    smoothing, genres = 1 / (len(labels) + 2), logits.shape[-1]
    targets = np.where(np.eye(genres)[labels] > 0, 1 - smoothing, smoothing / (genres - 1))

    def loss(log_temperature):
        mean = special.softmax(logits / math.exp(log_temperature), axis=-1).mean(axis=1)
        return -(targets * np.log(np.maximum(mean, np.finfo("float32").tiny))).sum(axis=1).mean()

    bounds = np.log(_TEMPERATURES)
    log_temperature = optimize.minimize_scalar(loss, bounds=bounds, method="bounded").x
    if np.abs(bounds - log_temperature).min() < 0.01:  # the search comes close to a bound, but never reaches it
        warnings.warn(
            f"The temperature {math.exp(log_temperature):.5g} is at a bound of the search, {_TEMPERATURES[0]:g} to "
            f"{_TEMPERATURES[1]:g}: the model's logits do not fit these clips at any temperature. Check that the model "
            "was trained and that the labels are correct.",
            stacklevel=3,
        )
    return math.exp(log_temperature)


def _is_better_than_chance(report):
    """Return whether the interval of the accuracy lies above chance, and warn if not; see `calibrate`."""
    count = len(report.genres)
    labels, predictions = (np.bincount(x, minlength=count) for x in (report.labels, report.predictions))
    chance = float(labels @ predictions) / len(report.labels) ** 2
    is_better = report.accuracy_interval[0] > chance
    if not is_better:
        warnings.warn(
            f"The model is not better than chance ({100 * chance:.1f} %): {report}. All predictions of the calibrated "
            "model have low confidence. Train it further, or calibrate it on more clips.",
            stacklevel=3,
        )
    return is_better


def _limits(report, ood_scores, rejection_rate, is_better):
    """Return both limits, and the shares of the correct and of the wrong predictions with low confidence."""
    is_correct = report.predictions == report.labels
    if not is_correct.any():
        return None, None, {}
    confidence, max_ood_score = report.probabilities.max(axis=1), None
    min_confidence = float(np.quantile(confidence[is_correct], rejection_rate, method="lower"))
    if min_confidence <= _LEAST_CONFIDENCE / len(report.genres):
        min_confidence = None
    is_low = (confidence < (min_confidence or 0.0)) | (not is_better)
    if ood_scores is not None:
        max_ood_score = float(np.quantile(ood_scores[is_correct], 1 - rejection_rate, method="higher"))
        is_low = is_low | (ood_scores > max_ood_score)
    masks = {"correct": is_correct, "wrong": ~is_correct}
    share = {name: float(is_low[mask].mean()) for name, mask in masks.items() if mask.any()}
    return min_confidence, max_ood_score, share
