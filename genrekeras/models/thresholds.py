"""Thresholds that decide whether a prediction has low confidence."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """Thresholds of a model. They decide whether a prediction has low confidence.

    `genrekeras.evaluation.calibrate` determines the values.

    Attributes:
        temperature: `> 0`. The calibration has divided the weights of the last layer by this value.
        min_confidence: a prediction with a lower probability has low confidence. `None` for no limit.
        max_ood_score: a prediction with a higher out-of-distribution score has low confidence. `None` for no
            limit.
        better_than_chance: whether the model was better than chance on the calibration clips. If it is false, all
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
