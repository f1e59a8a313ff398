"""What is wrong with an answer: the usual slips, and the words for them.

:mod:`gencoh_lib.checks` is the door to what is here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from gencoh_lib._answers import Array

__all__ = ["diagnose"]


@np.errstate(over="ignore", under="ignore")
def diagnose(
    answer: Array,
    expected: Array,
    *,
    examples: int | None,
    tolerance: float,
    mistakes: Mapping[str, Array],
    name: str,
) -> str | None:
    """What is wrong with an answer, or None where it is right."""
    if answer.shape != expected.shape:
        return f"{name} {_wrong_shape(answer, expected, examples)}"
    if not np.isfinite(answer).all():
        return f"{name} {_not_finite(answer)}"
    slack = tolerance * (_size(expected) or 1.0)
    if _near(answer, expected, slack):
        return None
    for message, wrong in mistakes.items():
        if _near(answer, wrong, tolerance * _size(wrong)):
            return message
    for message, wrong in _slips(expected, examples):
        # What overflows is infinitely far from everything, with a slack as large.
        if np.isfinite(wrong).all() and _near(answer, wrong, tolerance * _size(wrong)):
            return f"{name} {message}"
    return f"{name} {_where(answer, expected, slack)}"


def _size(values: Array) -> float:
    return float(np.abs(values).max(initial=0.0))


def _near(a: Array, b: Array, slack: float) -> bool:
    return a.shape == b.shape and bool((np.abs(a - b) <= slack).all())


def _slips(right: Array, m: int | None) -> Iterator[tuple[str, Array]]:
    """What is said about the usual slips, and the values that each gives, likeliest first."""
    them = "it" if right.ndim == 0 else "them"
    yield "is right but for the sign: it should be the opposite.", -right
    if m is not None and m > 1:
        yield (
            f"is too large by the factor m = {m}: did you take a sum where a mean is meant?",
            right * m,
        )
        yield (
            f"is too small by the factor m = {m}: did you take a mean where a sum is meant, or "
            "divide by m twice?",
            right / m,
        )
        yield f"is too large by m² = {m * m}: two sums stand where means are meant.", right * m**2
        yield f"is too small by m² = {m * m}: you divide by m too often.", right / m**2
        yield "is too small by (m - 1)/m: divide by m - 1, not by m.", right * ((m - 1) / m)
        yield "is too large by m/(m - 1): divide by m, not by m - 1.", right * (m / (m - 1))
    if right.ndim == 2 and right.shape[0] == right.shape[1]:
        yield "holds the right values transposed: swap the axes with .T.", right.T.copy()
    yield f"is the square of what is asked: take the square root of {them}.", right**2
    if (right >= 0).all():
        yield f"is the square root of what is asked: square {them}.", np.sqrt(right)
    if (right != 0).all():
        yield "is the reciprocal: numerator and denominator are swapped.", 1 / right
    yield "is 100 times too large: a fraction is asked, not a percentage.", right * 100
    yield "is twice what is asked: look for a factor 1/2.", right * 2
    yield "is half of what is asked: look for a factor 2.", right / 2


def _wrong_shape(answer: Array, expected: Array, m: int | None) -> str:
    has, wanted = list(answer.shape), list(expected.shape)
    if expected.ndim == 0:
        if answer.size == 1:
            return f"has shape {has}: take the one number out of it, with [0] or .item()."
        if m is not None and has[:1] == [m]:
            return f"has shape {has}, one entry an example: reduce it over the examples."
        return f"has shape {has}, but a single number is asked."
    if answer.ndim == 0:
        return f"is a single number, but an array of shape {wanted} is asked."
    text = f"has shape {has}, but {wanted} is asked"
    if has == wanted[::-1]:
        return f"{text}: it is transposed, swap the axes with .T."
    if [n for n in has if n != 1] == [n for n in wanted if n != 1]:
        return f"{text}: only axes of length 1 differ, use .reshape({', '.join(map(str, wanted))})."
    if m is not None and has == [m, *wanted]:
        return f"{text}: reduce it over the examples, axis 0."
    if m is not None and [m, *has] == wanted:
        return f"{text}: keep one entry an example, do not reduce over axis 0."
    return f"{text}."


def _not_finite(answer: Array) -> str:
    kind = "NaN (not a number)" if np.isnan(answer).any() else "infinite"
    count = int((~np.isfinite(answer)).sum())
    what = "is" if answer.ndim == 0 else f"is not finite in {_entries(count)}, of which some are"
    return f"{what} {kind}: look for a division by zero, a logarithm of 0 or an overflow."


def _where(answer: Array, expected: Array, slack: float) -> str:
    """What can be said where no slip explains the answer."""
    if _near(answer, expected, 1e-3 * _size(expected)):
        return "is close, but not equal: is something rounded, or computed in float32?"
    if answer.ndim == 0:
        return f"is {answer:.6g}, which is too {'large' if answer > expected else 'small'}."
    if _near(np.abs(answer), np.abs(expected), slack):
        return "is right but for the sign of some entries."
    if _near(np.sort(answer, axis=None), np.sort(expected, axis=None), slack):
        return "holds the right values in another order."
    wrong = np.abs(answer - expected) > slack
    first = [int(k) for k in np.argwhere(wrong)[0]]
    return f"is wrong in {int(wrong.sum())} of {_entries(wrong.size)}; the first is at {first}."


def _entries(count: int) -> str:
    return f"{count} {'entry' if count == 1 else 'entries'}"
