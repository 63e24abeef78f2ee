"""Thresholds: the limits beyond which a prediction has low confidence."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """Result of a calibration, by which predictions are marked as low confidence.

    Attributes:
        temperature: float > 0, by which the logits are divided; already applied to the weights of the last layer.
        min_confidence: float, the probability below which a prediction has low confidence; `None` for no limit.
        max_ood_score: float, the out-of-distribution score above which a prediction has low confidence; `None` for no
            limit.
        better_than_chance: bool, whether the model was better than chance on the calibration clips; `None` before the
            calibration. If it is false, all predictions have low confidence.

    Raises:
        ValueError: a value is not of its type or not finite.
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
        """Compare a prediction with the limits.

        Args:
            probability: float, of the most probable genre.
            ood_score: float.

        Returns:
            tuple: bool, whether the confidence is low, and str, the reason, `None` if it is not. `(None, None)` if
            there are no limits.
        """
        if self.better_than_chance is False:
            return True, "model not better than chance"
        if self.min_confidence is None and self.max_ood_score is None:
            return None, None
        reasons = []
        if self.min_confidence is not None and probability < self.min_confidence:
            reasons.append("between genres")
        if self.max_ood_score is not None and ood_score > self.max_ood_score:
            reasons.append("unlike the training data")
        return bool(reasons), "; ".join(reasons) or None
