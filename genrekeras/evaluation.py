"""Evaluation: what a model makes of a split, and the figures of it."""

import dataclasses
import json
import math
import os
import warnings
from typing import NamedTuple

import keras
import numpy as np
import pandas as pd
from genrekeras.datasets.batches import batches
from genrekeras.datasets.frames import image_batches
from genrekeras.datasets.splits import group_tracks
from genrekeras.files import whole_file
from genrekeras.progress import printable
from scipy import optimize, special
from sklearn import metrics

_TEMPERATURES = (0.05, 1e4)  # bounds of the search in `calibrate`
_LEAST_CONFIDENCE = 1.01  # times 1 / genres; a limit below this would mark nearly equal probabilities only


@dataclasses.dataclass(frozen=True)
class Report:
    """Labels and probabilities of a split, and the figures that follow from them.

    Attributes:
        genres: tuple of str.
        split: str, such as "validation".
        protocol: str, how clips were dealt to splits.
        track_ids: `(n,)` int64.
        labels: `(n,)` int32.
        probabilities: `(n, len(genres))` float.
        heard: str, what was heard of each clip, such as "first 10 s".
    """

    genres: tuple
    split: str
    protocol: str
    track_ids: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    heard: str = ""

    def __post_init__(self):
        count, genres = len(self.labels), len(self.genres)
        if count == 0:
            raise ValueError("A report needs at least one clip. Received: labels=[]")
        if self.probabilities.shape != (count, genres) or not self.track_ids.shape == self.labels.shape == (count,):
            raise ValueError(
                f"`probabilities` must have the shape ({count}, {genres}), `labels` and `track_ids` ({count},). "
                f"Received: {self.probabilities.shape}, {self.labels.shape} and {self.track_ids.shape}"
            )
        if self.labels.min() < 0 or self.labels.max() >= genres:
            raise ValueError(
                f"`labels` must lie in 0..{genres - 1}. Received: {self.labels.min()}..{self.labels.max()}"
            )
        if not np.isfinite(self.probabilities).all():
            raise ValueError("`probabilities` must be finite numbers.")

    @property
    def predictions(self):
        """`(n,)`, the most probable label of each clip."""
        return self.probabilities.argmax(axis=1)

    @property
    def accuracy(self):
        """Share of the clips whose genre was found."""
        return float((self.predictions == self.labels).mean())

    @property
    def accuracy_interval(self):
        """95 % interval of `accuracy` (Wilson's), as if clips were independent of each other: `(low, high)`."""
        return wilson_interval(int((self.predictions == self.labels).sum()), len(self.labels))

    @property
    def macro_f1(self):
        """Mean F1 of the genres that occur, among labels or predictions."""
        return float(metrics.f1_score(self.labels, self.predictions, average="macro"))

    @property
    def genre_accuracy(self):
        """dict, genre -> share of its clips that were found; `None` for a genre without clips."""
        return {
            genre: float((self.predictions[own] == label).mean()) if own.any() else None
            for label, genre, own in self._clips_by_genre()
        }

    @property
    def genre_accuracy_interval(self):
        """dict, genre -> 95 % interval of its accuracy; `None` for a genre without clips."""
        return {
            genre: wilson_interval(int((self.predictions[own] == label).sum()), int(own.sum())) if own.any() else None
            for label, genre, own in self._clips_by_genre()
        }

    @property
    def confusion_matrix(self):
        """`(genres, genres)` int: rows are the true genre, columns the predicted one."""
        return metrics.confusion_matrix(self.labels, self.predictions, labels=range(len(self.genres)))

    @property
    def log_loss(self):
        """Mean of -log of the probability of the true genre, in nats."""
        rows = self.probabilities.astype("float64")
        shares = rows / rows.sum(axis=1, keepdims=True)  # of float32, they add up to 1 only nearly
        return float(metrics.log_loss(self.labels, shares, labels=range(len(self.genres))))

    @property
    def calibration_error(self):
        """Expected calibration error: how far confidence is from accuracy, over 15 bins of confidence.

        Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
        """
        return float(
            sum(abs(hits - confidence) * clips / len(self.labels) for confidence, hits, clips in self.reliability)
        )

    @property
    def reliability(self):
        """Of each of 15 bins of confidence that holds clips: (mean confidence, share that was right, clips)."""
        confidence = self.probabilities.max(axis=1)
        hit = self.predictions == self.labels
        bins = np.minimum((confidence * 15).astype(int), 14)
        owns = [bins == own for own in np.unique(bins)]
        return [(float(confidence[own].mean()), float(hit[own].mean()), int(own.sum())) for own in owns]

    def figures(self):
        """dict of all figures, of plain Python types."""
        return {
            "split": self.split,
            "protocol": self.protocol,
            "heard": self.heard,
            "clips": len(self.labels),
            "accuracy": self.accuracy,
            "accuracy_interval_95": list(self.accuracy_interval),
            "macro_f1": self.macro_f1,
            "log_loss": self.log_loss,
            "calibration_error": self.calibration_error,
            "genre_accuracy": self.genre_accuracy,
            "genre_accuracy_interval_95": self.genre_accuracy_interval,
            "confusion_matrix": self.confusion_matrix.tolist(),
        }

    def to_dict(self):
        """`figures`, and each clip's truth and probabilities, of plain Python types."""
        return {
            **self.figures(),
            "genres": list(self.genres),
            "track_ids": self.track_ids.tolist(),
            "labels": self.labels.tolist(),
            "predictions": self.predictions.tolist(),
            "probabilities": self.probabilities.tolist(),
        }

    def to_json(self, path):
        """Write `to_dict` as a JSON file, whole or not at all."""
        with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            json.dump(self.to_dict(), file, indent=1)

    @classmethod
    def from_dict(cls, content):
        """The report that `to_dict` wrote.

        Raises:
            ValueError: it is something else.
        """
        try:
            return cls(
                tuple(map(str, content["genres"])),
                str(content["split"]),
                str(content["protocol"]),
                np.asarray(content["track_ids"], "int64"),
                np.asarray(content["labels"], "int32"),
                np.asarray(content["probabilities"], "float64"),
                str(content.get("heard", "")),
            )
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"This is no report: {type(error).__name__} {error}") from error

    def plot(self, path=None):
        """The confusion matrix as a `matplotlib.figure.Figure`, saved if `path` is given."""
        from genrekeras.report.pictures import confusion_matrix

        return confusion_matrix(self, path)

    def __str__(self):
        low, high = self.accuracy_interval
        return (
            f"{self.split} ({self.protocol} protocol, {len(self.labels)} clips{self.heard and ', '}{self.heard}): "
            f"accuracy {100 * self.accuracy:.1f} % "
            f"[{100 * low:.1f}, {100 * high:.1f}], macro-F1 {self.macro_f1:.3f}, log-loss {self.log_loss:.3f}, "
            f"calibration error {self.calibration_error:.3f}"
        )

    def _clips_by_genre(self):
        return [(label, genre, self.labels == label) for label, genre in enumerate(self.genres)]


