"""Thresholds that decide whether a prediction has low confidence."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """Thresholds of a model. They decide whether a prediction has low confidence.

    `genrekeras.evaluation.calibrate` determines the values.

    Attributes:
        temperature: float > 0. The calibration has divided the weights of the last layer by this value.
        min_confidence: float. A prediction with a lower probability has low confidence. `None` for no limit.
        max_ood_score: float. A prediction with a higher out-of-distribution score has low confidence. `None` for no
            limit.
        better_than_chance: bool, whether the model was better than chance on the calibration clips. If it is false, all
            predictions have low confidence. `None` before the calibration.

    Raises:
        ValueError: a value has the wrong type or is not finite.
    """

    temperature: float = 1.0
    min_confidence: float | None = None
    max_ood_score: float | None = None
    better_than_chance: bool | None = None

    def __post_init__(self):
        for name in ("temperature", "min_confidence", "max_ood_score"):
            value = getattr(self, name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if not is_number and (value is not None or name == "temperature"):
                raise ValueError(f"`{name}` must be a finite number. Received: {name}={value!r}")
        if self.temperature <= 0:
            raise ValueError(f"`temperature` must be > 0. Received: temperature={self.temperature}")
        if self.better_than_chance not in (True, False, None):
            raise ValueError(
                "`better_than_chance` must be True, False or None. "
                f"Received: better_than_chance={self.better_than_chance!r}"
            )

    def low_confidence(self, probability, ood_score):
        """Return whether a prediction has low confidence, and the reason.

        Args:
            probability: float, probability of the most probable genre.
            ood_score: float, out-of-distribution score.

        Returns:
            tuple `(is_low, reason)`. `is_low` is a bool, or `None` if there are no limits. `reason` is a str, or `None`
            if the prediction does not have low confidence.
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
