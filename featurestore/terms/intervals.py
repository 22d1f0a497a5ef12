"""The interval of a share."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson(share: float, n: float, *, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion.

    Parameters
    ----------
    share : float
        Observed, in [0, 1].
    n : float
        Number of trials; it need not be whole.

    References
    ----------
    .. [1] Wilson, JASA 22, 1927, 209-212.
    """
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))
