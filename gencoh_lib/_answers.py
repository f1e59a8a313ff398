"""Touching what a student gives, of whatever type, without ever raising.

Any of an object's methods may fail, or lie: even ``isinstance`` asks it for its ``__class__``. So
everything that touches such an object is here, where no exception gets out; what comes out is a
plain float64 array, or words. :mod:`gencoh_lib.checks` is the door to what is here.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, float64

__all__ = ["Array", "Call", "copies", "is_missing", "read", "type_name"]

Array = NDArray[np.float64]

# SystemExit too: a student's exit() must not end the notebook. KeyboardInterrupt is the reader's.
_ANY_ERROR = (Exception, SystemExit)


def is_missing(answer: object) -> bool:
    """Whether the place of the answer is still empty."""
    return answer is None or answer is ... or answer is NotImplemented


def type_name(thing: object) -> str:
    """Name of the type, past a metaclass that may do anything when asked."""
    return str.strip(type.__dict__["__name__"].__get__(type(thing)))


def read(answer: object) -> Array | str:
    """The answer as a new float64 array, or what it is instead of numbers."""
    try:
        return _read(answer)
    except _ANY_ERROR:
        return f"of type {type_name(answer)}, which cannot be read as numbers of one shape"


def _read(answer: object) -> Array | str:
    if isinstance(answer, bool | np.bool_):
        return "a truth value, not a number: give the value itself, without comparing it"
    if isinstance(answer, str | bytes):
        return "a text, not a number: leave out the quotes"
    if isinstance(answer, Mapping | set | frozenset):
        return f"a {type_name(answer)}, not an array: give its values as a list"
    if isinstance(answer, Tensor):
        plain = answer.detach().cpu().resolve_conj().resolve_neg()
        values = (plain if plain.is_complex() else plain.to(float64)).numpy()
    elif callable(answer) and not isinstance(answer, np.ndarray):
        return "a function, not its value: call it, with parentheses"
    else:
        values = np.asarray(answer)
    if values.dtype.kind == "c":
        return "complex: take its real part or its absolute value"
    if values.dtype.kind not in "biufO":
        return f"of type {type_name(answer)}, which holds no numbers"
    if values.dtype.kind == "O" and values.ndim and any(map(is_missing, values.flat)):
        return "not complete: it still holds ... or None"
    return np.array(values, dtype=np.float64, subok=False)


@dataclass(frozen=True)
class Call:
    """Outcome of a call of the student's function: a result, or what went wrong."""

    result: object = None
    problem: str = ""

    @classmethod
    def run(cls, answer: Callable[..., Any], case: tuple[Any, ...]) -> Call:
        """Call it on copies of the arguments; no exception gets out."""
        arguments = copies(case)
        if not _takes(answer, arguments):
            given = f"{len(arguments)} argument{'s' * (len(arguments) != 1)}"
            return cls(problem=f"it cannot be called with {given}: look at its def line.")
        try:
            result = answer(*arguments)
        except NotImplementedError:
            return cls(problem="it is still to be written: it raises NotImplementedError.")
        except _ANY_ERROR as error:
            return cls(problem=f"it raised {type_name(error)}{_message(error)}.")
        if result is None:
            return cls(problem="it returns nothing: does it end with return?")
        return cls(result=result)


def _takes(answer: Callable[..., Any], arguments: tuple[Any, ...]) -> bool:
    try:
        signature = inspect.signature(answer)
    except _ANY_ERROR:
        return True  # no signature to be had, as for some built-in functions: the call will tell
    try:
        signature.bind(*arguments)
    except _ANY_ERROR:
        return False
    return True


def _message(error: BaseException) -> str:
    try:
        words = str.strip(str(error))
    except _ANY_ERROR:  # an exception of the student's own, whose text fails in turn
        return ""
    return f": {words[:300].rstrip('.')}" if words else ""


def copies(case: tuple[Any, ...]) -> tuple[Any, ...]:
    """Copies of the arguments of a case, so that nobody can change the case itself."""
    return tuple(map(_copy, case))


def _copy(argument: Any) -> Any:
    if isinstance(argument, Tensor):  # deepcopy refuses tensors that autograd has computed
        return argument.detach().clone().requires_grad_(argument.requires_grad)
    return copy.deepcopy(argument)
