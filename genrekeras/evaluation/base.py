"""Base class of the reports of single-label and multi-label models."""

import abc
import dataclasses
import json
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from genrekeras.evaluation.intervals import effective_size
from genrekeras.utils.io import StrPath, atomic_write


@dataclasses.dataclass(frozen=True)
class BaseReport(abc.ABC):
    """Base class of `Report` and `MultiLabelReport`, which document the attributes.

    Code that works with both kinds of reports uses `score`, `genre_scores`, `table` and their names. The class
    attributes of a subclass state which of its properties these are.
    """

    SCORE: ClassVar[str]  # property and key of `figures()`: the score of the whole split
    SCORE_NAME: ClassVar[str]
    GENRE_SCORE: ClassVar[str]  # property and key of `figures()`: the score of each genre
    GENRE_SCORE_NAME: ClassVar[str]
    TABLE: ClassVar[str]  # property and key of `figures()`: numbers of clips by true and predicted genre
    TABLE_NAME: ClassVar[str]
    RELIABILITY_NAMES: ClassVar[tuple[str, str]]  # names of the first two values of `reliability`

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
        shapes = {"probabilities": (count, genres), "labels": self._labels_shape(), "track_ids": (count,)}
        if self.groups is not None:
            shapes["groups"] = (count,)
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"`{name}` must have the shape {shape}. Received: shape={getattr(self, name).shape}")
        if not np.isfinite(self.probabilities).all():
            raise ValueError("`probabilities` must be finite numbers.")

    @property
    @abc.abstractmethod
    def predictions(self) -> np.ndarray:
        """Predictions for each clip: labels, or whether each genre is predicted."""

    @property
    @abc.abstractmethod
    def interval_method(self) -> str:
        """Description of the method of the intervals."""

    @abc.abstractmethod
    def _scores(self) -> dict[str, Any]:
        """Return the part of `figures()` that depends on the kind of the report."""

    @abc.abstractmethod
    def _outcomes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the probabilities of predictions, and whether these are true, for `reliability`."""

    @property
    def score(self) -> float:
        """The score of the whole split: accuracy, or mean average precision."""
        return getattr(self, self.SCORE)

    @property
    def score_interval(self) -> tuple[float, float] | None:
        """95 % interval of `score`; `None` with too few artists."""
        return getattr(self, f"{self.SCORE}_interval")

    @property
    def genre_scores(self) -> dict[str, float | None]:
        """The score of each genre: recall, or ROC-AUC. `None` if it is not defined."""
        return getattr(self, self.GENRE_SCORE)

    @property
    def genre_score_intervals(self) -> dict[str, tuple[float, float] | None]:
        """95 % interval of the score of each genre; `None` if it is not defined, or with too few artists."""
        return getattr(self, f"{self.GENRE_SCORE}_interval")

    @property
    def table(self) -> np.ndarray:
        """Numbers of clips, `(genres, genres)` int, by true and predicted genre: confusion matrix, or label pairs."""
        return getattr(self, self.TABLE)

    @property
    def reliability(self) -> list[tuple[float, float, int]]:
        """Mean probability, share of true predictions, and number of predictions in each non-empty one of 15 bins."""
        probabilities, is_true = self._outcomes()
        bins = self._bins()
        masks = [bins == index for index in np.unique(bins)]
        return [(float(probabilities[mask].mean()), float(is_true[mask].mean()), int(mask.sum())) for mask in masks]

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: mean absolute difference between probability and share of true predictions.

        The bins are those of `reliability`, weighted by their numbers of predictions.

        Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
        """
        errors = [abs(share - probability) * count for probability, share, count in self.reliability]
        return float(sum(errors) / len(self._bins()))

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
            **self._scores(),
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
        """Create a report from the dict that `to_dict` returned. `report_from_dict` accepts both kinds of reports.

        Raises:
            ValueError: `content` is not the dict of a report.
        """
        try:
            return cls(**cls._arguments(content))
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(
                f"`content` must be the dict of a report, as `to_dict` returns it: {type(error).__name__} {error}"
            ) from error

    def __str__(self):
        clips = [f"{self.protocol} protocol", f"{len(self.labels)} clips", self.input_coverage, self._describe_genres()]
        return (
            f"{self.split} ({', '.join(filter(None, clips))}): "
            f"{self.SCORE_NAME} {percent(self.score, self.score_interval)} ({self.interval_method}), "
            f"{self._more_scores()}macro-F1 {self.macro_f1:.3f}, log-loss {self.log_loss:.3f}, "
            f"calibration error {self.calibration_error:.3f}"
        )

    def _describe_genres(self):
        """Return text that states which genres of the model are in the report. It is empty if all are."""
        return ""

    @classmethod
    def _arguments(cls, content):
        """Return the arguments of a report, from the dict that `to_dict` returned."""
        return {
            "genres": tuple(map(str, content["genres"])),
            "split": str(content["split"]),
            "protocol": str(content["protocol"]),
            "track_ids": np.asarray(content["track_ids"], "int64"),
            "labels": np.asarray(content["labels"], "int32"),
            "probabilities": np.asarray(content["probabilities"], "float64"),
            "input_coverage": str(content.get("input_coverage", "")),
            "groups": None if content.get("groups") is None else np.asarray(content["groups"], "int64"),
        }

    def _bins(self):
        """Return the bin of each probability of `_outcomes`, in 0..14."""
        return np.minimum((self._outcomes()[0] * 15).astype(int), 14)


def percent(score: float, interval: tuple[float, float] | None) -> str:
    """Return a score and its interval as text, such as "61.5 % [58.1, 64.9]"."""
    bounds = f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else ""
    return f"{100 * score:.1f} %{bounds}"