def evaluate(model, split, batch_size=16, crop="start", crops=1):
    """Predict each clip of a split and score the predictions.

    Genres are matched by name (`genrekeras.datasets.splits.match_genres`); the split may have only some genres of the
    model, in any order. The prediction is the most probable of all genres of the model, so the prediction of a genre
    that the split does not have counts as an error.

    Args:
        model: `GenreClassifier`.
        split: `genrekeras.datasets.Split`; or `FrameSplit`, whose images are what the front end would make.
        batch_size: int > 0.
        crop, crops: position and number of the crops of `model.clip_seconds` from each waveform, as in
            `genrekeras.datasets.batches`, such as `crop="even", crops=3`. The probabilities of all crops are averaged.

    Returns:
        `Report` with the genres of the model, clips in the order of the split.

    Raises:
        ValueError: the split is empty, or has another sample rate than the model or genres that the model lacks.
    """
    split = _in_genres_of(model, split)
    [probabilities] = _of_crops(model, split, batch_size, crop, crops, "probabilities")
    return _report(model, split, probabilities, _heard(model, split, crop, crops))


def _in_genres_of(model, split):
    """Return the split with the labels of the model."""
    if not hasattr(split, "with_genres"):
        raise ValueError(f"`split` must be a split, such as `data.test`. Received: {type(split).__name__}")
    return split if split.genres == model.genres else split.with_genres(model.genres)


