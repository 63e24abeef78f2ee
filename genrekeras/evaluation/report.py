"""Report: labels and predicted probabilities of a split, and the scores that are computed from them."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from genrekeras.evaluation.intervals import (
    artist_interval,
    effective_size,
    genre_sums,
    interval_method,
    mean,
    mean_of_genres,
    sums_by_artist,
    wilson_interval,
)
from genrekeras.utils.io import StrPath, atomic_write
from genrekeras.visualization.metrics import confusion_matrix
from matplotlib.figure import Figure
from sklearn import metrics


@dataclasses.dataclass(frozen=True)
class Report:
    """Labels and predicted probabilities of a split, and the scores that are computed from them.

    Attributes:
        genres: in the order of the labels.
        split: name of the split, such as "validation".
        protocol: name of the protocol by which clips were assigned to splits.
        track_ids: `(n,)` int64, track id of each clip.
        labels: `(n,)` int32, index of the true genre of each clip in `genres`.
        probabilities: `(n, len(genres))` float.
        input_coverage: the part of each clip that was processed, such as "first 10 s".
        groups: `(n,)` int, artist of each clip; `None` if the artists are unknown. All intervals take artists as
            independent of each other, see `genrekeras.evaluation.intervals.artist_interval`. If the artists are
            unknown, the intervals of accuracy and recall are Wilson intervals, which take clips as independent and are
            too narrow if clips share artists. There are then no other intervals.

    Raises:
        ValueError: there are no clips, the shapes differ, a label is out of range, or a probability is not finite.
    """

    genres: tuple[str, ...]
    split: str
    protocol: str
    track_ids: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    input_coverage: str = ""
    groups: np.ndarray | None = None

    def __post_init__(self):
        count, genres = len(self.labels), len(self.genres)
        if count == 0:
            raise ValueError("`labels` must contain at least one clip. Received: labels=[]")
        if self.probabilities.shape != (count, genres) or not self.track_ids.shape == self.labels.shape == (count,):
            raise ValueError(
                f"`probabilities` must have the shape ({count}, {genres}), and `labels` and `track_ids` must have the "
                f"shape ({count},). Received: {self.probabilities.shape}, {self.labels.shape} and "
                f"{self.track_ids.shape}"
            )
        if self.groups is not None and self.groups.shape != (count,):
            raise ValueError(f"`groups` must have the shape ({count},). Received: {self.groups.shape}")
        if self.labels.min() < 0 or self.labels.max() >= genres:
            raise ValueError(
                f"`labels` must lie in 0..{genres - 1}. Received: {self.labels.min()}..{self.labels.max()}"
            )
        if not np.isfinite(self.probabilities).all():
            raise ValueError("`probabilities` must be finite numbers.")

    @property
    def predictions(self) -> np.ndarray:
        """Index of the most probable genre of each clip, `(n,)` int."""
        return self.probabilities.argmax(axis=1)

    @property
    def accuracy(self) -> float:
        """Share of the clips whose prediction is correct."""
        return float((self.predictions == self.labels).mean())

    @property
    def accuracy_interval(self) -> tuple[float, float] | None:
        """95 % interval of `accuracy`, `(low, high)`; `None` with too few artists."""
        return self._share_interval(np.ones(len(self.labels), bool))

    @property
    def interval_method(self) -> str:
        """Description of the method of `accuracy_interval`, such as "bootstrap over 219 artists"."""
        if self.groups is None:
            return "Wilson, clips taken as independent"
        sizes = np.unique(self.groups, return_counts=True)[1]
        method = interval_method(sizes)
        if method == "too few artists":
            return f"too few artists for an interval: {len(sizes)}"
        return f"{method} over {len(sizes)} artists"

    @property
    def mean_over_artists(self) -> float | None:
        """Mean accuracy of the artists of a genre, averaged over genres; `None` if the artists are unknown."""
        if self.groups is None:
            return None
        return float(mean_of_genres(self._genre_sums().sum(axis=0, keepdims=True))[0])

    @property
    def mean_over_artists_interval(self) -> tuple[float, float] | None:
        """95 % interval of `mean_over_artists`; `None` if the artists are unknown or too few."""
        if self.groups is None:
            return None
        sums = self._genre_sums()
        return artist_interval(mean_of_genres, sums, np.ones(len(sums)))

    @property
    def macro_f1(self) -> float:
        """Mean F1 score of the genres that occur in the labels or the predictions."""
        return float(metrics.f1_score(self.labels, self.predictions, average="macro"))

    @property
    def macro_f1_interval(self) -> tuple[float, float] | None:
        """95 % interval of `macro_f1`; `None` if the artists are unknown or too few."""
        count = len(self.genres)

        def score(sums):
            matrix = sums.reshape(-1, count, count)
            hits = np.einsum("nii->ni", matrix)
            both = matrix.sum(axis=1) + matrix.sum(axis=2)  # numbers of labels and of predictions of a genre
            return np.nanmean(np.divide(2 * hits, both, where=both > 0, out=np.full_like(hits, np.nan)), axis=1)

        cells = np.eye(count * count)[self.labels * count + self.predictions]
        return self._interval(score, cells)

    @property
    def log_loss_interval(self) -> tuple[float, float] | None:
        """95 % interval of `log_loss`; `None` if the artists are unknown or too few."""
        probabilities = self._normalized()[np.arange(len(self.labels)), self.labels]
        losses = -np.log(np.maximum(probabilities, np.finfo("float64").eps))
        return self._interval(mean, np.stack([losses, np.ones_like(losses)], axis=1), "log")

    @property
    def calibration_error_interval(self) -> tuple[float, float] | None:
        """95 % interval of `calibration_error`; `None` if the artists are unknown or too few.

        The calibration error of a bootstrap sample is larger on average than that of the clips, so this interval may
        lie above `calibration_error`.
        """
        confidence = self.probabilities.max(axis=1)
        gaps = (self.predictions == self.labels) - confidence
        bins = np.eye(15)[self._bins()]

        def score(sums):
            return np.abs(sums[:, :15]).sum(axis=1) / sums[:, 15]

        return self._interval(score, np.concatenate([bins * gaps[:, None], np.ones((len(gaps), 1))], axis=1))

    @property
    def genre_recall(self) -> dict[str, float | None]:
        """Recall of each genre (share of its clips with a correct prediction); `None` for a genre without clips."""
        is_correct = self.predictions == self.labels
        return {genre: float(is_correct[mask].mean()) if mask.any() else None for genre, mask in self._masks_by_genre()}

    @property
    def genre_recall_interval(self) -> dict[str, tuple[float, float] | None]:
        """95 % interval of the recall of each genre, `(low, high)`; `None` without clips or with too few artists."""
        return {genre: self._share_interval(mask) if mask.any() else None for genre, mask in self._masks_by_genre()}

    @property
    def confusion_matrix(self) -> np.ndarray:
        """Numbers of clips, `(genres, genres)` int. Rows are true genres, columns are predicted genres."""
        return metrics.confusion_matrix(self.labels, self.predictions, labels=range(len(self.genres)))

    @property
    def log_loss(self) -> float:
        """Mean of the negative log-probability of the true genre, in nats."""
        return float(metrics.log_loss(self.labels, self._normalized(), labels=range(len(self.genres))))

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: mean difference between confidence and accuracy in 15 bins of confidence.

        Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
        """
        errors = [abs(accuracy - confidence) * clips for confidence, accuracy, clips in self.reliability]
        return float(sum(error / len(self.labels) for error in errors))

    @property
    def reliability(self) -> list[tuple[float, float, int]]:
        """Mean confidence, accuracy and number of clips of each non-empty bin of 15 bins."""
        confidence = self.probabilities.max(axis=1)
        is_correct = self.predictions == self.labels
        bins = self._bins()
        masks = [bins == index for index in np.unique(bins)]
        return [(float(confidence[mask].mean()), float(is_correct[mask].mean()), int(mask.sum())) for mask in masks]

    def figures(self) -> dict[str, Any]:
        """Return all scores as JSON-serializable values."""
        sizes = None if self.groups is None else np.unique(self.groups, return_counts=True)[1]
        return {
            "split": self.split,
            "protocol": self.protocol,
            "input_coverage": self.input_coverage,
            "clips": len(self.labels),
            "artists": None if sizes is None else len(sizes),
            "effective_size": None if sizes is None else effective_size(sizes),
            "interval_method": self.interval_method,
            "accuracy": self.accuracy,
            "accuracy_interval_95": self.accuracy_interval,
            "mean_over_artists": self.mean_over_artists,
            "mean_over_artists_interval_95": self.mean_over_artists_interval,
            "macro_f1": self.macro_f1,
            "macro_f1_interval_95": self.macro_f1_interval,
            "log_loss": self.log_loss,
            "log_loss_interval_95": self.log_loss_interval,
            "calibration_error": self.calibration_error,
            "calibration_error_interval_95": self.calibration_error_interval,
            "genre_recall": self.genre_recall,
            "genre_recall_interval_95": self.genre_recall_interval,
            "confusion_matrix": self.confusion_matrix.tolist(),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return all scores, and the labels and probabilities of each clip, as JSON-serializable values."""
        return {
            **self.figures(),
            "genres": list(self.genres),
            "track_ids": self.track_ids.tolist(),
            "groups": None if self.groups is None else self.groups.tolist(),
            "labels": self.labels.tolist(),
            "predictions": self.predictions.tolist(),
            "probabilities": self.probabilities.tolist(),
        }

    def to_json(self, path: StrPath) -> None:
        """Write the dict of `to_dict` to a JSON file. The file is replaced atomically."""
        with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            json.dump(self.to_dict(), file, indent=1)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Create a report from the dict that `to_dict` returned.

        Raises:
            ValueError: `content` is not the dict of a report.
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
                None if content.get("groups") is None else np.asarray(content["groups"], "int64"),
            )
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(
                f"`content` must be the dict of a report, as `to_dict` returns it: {type(error).__name__} {error}"
            ) from error

    def plot(self, path: StrPath | None = None) -> Figure:
        """Draw the confusion matrix. See `genrekeras.visualization.confusion_matrix`."""
        return confusion_matrix(self, path)

    def __str__(self):
        coverage = f", {self.input_coverage}" if self.input_coverage else ""
        interval = self.accuracy_interval
        bounds = f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else ""
        over_artists = self.mean_over_artists
        return (
            f"{self.split} ({self.protocol} protocol, {len(self.labels)} clips{coverage}): "
            f"accuracy {100 * self.accuracy:.1f} %{bounds} ({self.interval_method}), "
            + (f"mean over artists {100 * over_artists:.1f} %, " if over_artists is not None else "")
            + f"macro-F1 {self.macro_f1:.3f}, log-loss {self.log_loss:.3f}, "
            f"calibration error {self.calibration_error:.3f}"
        )

    def _normalized(self):
        """Return the probabilities as float64 rows that sum to 1, which float32 rows do not."""
        probabilities = self.probabilities.astype("float64")
        return probabilities / probabilities.sum(axis=1, keepdims=True)

    def _bins(self):
        """Return the bin of the confidence of each clip, of 15 bins."""
        return np.minimum((self.probabilities.max(axis=1) * 15).astype(int), 14)

    def _share_interval(self, mask):
        """Return the interval of the share of correct predictions of some clips."""
        is_correct = (self.predictions == self.labels)[mask]
        if self.groups is None:
            return wilson_interval(int(is_correct.sum()), len(is_correct))
        sums, sizes = sums_by_artist(self.groups[mask], np.stack([is_correct, np.ones(len(is_correct))], axis=1))
        return artist_interval(mean, sums, sizes)

    def _interval(self, score, values, scale="logit"):
        """Return the interval of a score of the sums of `values` over all clips."""
        return None if self.groups is None else artist_interval(score, *sums_by_artist(self.groups, values), scale)

    def _genre_sums(self):
        """Return the sums from which `mean_over_artists` is computed."""
        return genre_sums(self.groups, self.labels, self.predictions == self.labels)

    def _masks_by_genre(self):
        """Return (genre, mask of its clips) for each genre."""
        return [(genre, self.labels == label) for label, genre in enumerate(self.genres)]
