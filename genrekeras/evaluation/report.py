"""Report of a single-label model: labels and predicted probabilities of a split, and the scores of the predictions."""

import dataclasses

import numpy as np
from genrekeras.evaluation.base import BaseReport
from genrekeras.evaluation.intervals import (
    artist_interval,
    genre_sums,
    interval_method,
    mean,
    mean_of_genres,
    sums_by_artist,
    wilson_interval,
)
from genrekeras.utils.io import StrPath
from genrekeras.visualization.metrics import confusion_matrix
from matplotlib.figure import Figure
from sklearn import metrics


@dataclasses.dataclass(frozen=True)
class Report(BaseReport):
    """Labels and predicted probabilities of a split, and the scores that are computed from them.

    `MultiLabelReport` is the report of a multi-label model.

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

    SCORE = "accuracy"
    SCORE_NAME = "accuracy"
    GENRE_SCORE = "genre_recall"
    GENRE_SCORE_NAME = "recall"
    TABLE = "confusion_matrix"
    TABLE_NAME = "Confusion matrix"
    RELIABILITY_NAMES = ("confidence", "accuracy")

    def __post_init__(self):
        super().__post_init__()
        genres = len(self.genres)
        if self.labels.min() < 0 or self.labels.max() >= genres:
            raise ValueError(
                f"`labels` must lie in 0..{genres - 1}. Received: {self.labels.min()}..{self.labels.max()}"
            )

    @property
    def predictions(self) -> np.ndarray:
        """Index of the most probable genre of each clip, `(n,)` int."""
        return self.probabilities.argmax(axis=1)

    @property
    def is_correct(self) -> np.ndarray:
        """Whether the prediction of each clip is correct, `(n,)` bool."""
        return self.predictions == self.labels

    @property
    def accuracy(self) -> float:
        """Share of the clips whose prediction is correct."""
        return float(self.is_correct.mean())

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
        gaps = self.is_correct - confidence
        bins = np.eye(15)[self._bins()]

        def score(sums):
            return np.abs(sums[:, :15]).sum(axis=1) / sums[:, 15]

        return self._interval(score, np.concatenate([bins * gaps[:, None], np.ones((len(gaps), 1))], axis=1))

    @property
    def genre_recall(self) -> dict[str, float | None]:
        """Recall of each genre (share of its clips with a correct prediction); `None` for a genre without clips."""
        is_correct = self.is_correct
        return {genre: float(is_correct[mask].mean()) if mask.any() else None for genre, mask in self._masks_by_genre()}

    @property
    def genre_recall_interval(self) -> dict[str, tuple[float, float] | None]:
        """95 % interval of the recall of each genre, `(low, high)`; `None` without clips or with too few artists."""
        return {genre: self._share_interval(mask) if mask.any() else None for genre, mask in self._masks_by_genre()}

    @property
    def genre_counts(self) -> np.ndarray:
        """Number of clips of each genre, `(genres,)` int."""
        return np.bincount(self.labels, minlength=len(self.genres))

    @property
    def confusion_matrix(self) -> np.ndarray:
        """Numbers of clips, `(genres, genres)` int. Rows are true genres, columns are predicted genres."""
        return metrics.confusion_matrix(self.labels, self.predictions, labels=range(len(self.genres)))

    @property
    def log_loss(self) -> float:
        """Mean of the negative log-probability of the true genre, in nats."""
        return float(metrics.log_loss(self.labels, self._normalized(), labels=range(len(self.genres))))

    def plot(self, path: StrPath | None = None) -> Figure:
        """Draw the confusion matrix. See `genrekeras.visualization.confusion_matrix`."""
        return confusion_matrix(self, path)

    def _scores(self):
        return {
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

    def _more_scores(self):
        """Return text for the scores that only a single-label model has."""
        over_artists = self.mean_over_artists
        return "" if over_artists is None else f"mean over artists {100 * over_artists:.1f} %, "

    def _labels_shape(self):
        return (len(self.labels),)

    def _outcomes(self):
        """Return the probability of each prediction, and whether it is correct, `(n,)` each."""
        return self.probabilities.max(axis=1), self.is_correct

    def _normalized(self):
        """Return the probabilities as float64 rows that sum to 1, which float32 rows do not."""
        probabilities = self.probabilities.astype("float64")
        return probabilities / probabilities.sum(axis=1, keepdims=True)

    def _share_interval(self, mask):
        """Return the interval of the share of correct predictions of some clips."""
        is_correct = self.is_correct[mask]
        if self.groups is None:
            return wilson_interval(int(is_correct.sum()), len(is_correct))
        sums, sizes = sums_by_artist(self.groups[mask], np.stack([is_correct, np.ones(len(is_correct))], axis=1))
        return artist_interval(mean, sums, sizes)

    def _interval(self, score, values, scale="logit"):
        """Return the interval of a score of the sums of `values` over all clips."""
        return None if self.groups is None else artist_interval(score, *sums_by_artist(self.groups, values), scale)

    def _genre_sums(self):
        """Return the sums from which `mean_over_artists` is computed."""
        return genre_sums(self.groups, self.labels, self.is_correct)

    def _masks_by_genre(self):
        """Return (genre, mask of its clips) for each genre."""
        return [(genre, self.labels == label) for label, genre in enumerate(self.genres)]
