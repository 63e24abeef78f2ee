"""Report of a multi-label model: labels and predicted probabilities of a split, and the scores of the predictions."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from genrekeras.evaluation.base import BaseReport, percent
from genrekeras.evaluation.intervals import MIN_ARTISTS, weighted_intervals
from genrekeras.evaluation.ranking import mean_over_labels, ranking_scores
from genrekeras.evaluation.report import Report
from genrekeras.models.thresholds import DEFAULT_CLASS_THRESHOLD
from genrekeras.utils.io import StrPath
from genrekeras.visualization.metrics import label_pairs
from matplotlib.figure import Figure
from sklearn import metrics


@dataclasses.dataclass(frozen=True)
class MultiLabelReport(BaseReport):
    """Labels and predicted probabilities of a multi-label model on a split, and the scores that are computed from them.

    A clip may have several genres, or none. A genre is predicted for a clip if its probability is above its threshold.
    `mean_average_precision` and `roc_auc` leave out genres that all clips or no clips of the split have. Genres of the
    model that the data cannot evaluate are not in the report at all, see `genrekeras.evaluation.evaluate`.

    Attributes:
        genres: in the order of the labels.
        split: name of the split, such as "validation".
        protocol: name of the protocol by which clips were assigned to splits.
        track_ids: `(n,)` int64, track id of each clip.
        labels: `(n, len(genres))` in {0, 1}, the genres of each clip.
        probabilities: `(n, len(genres))` in [0, 1].
        input_coverage: the part of each clip that was processed, such as "first 10 s".
        groups: `(n,)` int, artist of each clip; `None` if the artists are unknown. All intervals take artists as
            independent of each other, see `genrekeras.evaluation.intervals.weighted_intervals`. If the artists are
            unknown, the intervals take clips as independent, and are too narrow if clips share artists.
        thresholds: probabilities above which the genres are predicted. The shape is `(len(genres),)`, `()` for one
            threshold of all genres, or `(n, len(genres))` if the thresholds differ between clips, as in a
            cross-validation.
        omitted_genres: genres of the model that are not in the report.

    Raises:
        ValueError: there are no clips, the shapes differ, a label is not 0 or 1, a probability does not lie in [0, 1],
            or each genre occurs in all clips or in no clip, so that no score is defined.
    """

    SCORE = "mean_average_precision"
    SCORE_NAME = "mAP"
    GENRE_SCORE = "genre_roc_auc"
    GENRE_SCORE_NAME = "ROC-AUC"
    TABLE = "label_pairs"
    TABLE_NAME = "Label pairs"
    RELIABILITY_NAMES = ("probability", "share of true labels")

    thresholds: np.ndarray = dataclasses.field(default_factory=lambda: np.array(DEFAULT_CLASS_THRESHOLD))
    omitted_genres: tuple[str, ...] = ()

    def __post_init__(self):
        super().__post_init__()
        if not np.isin(self.labels, (0, 1)).all():
            raise ValueError(f"`labels` must be 0 or 1. Received: {self.labels.min():g}..{self.labels.max():g}")
        if self.probabilities.min() < 0 or self.probabilities.max() > 1:
            raise ValueError(
                "`probabilities` must lie in [0, 1]. "
                f"Received: {self.probabilities.min():g}..{self.probabilities.max():g}"
            )
        shape = self.probabilities.shape
        if self.thresholds.shape not in ((), shape[1:], shape):
            raise ValueError(
                f"`thresholds` must be a number, or have the shape {shape[1:]} or {shape}. "
                f"Received: shape={self.thresholds.shape}"
            )
        if not self.is_scored.any():
            raise ValueError("`labels` must contain a genre that some clips have and other clips do not have.")

    @property
    def predictions(self) -> np.ndarray:
        """Whether each genre is predicted for each clip, `(n, genres)` bool."""
        return self.probabilities > self.thresholds

    @property
    def is_correct(self) -> np.ndarray:
        """Whether the most probable genre of each clip is one of its genres, `(n,)` bool."""
        return self._is_true[np.arange(len(self.labels)), self.probabilities.argmax(axis=1)]

    @property
    def is_scored(self) -> np.ndarray:
        """Whether some, but not all clips have each genre, so that its scores are defined, `(genres,)` bool."""
        return self._is_true.any(axis=0) & ~self._is_true.all(axis=0)

    @property
    def mean_average_precision(self) -> float:
        """Average precision of each genre, averaged over genres (macro mAP)."""
        scored = self.is_scored
        return float(metrics.average_precision_score(self._is_true[:, scored], self.probabilities[:, scored]))

    @property
    def mean_average_precision_interval(self) -> tuple[float, float] | None:
        """95 % interval of `mean_average_precision`; `None` with too few artists.

        The average precision of few clips is too high on average. The interval is corrected for this bias, so the score
        is not in its center.
        """
        return self._intervals[0]

    @property
    def micro_average_precision(self) -> float:
        """Average precision of all pairs of a clip and a genre (micro mAP)."""
        return float(metrics.average_precision_score(self._is_true, self.probabilities, average="micro"))

    @property
    def roc_auc(self) -> float:
        """ROC-AUC of each genre, averaged over genres (macro ROC-AUC)."""
        scored = self.is_scored
        return float(metrics.roc_auc_score(self._is_true[:, scored], self.probabilities[:, scored]))

    @property
    def roc_auc_interval(self) -> tuple[float, float] | None:
        """95 % interval of `roc_auc`; `None` with too few artists."""
        return self._intervals[1]

    @property
    def genre_roc_auc(self) -> dict[str, float | None]:
        """ROC-AUC of each genre; `None` for a genre that all clips or no clips have."""
        columns = zip(self.genres, self.is_scored, self._is_true.T, self.probabilities.T, strict=True)
        return {
            genre: float(metrics.roc_auc_score(is_true, probabilities)) if is_scored else None
            for genre, is_scored, is_true, probabilities in columns
        }

    @property
    def genre_roc_auc_interval(self) -> dict[str, tuple[float, float] | None]:
        """95 % interval of the ROC-AUC of each genre.

        It is `None` if the ROC-AUC is not defined, or if fewer than 10 artists have clips of the smaller class (clips
        with the genre or clips without it).
        """
        intervals = iter(self._intervals[2:])
        return {
            genre: next(intervals) if is_scored else None
            for genre, is_scored in zip(self.genres, self.is_scored, strict=True)
        }

    @property
    def interval_method(self) -> str:
        """Description of the method of the intervals, such as "jackknife over 219 artists"."""
        kind, count = (
            ("artists", len(np.unique(self.groups))) if self.groups is not None else ("clips", len(self.labels))
        )
        if count < MIN_ARTISTS:
            return f"too few {kind} for an interval: {count}"
        return f"jackknife over {count} {kind}" + (" taken as independent" if self.groups is None else "")

    @property
    def macro_f1(self) -> float:
        """F1 score at the thresholds, averaged over the genres that occur in the labels or the predictions."""
        return float(metrics.f1_score(self._is_true, self.predictions, average="macro", zero_division=np.nan))

    @property
    def micro_f1(self) -> float:
        """F1 score of all pairs of a clip and a genre, at the thresholds."""
        return float(metrics.f1_score(self._is_true, self.predictions, average="micro"))

    @property
    def coverage_error(self) -> float:
        """Mean rank of the least probable true genre of a clip, see `sklearn.metrics.coverage_error`.

        It is at least the mean number of genres of a clip. The rank of a clip without genres is 0.
        """
        return float(metrics.coverage_error(self._is_true, self.probabilities))

    @property
    def predicted_share(self) -> float:
        """Share of the clips for which at least one genre is predicted."""
        return float(self.predictions.any(axis=1).mean())

    @property
    def log_loss(self) -> float:
        """Mean binary cross-entropy of all pairs of a clip and a genre, in nats."""
        return float(metrics.log_loss(self._is_true.ravel(), self.probabilities.ravel(), labels=[False, True]))

    @property
    def genre_counts(self) -> np.ndarray:
        """Number of clips that have each genre, `(genres,)` int."""
        return self._is_true.sum(axis=0)

    @property
    def label_pairs(self) -> np.ndarray:
        """Number of clips for each pair of a true genre (row) and a predicted genre (column), `(genres, genres)` int.

        A pair of different genres is not an error if a clip has both of them.
        """
        return self._is_true.T.astype(int) @ self.predictions.astype(int)

    def to_dict(self) -> dict[str, Any]:
        """Return all scores, and the labels and probabilities of each clip, as JSON-serializable values."""
        return {**super().to_dict(), "thresholds": self.thresholds.tolist()}

    def plot(self, path: StrPath | None = None) -> Figure:
        """Draw the table of label pairs. See `genrekeras.visualization.label_pairs`."""
        return label_pairs(self, path)

    @functools.cached_property
    def _is_true(self):
        return self.labels == 1

    @functools.cached_property
    def _intervals(self):
        """List of the intervals of `mean_average_precision`, `roc_auc`, and the ROC-AUC of each scored genre."""
        labels, probabilities = self._is_true[:, self.is_scored], self.probabilities[:, self.is_scored]

        def score(weights):
            roc_auc, average_precision = ranking_scores(labels, probabilities, weights)
            return np.column_stack([mean_over_labels(average_precision), mean_over_labels(roc_auc), roc_auc])

        is_rare = labels.mean(axis=0) <= 0.5
        support = np.column_stack([labels.any(axis=1), labels.any(axis=1), labels == is_rare])
        return weighted_intervals(score, np.arange(len(labels)) if self.groups is None else self.groups, support)

    def _scores(self):
        return {
            "multi_label": True,
            "omitted_genres": list(self.omitted_genres),
            "mean_average_precision": self.mean_average_precision,
            "mean_average_precision_interval_95": self.mean_average_precision_interval,
            "micro_average_precision": self.micro_average_precision,
            "roc_auc": self.roc_auc,
            "roc_auc_interval_95": self.roc_auc_interval,
            "macro_f1": self.macro_f1,
            "micro_f1": self.micro_f1,
            "coverage_error": self.coverage_error,
            "predicted_share": self.predicted_share,
            "log_loss": self.log_loss,
            "calibration_error": self.calibration_error,
            "genre_counts": self.genre_counts.tolist(),
            "genre_roc_auc": self.genre_roc_auc,
            "genre_roc_auc_interval_95": self.genre_roc_auc_interval,
            "label_pairs": self.label_pairs.tolist(),
        }

    def _describe_genres(self):
        count, omitted = len(self.genres), len(self.omitted_genres)
        return f"{count} of {count + omitted} labels of the model" if omitted else ""

    def _more_scores(self):
        """Return text for the scores that only a multi-label model has."""
        return f"ROC-AUC {percent(self.roc_auc, self.roc_auc_interval)}, "

    def _labels_shape(self):
        return (len(self.labels), len(self.genres))

    def _outcomes(self):
        """Return the probability of each pair of a clip and a genre, and whether the clip has the genre."""
        return self.probabilities.ravel(), self._is_true.ravel()

    @classmethod
    def _arguments(cls, content):
        return {
            **super()._arguments(content),
            "thresholds": np.asarray(content["thresholds"], "float64"),
            "omitted_genres": tuple(map(str, content["omitted_genres"])),
        }


def report_class(figures: Mapping[str, Any]) -> type[Report] | type[MultiLabelReport]:
    """Return the class of a report, from the dict that `figures` or `to_dict` returned."""
    return MultiLabelReport if figures.get("multi_label") else Report


def report_from_dict(content: Mapping[str, Any]) -> Report | MultiLabelReport:
    """Create a report of the right class from the dict that `to_dict` returned, such as the content of a JSON file.

    Raises:
        ValueError: `content` is not the dict of a report.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"`content` must be the dict of a report. Received: {type(content).__name__}")
    return report_class(content).from_dict(content)