def mistakes(report, split):
    """Return the wrong predictions, the most confident first.

    Args:
        report: `Report` of the split, clips in its order.
        split: `genrekeras.datasets.Split`.

    Returns:
        `pandas.DataFrame`, a row a clip: `track_id`, `what` (artist and title, as far as they are known, else the name
        of the file), `genre`, `predicted`, `probability` (of the predicted). Control characters in names are escaped.
    """
    sure = report.probabilities.max(axis=1)
    wrong = np.flatnonzero(report.predictions != report.labels)
    wrong = wrong[np.argsort(-sure[wrong], kind="stable")]
    genres = [printable(genre) for genre in report.genres]
    rows = [
        {
            "track_id": report.track_ids[row],
            "what": _what(split.tracks.iloc[row]),
            "genre": genres[report.labels[row]],
            "predicted": genres[report.predictions[row]],
            "probability": round(float(sure[row]), 4),
        }
        for row in wrong
    ]
    return pd.DataFrame(rows, columns=["track_id", "what", "genre", "predicted", "probability"], dtype=object)


def _what(track):
    names = [track[key] for key in ("artist", "title") if isinstance(track.get(key), str) and track[key]]
    return printable(": ".join(names) or os.path.basename(track.get("path", "")))


class Calibration(NamedTuple):
    """Result of `calibrate`.

    Attributes:
        temperature: float > 0; a value above 1 means that the model was overconfident.
        unsure_below: float, the probability below which a prediction has low confidence; `None` if no prediction is
            right, or if the limit would not be clearly above 1 / genres.
        strange_above: float, the out-of-distribution score above which a prediction has low confidence; `None` if no
            prediction is right, with fewer than 20 clips or artists, or for a model with a `"mel_kernel"`.
        before, after: `Report` of the split.
        better_than_chance: bool, see `calibrate`.
    """

    temperature: float
    unsure_below: float
    strange_above: float
    before: Report
    after: Report
    better_than_chance: bool


def calibrate(model, split, batch_size=16, crop="even", crops=3, unsure=0.05):
    """Temperature-scale a model on held-out clips, and determine its limits of low confidence.

    The logits are divided by the temperature that minimizes the log-loss. This does not change the order of genres in a
    crop. The log-loss is that of the mean probabilities of several crops, as for whole files. The weights of the last
    layer are divided by the temperature, so that the saved model is calibrated.

    Two limits are stored in the model's card. `predict_files` marks a prediction as low confidence if its probability
    is below the first (the track is between genres), or if the out-of-distribution score of its features
    (`genrekeras.strangeness`) is above the second (the track is unlike these clips; not for a model with a
    `"mel_kernel"`). Earlier scores in the card no longer apply and are removed.
    The card also records `better_than_chance`: whether the 95 % interval of the accuracy lies above chance. Chance is
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
        unsure: float in [0, 1), share of the correctly classified tracks that each of the two limits marks, with this
            number of crops. The card records the share that both mark together. A higher value also marks more of the
            wrong predictions.

    Returns:
        `Calibration`. `after` is computed on the clips that the temperature was fitted on: report scores on others.

    Raises:
        ValueError: as `evaluate`; `unsure` is out of range.

    Warns:
        UserWarning: the model is not better than chance, or the temperature is at a bound of its search.
    """
    if not 0 <= unsure < 1:
        raise ValueError(f"`unsure` must lie in [0, 1). Received: unsure={unsure}")
    split = _in_genres_of(model, split)
    heard = _heard(model, split, crop, crops)
    of_crops, features = _of_crops(model, split, batch_size, crop, crops, "probabilities", "features")
    layer = model.head.layers[-1]
    kernel, bias = (weight.astype("float64") for weight in layer.get_weights())
    logits = features @ kernel + bias  # exact also where probabilities are rounded to 0
    temperature = _temperature(logits, split.labels)
    before = _report(model, split, of_crops, heard)
    after = _report(model, split, special.softmax(logits / temperature, axis=-1), heard)
    strangeness = None
    if "mel_kernel" not in np.atleast_1d(model.backbone):  # its features are 0 of all that is like nothing
        strangeness = model.strangeness.fit(features, group_tracks(split.tracks))
    better = _is_better_than_chance(after)
    unsure_below, strange_above, marked = _unsure(after, strangeness, unsure, better)
    told = model.card.get("calibration")
    earlier = told.get("temperature") if isinstance(told, dict) else None
    layer.set_weights([weight / temperature for weight in layer.get_weights()])
    model.card = {
        **{key: value for key, value in model.card.items() if key != "scores"},
        "calibration": {
            "temperature": temperature * (earlier if isinstance(earlier, float) else 1.0),
            "better_than_chance": better,
            "unsure_below": unsure_below,
            "strange_above": strange_above,
            "marked_unsure": marked,
            "on": {"split": split.name, "protocol": split.protocol, "heard": heard, "clips": len(split)},
            "log_loss": {"before": before.log_loss, "after": after.log_loss},
            "calibration_error": {"before": before.calibration_error, "after": after.calibration_error},
        },
    }
    return Calibration(temperature, unsure_below, strange_above, before, after, better)


