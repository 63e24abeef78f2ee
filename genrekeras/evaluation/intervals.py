"""Confidence intervals."""

import math


def wilson_interval(hits, count, z=1.959964):
    """Interval of a share of `hits` among `count` trials, by default of 95 %: `(low, high)`.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 1927.
    """
    share = hits / count
    center = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, (center - half) / (1 + z * z / count)), min(1.0, (center + half) / (1 + z * z / count))
