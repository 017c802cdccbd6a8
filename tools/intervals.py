"""How sure a mean of paired differences is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

# two-sided 95 % quantiles of Student's t, by degrees of freedom
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Mean of two or more differences and the half width of its 95 % interval (Student), in their unit."""
    count = len(differences)
    spread = statistics.stdev(differences) / math.sqrt(count)
    return statistics.mean(differences), T95[min(count - 2, len(T95) - 1)] * spread
