"""Report: the labels and predicted probabilities of a split, and the scores computed from them."""

import dataclasses
import json

import numpy as np
from genrekeras.evaluation.intervals import wilson_interval
from genrekeras.utils.io import atomic_write
from sklearn import metrics


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
        input_coverage: str, what was heard of each clip, such as "first 10 s".
    """

    genres: tuple
    split: str
    protocol: str
    track_ids: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    input_coverage: str = ""

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
    def genre_recall(self):
        """dict, genre -> share of its clips that were found; `None` for a genre without clips."""
        return {
            genre: float((self.predictions[own] == label).mean()) if own.any() else None
            for label, genre, own in self._clips_by_genre()
        }

    @property
    def genre_recall_interval(self):
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
            "input_coverage": self.input_coverage,
            "clips": len(self.labels),
            "accuracy": self.accuracy,
            "accuracy_interval_95": list(self.accuracy_interval),
            "macro_f1": self.macro_f1,
            "log_loss": self.log_loss,
            "calibration_error": self.calibration_error,
            "genre_recall": self.genre_recall,
            "genre_recall_interval_95": self.genre_recall_interval,
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
        with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
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
                str(content.get("input_coverage", "")),
            )
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"This is no report: {type(error).__name__} {error}") from error

    def plot(self, path=None):
        """The confusion matrix as a `matplotlib.figure.Figure`, saved if `path` is given."""
        from genrekeras.visualization.metrics import confusion_matrix

        return confusion_matrix(self, path)

    def __str__(self):
        low, high = self.accuracy_interval
        return (
            f"{self.split} ({self.protocol} protocol, {len(self.labels)} clips{self.input_coverage and ', '}{self.input_coverage}): "
            f"accuracy {100 * self.accuracy:.1f} % "
            f"[{100 * low:.1f}, {100 * high:.1f}], macro-F1 {self.macro_f1:.3f}, log-loss {self.log_loss:.3f}, "
            f"calibration error {self.calibration_error:.3f}"
        )

    def _clips_by_genre(self):
        return [(label, genre, self.labels == label) for label, genre in enumerate(self.genres)]
