"""Confidence intervals."""

import math


def wilson_interval(hits, count, z=1.959964):
    """Return the Wilson score interval of a proportion.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 1927.

    Args:
        hits: int >= 0, number of successes.
        count: int > 0, number of trials.
        z: float > 0, quantile of the normal distribution. The default gives a 95 % interval.

    Returns:
        tuple of two floats in [0, 1], the lower and the upper bound.
    """
    proportion = hits / count
    center = proportion + z * z / (2 * count)
    half = z * math.sqrt(proportion * (1 - proportion) / count + z * z / (4 * count * count))
    return max(0.0, (center - half) / (1 + z * z / count)), min(1.0, (center + half) / (1 + z * z / count))
