"""Real numbers as arguments, refused by name where they are out of range."""

from __future__ import annotations

import math

from gencoh_lib._whole import whole


def positive(name: str, value: float) -> float:
    """Return the argument as a float; anything but a finite number > 0 is a ValueError."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number > 0, got {value}")
    return float(value)


def nonnegative(name: str, value: float) -> float:
    """Return the argument as a float; anything but a finite number >= 0 is a ValueError."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a finite number >= 0, got {value}")
    return float(value)


def share(name: str, value: float) -> float:
    """Return the argument as a float; anything not strictly between 0 and 1 is a ValueError."""
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {value}")
    return float(value)


def count(name: str, value: object, at_least: int = 1) -> int:
    """Return the argument as an int; too small is a ValueError, not whole a TypeError."""
    number = whole(name, value)
    if number < at_least:
        raise ValueError(f"{name} must be a whole number >= {at_least}, got {number}")
    return number
