"""Whole numbers as arguments: 3 and ``np.int64(3)`` are, 3.0, ``"3"`` and ``True`` are not."""

from __future__ import annotations

from collections.abc import Iterable
from operator import index


def whole(name: str, value: object) -> int:
    """Return the argument of this name as an int; anything but a whole number is a TypeError."""
    try:
        if not isinstance(value, bool):
            return index(value)  # type: ignore[arg-type]
    except TypeError:
        pass
    raise TypeError(f"{name} must be a whole number, got {value!r}")


def wholes(name: str, values: Iterable[object]) -> list[int]:
    """Return the argument of this name as a list of ints; see :func:`whole`."""
    try:
        if not isinstance(values, str):
            return [whole(name, value) for value in values]
    except TypeError:
        pass
    raise TypeError(f"{name} must be a list of whole numbers, got {values!r}")
