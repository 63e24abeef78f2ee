"""Thresholds that decide which labels are predicted, and whether a prediction has low confidence."""

import dataclasses
import math
from collections.abc import Sequence

# Instruction in error messages about multi-label models that are not calibrated.
HOW_TO_CALIBRATE = (
    "Calibrate the model on music with genres in tags: "
    "genrekeras calibrate MUSIC --model MODEL --output calibrated.keras."
)
DEFAULT_CLASS_THRESHOLD = 0.5  # in reports of a multi-label model that is not calibrated
NEVER = 1.0  # class threshold of a label that is never predicted, because no probability is above 1


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """Thresholds of a model. They decide which labels are predicted, and whether a prediction has low confidence.

    `genrekeras.evaluation.calibrate` determines the values.

    Attributes:
        temperature: `> 0`. The calibration has divided the weights of the last layer by this value.
        min_confidence: a prediction with a lower probability has low confidence. `None` for no limit.
        max_ood_score: a prediction with a higher out-of-distribution score has low confidence. `None` for no
            limit.
        better_than_chance: whether the model was better than chance on the calibration clips. If it is false, all
            predictions have low confidence. `None` before the calibration.
        class_thresholds: one threshold in (0, 1] for each label of a multi-label model. A label is predicted if its
            probability is above its threshold. A label with the threshold 1 is never predicted. `None` for a
            single-label model, and for a multi-label model that is not calibrated. Then reports use thresholds of 0.5,
            predictions of files use another rule (`genrekeras.inference.predicted_genres`), and a multi-label model
            must have no limits of low confidence.

    Raises:
        ValueError: a value has the wrong type, is not finite or is out of range.
    """

    temperature: float = 1.0
    min_confidence: float | None = None
    max_ood_score: float | None = None
    better_than_chance: bool | None = None
    class_thresholds: tuple[float, ...] | None = None

    def __post_init__(self):
        for name in ("temperature", "min_confidence", "max_ood_score"):
            value = getattr(self, name)
            if not _is_number(value) and (value is not None or name == "temperature"):
                raise ValueError(f"`{name}` must be a finite number. Received: {name}={value!r}")
        if self.temperature <= 0:
            raise ValueError(f"`temperature` must be > 0. Received: temperature={self.temperature}")
        if self.better_than_chance not in (True, False, None):
            raise ValueError(
                "`better_than_chance` must be True, False or None. "
                f"Received: better_than_chance={self.better_than_chance!r}"
            )
        if self.class_thresholds is not None:
            values = self.class_thresholds
            is_valid = isinstance(values, Sequence) and all(_is_number(value) and 0 < value <= 1 for value in values)
            if not is_valid or not values:
                raise ValueError(
                    f"`class_thresholds` must be None or numbers in (0, 1]. Received: class_thresholds={values!r}"
                )
            object.__setattr__(self, "class_thresholds", tuple(values))  # JSON files contain lists

    def check_labels(self, num_genres: int, multi_label: bool) -> None:
        """Raise `ValueError` if the thresholds do not fit the labels of a model.

        A multi-label model has limits of low confidence only together with class thresholds, from its calibration.

        Args:
            num_genres: number of genres of the model.
            multi_label: whether the model is a multi-label model.
        """
        if self.class_thresholds is None:
            for name in ("min_confidence", "max_ood_score"):
                if multi_label and getattr(self, name) is not None:
                    raise ValueError(
                        f"`{name}` must be None for a multi-label model that is not calibrated (`class_thresholds` is "
                        f"None). {HOW_TO_CALIBRATE} Received: {name}={getattr(self, name)}"
                    )
            return
        if not multi_label:
            raise ValueError(
                "`class_thresholds` must be None for a single-label model. "
                f"Received: class_thresholds={self.class_thresholds}"
            )
        if len(self.class_thresholds) != num_genres:
            raise ValueError(
                f"`class_thresholds` must contain a threshold for each of the {num_genres} genres. "
                f"Received: {len(self.class_thresholds)} thresholds"
            )

    def low_confidence(self, probability: float, ood_score: float) -> tuple[bool | None, str | None]:
        """Return whether a prediction has low confidence, and the reason.

        Args:
            probability: probability of the most probable genre.
            ood_score: out-of-distribution score.

        Returns:
            `(is_low, reason)`. `is_low` is `None` if there are no limits. `reason` is `None` if the prediction does not
            have low confidence.
        """
        if self.better_than_chance is False:
            return True, "model not better than chance"
        if self.min_confidence is None and self.max_ood_score is None:
            return None, None
        reasons = []
        if self.min_confidence is not None and probability < self.min_confidence:
            reasons.append("low probability")
        if self.max_ood_score is not None and ood_score > self.max_ood_score:
            reasons.append("unlike the training data")
        return bool(reasons), "; ".join(reasons) or None


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
