"""Confidence intervals."""

import math


def wilson_interval(hits: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 1927.

    Args:
        hits: `>= 0`, number of successes.
        count: `> 0`, number of trials.
        z: `> 0`, quantile of the normal distribution. The default gives a 95 % interval.

    Returns:
        Lower and upper bound, in [0, 1].
    """
    proportion = hits / count
    center = proportion + z * z / (2 * count)
    half = z * math.sqrt(proportion * (1 - proportion) / count + z * z / (4 * count * count))
    return max(0.0, (center - half) / (1 + z * z / count)), min(1.0, (center + half) / (1 + z * z / count))
