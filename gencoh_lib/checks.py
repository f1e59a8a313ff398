"""Self-checks for exercises: they say what is wrong, so that the student knows what to try next.

:func:`number` and :func:`array` compare an answer with the expected one and recognise the usual
slips (a sign, a factor m, a sum for a mean, a square, a transpose); :func:`function` calls the
student's function on several cases. A check returns a :class:`Verdict` and never raises on account
of an answer, whatever object it is.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from gencoh_lib import front_end
from gencoh_lib._answers import Call, copies, is_missing, read, type_name
from gencoh_lib._slips import diagnose

__all__ = ["Verdict", "array", "function", "number"]


@dataclass(frozen=True, repr=False)
class Verdict:
    """What a check says; true where the answer passed.

    Attributes
    ----------
    passed
        Whether the answer is right.
    message
        What is right, or what is wrong and what to try.

    Examples
    --------
    >>> Verdict(False, "alpha is still to be found.")
    ✗ Not yet. alpha is still to be found.
    >>> bool(Verdict(True, "alpha is correct."))
    True
    """

    passed: bool
    message: str

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        return f"{self._icon} {self._word} {self.message}"

    def _repr_html_(self) -> str:
        # An icon and a word: the colour only repeats what they say.
        return front_end.html_block(
            "verdict",
            f'<p role="status"{" class=gencoh-passed" if self.passed else ""}>'
            f'<strong><span aria-hidden="true">{self._icon}</span> {self._word}</strong> '
            f"{html.escape(self.message)}</p>",
        )

    @property
    def _icon(self) -> str:
        return "✓" if self.passed else "✗"

    @property
    def _word(self) -> str:
        return "Right." if self.passed else "Not yet."


def number(
    answer: object,
    expected: float,
    *,
    examples: int | None = None,
    tolerance: float = 1e-6,
    name: str = "answer",
    mistakes: Mapping[str, float] | None = None,
) -> Verdict:
    """Check one number.

    Parameters
    ----------
    answer
        What the student gives: any object at all.
    expected
        The right value.
    examples
        Sample size m, to recognise a factor m, 1/m, m², m-1 in place of m, and a list of m values.
    tolerance
        Greatest error relative to ``expected`` (absolute where that is 0).
    name
        What the message calls the answer.
    mistakes
        Wrong values to recognise, by the message they deserve; they go before the usual ones.

    Returns
    -------
    Verdict
        Whether it is right, and if not what to try.

    Raises
    ------
    ValueError
        If ``expected`` or one of the ``mistakes`` is not finite, or ``tolerance`` not positive: a
        fault of the exercise, not of the answer.

    Examples
    --------
    >>> number(0.25, 0.25, name="alpha")
    ✓ Right. alpha is correct.
    >>> number(100.0, 0.25, examples=400, name="alpha")
    ✗ Not yet. alpha is too large by the factor m = 400: did you take a sum where a mean is meant?
    """
    wanted = _finite(expected, "expected")
    if wanted.ndim:
        raise ValueError(f"expected has shape {list(wanted.shape)}: use checks.array for arrays.")
    return _compare(answer, wanted, examples, tolerance, name, mistakes or {})


def array(
    answer: object,
    expected: ArrayLike | Tensor,
    *,
    examples: int | None = None,
    tolerance: float = 1e-6,
    name: str = "answer",
    mistakes: Mapping[str, ArrayLike | Tensor] | None = None,
) -> Verdict:
    """Check an array or tensor.

    Parameters
    ----------
    answer
        What the student gives: any object at all.
    expected
        The right values, of any shape.
    examples
        Sample size m, to recognise a sum in place of a mean and the like.
    tolerance
        Greatest error of an entry, relative to the largest of ``expected`` (absolute where that is
        0).
    name
        What the message calls the answer.
    mistakes
        Wrong arrays to recognise, by the message they deserve; they go before the usual ones.

    Returns
    -------
    Verdict
        Whether it is right, and if not what to try.

    Raises
    ------
    ValueError
        If ``expected`` or one of the ``mistakes`` is not finite, or ``tolerance`` not positive: a
        fault of the exercise, not of the answer.

    Examples
    --------
    >>> array([[1, 3], [2, 4]], [[1, 2], [3, 4]], name="gradients")
    ✗ Not yet. gradients holds the right values transposed: swap the axes with .T.
    """
    return _compare(
        answer, _finite(expected, "expected"), examples, tolerance, name, mistakes or {}
    )


def function(
    answer: object,
    reference: Callable[..., Any],
    cases: Sequence[tuple[Any, ...]],
    *,
    examples: int | Callable[..., int] | None = None,
    tolerance: float = 1e-6,
    name: str | None = None,
    mistakes: Mapping[str, Callable[..., Any]] | None = None,
) -> Verdict:
    """Check a function, by calling it on several cases and comparing with a reference.

    Each call gets copies of the arguments, so a function that changes them harms nothing.

    Parameters
    ----------
    answer
        The student's function: any object at all.
    reference
        The right function; it returns a number, an array or a tensor.
    cases
        Tuples of arguments, the simplest first.
    examples
        Sample size m of every case, or a function of a case's arguments that gives it.
    tolerance
        As :func:`number` and :func:`array`.
    name
        What the message calls the function; by default the name of ``reference``.
    mistakes
        For each slip worth recognising, what to say and a function that makes it.

    Returns
    -------
    Verdict
        Whether all cases are right; if not, the first that is wrong, and why.

    Raises
    ------
    ValueError
        If there are no cases, or the reference gives what is not finite: faults of the exercise.

    Examples
    --------
    >>> def mean(x): return sum(x) / len(x)
    >>> function(sum, mean, [([2.0],), ([1.0, 2.0, 6.0],)], examples=len)
    ✗ Not yet. mean, case 2 of 2 (a list of 3): the result is too large by the factor m = 3: did you take a sum where a mean is meant?
    """  # noqa: E501
    if not cases:
        raise ValueError("cases is empty: give at least one tuple of arguments.")
    called = name or getattr(reference, "__name__", "function")
    if is_missing(answer):
        return Verdict(False, f"{called} is still to be written: replace the ... by your function.")
    if not callable(answer):
        return Verdict(
            False,
            f"{called} must be a function, not {type_name(answer)}: pass the function itself, "
            "without calling it.",
        )
    for at, case in enumerate(cases, start=1):
        m = examples(*copies(case)) if callable(examples) else examples
        expected = _finite(reference(*copies(case)), "the result of reference")
        where = f"{called}, case {at} of {len(cases)} ({', '.join(map(_describe, case))})"
        call = Call.run(answer, case)
        known = {text: slip(*copies(case)) for text, slip in (mistakes or {}).items()}
        problem = call.problem or _problem(call.result, expected, m, tolerance, "the result", known)
        if problem:
            return Verdict(False, f"{where}: {problem}")
    return Verdict(True, f"{called} is correct in {len(cases)} case{'s' * (len(cases) != 1)}.")


def _compare(
    answer: object,
    expected: NDArray[Any],
    examples: int | None,
    tolerance: float,
    name: str,
    mistakes: Mapping[str, Any],
) -> Verdict:
    problem = _problem(answer, expected, examples, tolerance, name, mistakes)
    return Verdict(problem is None, problem or f"{name} is correct.")


def _problem(
    answer: object,
    expected: NDArray[Any],
    examples: int | None,
    tolerance: float,
    name: str,
    mistakes: Mapping[str, Any],
) -> str | None:
    if not tolerance > 0:
        raise ValueError(f"tolerance is {tolerance!r}: give a positive number, e.g. 1e-6.")
    known = {message: _finite(wrong, "mistakes") for message, wrong in mistakes.items()}
    if is_missing(answer):
        return f"{name} is still to be found: replace the ... by your answer."
    values = read(answer, truth_values=expected.dtype == np.bool_)
    if isinstance(values, str):
        return f"{name} is {values}."
    return diagnose(
        values.astype(np.float64),
        expected.astype(np.float64),
        examples=examples,
        tolerance=tolerance,
        mistakes=known,
        name=name,
    )


def _finite(value: object, name: str) -> NDArray[Any]:
    """A value that the exercise gives to compare with: numbers, or truth values."""
    values = read(value, truth_values=True)
    if isinstance(values, str) or not np.isfinite(values).all():
        raise ValueError(f"{name} holds {value!r}: a check needs finite numbers to compare with.")
    return values


def _describe(argument: object) -> str:
    if isinstance(argument, Tensor | np.ndarray) and argument.ndim:
        kind = "tensor" if isinstance(argument, Tensor) else "array"
        return f"a {kind} of shape {list(argument.shape)}"
    if isinstance(argument, list | tuple | dict) and len(repr(argument)) > 10:
        return f"a {type(argument).__name__} of {len(argument)}"
    if isinstance(argument, Tensor):
        return f"{argument.item():g}"
    text = repr(argument)
    return text if len(text) <= 40 and "\n" not in text else f"a {type(argument).__name__}"
