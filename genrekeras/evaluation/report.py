"""Report: labels and predicted probabilities of a split, and the scores that are computed from them."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from genrekeras.evaluation.intervals import wilson_interval
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
    def accuracy_interval(self) -> tuple[float, float]:
        """95 % Wilson interval of `accuracy`, `(low, high)`. It assumes that clips are independent of each other."""
        return wilson_interval(int((self.predictions == self.labels).sum()), len(self.labels))

    @property
    def macro_f1(self) -> float:
        """Mean F1 score of the genres that occur in the labels or the predictions."""
        return float(metrics.f1_score(self.labels, self.predictions, average="macro"))

    @property
    def genre_recall(self) -> dict[str, float | None]:
        """Recall of each genre (share of its clips with a correct prediction); `None` for a genre without clips."""
        is_correct = self.predictions == self.labels
        return {genre: float(is_correct[mask].mean()) if mask.any() else None for genre, mask in self._masks_by_genre()}

    @property
    def genre_recall_interval(self) -> dict[str, tuple[float, float] | None]:
        """95 % Wilson interval of the recall of each genre, `(low, high)`; `None` for a genre without clips."""
        is_correct = self.predictions == self.labels
        return {
            genre: wilson_interval(int(is_correct[mask].sum()), int(mask.sum())) if mask.any() else None
            for genre, mask in self._masks_by_genre()
        }

    @property
    def confusion_matrix(self) -> np.ndarray:
        """Numbers of clips, `(genres, genres)` int. Rows are true genres, columns are predicted genres."""
        return metrics.confusion_matrix(self.labels, self.predictions, labels=range(len(self.genres)))

    @property
    def log_loss(self) -> float:
        """Mean of the negative log-probability of the true genre, in nats."""
        probabilities = self.probabilities.astype("float64")
        probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)  # float32 rows do not sum to 1
        return float(metrics.log_loss(self.labels, probabilities, labels=range(len(self.genres))))

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
        bins = np.minimum((confidence * 15).astype(int), 14)
        masks = [bins == index for index in np.unique(bins)]
        return [(float(confidence[mask].mean()), float(is_correct[mask].mean()), int(mask.sum())) for mask in masks]

    def figures(self) -> dict[str, Any]:
        """Return all scores as JSON-serializable values."""
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

    def to_dict(self) -> dict[str, Any]:
        """Return all scores, and the labels and probabilities of each clip, as JSON-serializable values."""
        return {
            **self.figures(),
            "genres": list(self.genres),
            "track_ids": self.track_ids.tolist(),
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
            )
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(
                f"`content` must be the dict of a report, as `to_dict` returns it: {type(error).__name__} {error}"
            ) from error

    def plot(self, path: StrPath | None = None) -> Figure:
        """Draw the confusion matrix. See `genrekeras.visualization.confusion_matrix`."""
        return confusion_matrix(self, path)

    def __str__(self):
        low, high = self.accuracy_interval
        coverage = f", {self.input_coverage}" if self.input_coverage else ""
        return (
            f"{self.split} ({self.protocol} protocol, {len(self.labels)} clips{coverage}): "
            f"accuracy {100 * self.accuracy:.1f} % "
            f"[{100 * low:.1f}, {100 * high:.1f}], macro-F1 {self.macro_f1:.3f}, log-loss {self.log_loss:.3f}, "
            f"calibration error {self.calibration_error:.3f}"
        )

    def _masks_by_genre(self):
        """Return (genre, mask of its clips) for each genre."""
        return [(genre, self.labels == label) for label, genre in enumerate(self.genres)]