def _temperature(logits, labels):
    """Return the temperature that minimizes the log-loss; logits are `(clips, crops, genres)`."""
    # Smoothed labels, by the rule of succession as in Platt scaling. With hard labels, the log-loss would be lowest at
    # a temperature of 0 if all predictions are right.
    doubt, others = 1 / (len(labels) + 2), logits.shape[-1] - 1
    targets = np.where(np.eye(others + 1)[labels] > 0, 1 - doubt, doubt / others)

    def loss(log_temperature):
        mean = special.softmax(logits / math.exp(log_temperature), axis=-1).mean(axis=1)
        return -(targets * np.log(np.maximum(mean, np.finfo("float32").tiny))).sum(axis=1).mean()

    bounds = np.log(_TEMPERATURES)
    found = optimize.minimize_scalar(loss, bounds=bounds, method="bounded").x
    if np.abs(bounds - found).min() < 0.01:  # the search comes close to a bound, but never reaches it
        warnings.warn(
            f"The temperature {math.exp(found):.5g} is at a bound of the search, {_TEMPERATURES[0]:g} to "
            f"{_TEMPERATURES[1]:g}: the model's logits do not fit these clips at any temperature. Check that the model "
            "was trained and that the labels are right.",
            stacklevel=3,
        )
    return math.exp(found)


def _is_better_than_chance(report):
    """Return whether the interval of the accuracy lies above chance, and warn if not; see `calibrate`."""
    count = len(report.genres)
    of_labels, of_predictions = (np.bincount(x, minlength=count) for x in (report.labels, report.predictions))
    chance = float(of_labels @ of_predictions) / len(report.labels) ** 2
    better = report.accuracy_interval[0] > chance
    if not better:
        warnings.warn(
            f"The model is not better than chance ({100 * chance:.1f} %): {report}. All predictions of the calibrated "
            "model have low confidence. Train it further, or calibrate it on more clips.",
            stacklevel=3,
        )
    return better


def _unsure(report, strangeness, share, better):
    """Return the limits that mark a share of the correctly classified tracks, and the shares that both mark."""
    found = report.predictions == report.labels
    if not found.any():
        return None, None, {}
    confidence = report.probabilities.max(axis=1)
    least, most = float(np.quantile(confidence[found], share, method="lower")), None
    if least <= _LEAST_CONFIDENCE / len(report.genres):
        least = None
    marked = (confidence < (least or 0.0)) | (not better)
    if strangeness is not None:
        most = float(np.quantile(strangeness[found], 1 - share, method="higher"))
        marked = marked | (strangeness > most)
    own = {"of_right": found, "of_wrong": ~found}
    return least, most, {name: float(marked[rows].mean()) for name, rows in own.items() if rows.any()}


def _of_crops(model, split, batch_size, crop, crops, *outputs):
    """Outputs of `model.for_inference` of each crop, `(clips, crops, ...)`."""
    if hasattr(split, "images"):
        if len(np.unique(split.track_ids)) < len(split):
            raise ValueError("`split` must hold an image of each track; several of one are for training.")
        data = image_batches(split, batch_size)
        crops = 1
    else:
        data = batches(split, batch_size, model.clip_seconds, crop, crops)
    model.check_data(data)
    network = model.for_inference(*outputs, images=hasattr(split, "images"))
    return [found.reshape(len(split), crops, -1) for found in keras.tree.flatten(network.predict(data, verbose=0))]


def _report(model, split, of_crops, heard):
    probabilities = of_crops.mean(axis=1)
    return Report(tuple(model.genres), split.name, split.protocol, split.track_ids, split.labels, probabilities, heard)


def _heard(model, split, crop, crops):
    if hasattr(split, "images"):
        return f"{split.images.shape[2]} frames of each"
    seconds = f"{model.clip_seconds:g} s"
    return f"first {seconds}" if (crop, crops) == ("start", 1) else f"{crops} crops of {seconds} ({crop})"


def wilson_interval(hits, count, z=1.959964):
    """Interval of a share of `hits` among `count` trials, by default of 95 %: `(low, high)`.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 1927.
    """
    share = hits / count
    center = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, (center - half) / (1 + z * z / count)), min(1.0, (center + half) / (1 + z * z / count))
