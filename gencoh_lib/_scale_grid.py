"""Choosing a scale after the data has been seen, behind :mod:`gencoh_lib.bounds`.

A bound that holds for a scale fixed beforehand holds for all powers of a ratio at once, if power j
may fail with probability delta * weight(j) and the weights sum to one. What was found is rounded
up to the next power.
"""

from __future__ import annotations

import math

#: Ratio of neighbouring scales: rounding up costs at most this factor.
RATIO = 1.1


def weight(power: int) -> float:
    """Share of delta that belongs to one power; over all integers the shares sum to one.

    >>> round(sum(weight(j) for j in range(-2000, 2001)), 3)
    0.999
    """
    return 2 / (3 * (abs(power) + 1) * (abs(power) + 2))


def round_up(value: float) -> tuple[float, float]:
    """Return the scale of the grid that is no smaller, and what it costs: ln(1/weight)."""
    power = math.floor(math.log(value) / math.log(RATIO))
    while RATIO**power < value:
        power += 1
    return RATIO**power, -math.log(weight(power))
