"""Touching what a student gives, of whatever type, without ever raising.

Any of an object's methods may fail, or lie: even ``isinstance`` asks it for its ``__class__``. So
everything that touches such an object is here, where no exception gets out; what comes out is a
plain array, or words. :mod:`gencoh_lib.checks` is the door to what is here.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Array", "Call", "copies", "is_missing", "read", "type_name"]

Array = NDArray[np.float64]
_T = TypeVar("_T")


def is_missing(answer: object) -> bool:
    """Whether the place of the answer is still empty."""
    return answer is None or answer is ... or answer is NotImplemented


def type_name(thing: object) -> str:
    """Name of the type, past a metaclass that may do anything when asked."""
    return str.strip(type.__dict__["__name__"].__get__(type(thing)))


def _attempt(call: Callable[[], _T], otherwise: Callable[[BaseException], _T]) -> _T:
    """What the call returns or, where it raises anything, what is said instead."""
    try:
        return call()
    except KeyboardInterrupt:  # the reader's own
        raise
    except BaseException as error:  # a student's exit() must not end the notebook
        return otherwise(error)


def read(answer: object, *, truth_values: bool = False) -> NDArray[Any] | str:
    """The answer as a new float64 array, or what it is instead of numbers.

    Truth values are no numbers; where they are meant, they come out as an array of bool.
    """
    return _attempt(
        lambda: _read(answer, truth_values),
        lambda _: f"of type {type_name(answer)}, which cannot be read as numbers of one shape",
    )


def _read(answer: object, truth_values: bool) -> NDArray[Any] | str:
    if isinstance(answer, str | bytes):
        return "a text, not a number: leave out the quotes"
    if isinstance(answer, Mapping | set | frozenset):
        return f"a {type_name(answer)}, not an array: give its values as a list"
    if isinstance(answer, Tensor):
        plain = answer.detach().cpu().resolve_conj().resolve_neg()
        kept = plain.is_complex() or plain.dtype == torch.bool
        values = (plain if kept else plain.double()).numpy()
    elif callable(answer) and not isinstance(answer, np.ndarray):
        return "a function, not its value: call it, with parentheses"
    elif isinstance(answer, np.ma.MaskedArray):
        return "a masked array: give plain numbers, for a masked one is none"
    else:
        values = np.asarray(answer)
    if values.dtype.kind == "c":
        return "complex: take its real part or its absolute value"
    if values.dtype.kind == "b" and not truth_values:
        kind = "made of truth values, not numbers" if values.ndim else "a truth value, not a number"
        return f"{kind}: give what you compared, without comparing it"
    if values.dtype.kind not in "biufO":
        return f"of type {type_name(answer)}, which holds no numbers"
    if values.dtype.kind == "O" and values.ndim and any(map(is_missing, values.flat)):
        return "not complete: it still holds ... or None"
    return np.array(values, dtype=None if values.dtype.kind == "b" else np.float64, subok=False)


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
        call = _attempt(lambda: cls(result=answer(*arguments)), cls._of_error)
        if call.result is None and not call.problem:
            return cls(problem="it returns nothing: does it end with return?")
        return call

    @classmethod
    def _of_error(cls, error: BaseException) -> Call:
        if issubclass(type(error), NotImplementedError):
            return cls(problem="it is still to be written: it raises NotImplementedError.")
        # The text of an exception of the student's own may fail in turn.
        words = _attempt(lambda: str.strip(str(error)), lambda _: "")
        said = f": {words[:300].rstrip('.')}" if words else ""
        return cls(problem=f"it raised {type_name(error)}{said}.")


def _takes(answer: Callable[..., Any], arguments: tuple[Any, ...]) -> bool:
    # Some built-in functions have no signature to be had: the call will tell.
    signature = _attempt(lambda: inspect.signature(answer), lambda _: None)
    if signature is None:
        return True
    return _attempt(lambda: signature.bind(*arguments), lambda _: None) is not None


def copies(case: tuple[Any, ...]) -> tuple[Any, ...]:
    """Copies of the arguments of a case, so that nobody can change the case itself."""
    return tuple(map(_copy, case))


def _copy(argument: Any) -> Any:
    if isinstance(argument, Tensor):  # deepcopy refuses tensors that autograd has computed
        return argument.detach().clone().requires_grad_(argument.requires_grad)
    return copy.deepcopy(argument)
