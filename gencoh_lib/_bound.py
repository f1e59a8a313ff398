"""An upper bound with its parts, behind :mod:`gencoh_lib.bounds`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from types import MappingProxyType

from gencoh_lib._whole import whole


@dataclass(frozen=True)
class Bound:
    """An upper bound with its parts, or the order of one.

    Attributes
    ----------
    value : float
        The bound, in units of the loss.
    terms : mapping of str to float
        Named parts; putting them into ``formula`` gives ``value``.
    formula : str
        A Python expression in the names of ``terms``.
    assumptions : tuple of str
        What must hold for the bound to hold.
    trivial : float
        The largest value that the bounded quantity can take anyway.
    source : str
        Where the statement comes from, and whether it is the authors' or derived here.
    order_only : bool
        Whether the source leaves the constants open. Then `value` is the complexity term with
        every constant set to one: good for comparing shapes, and not a bound on anything.

    Examples
    --------
    >>> from gencoh_lib.bounds import Bound
    >>> Bound(6.0, {"a": 2.0, "b": 3.0}, "a * b", (), trivial=1.0, source="an example").vacuous
    True
    """

    value: float
    terms: Mapping[str, float]
    formula: str
    assumptions: tuple[str, ...]
    trivial: float
    source: str
    order_only: bool = False

    @property
    def vacuous(self) -> bool:
        """Whether the bound promises no more than what is true without it.

        What is of an order only promises nothing, whatever its value.
        """
        return self.order_only or not self.value < self.trivial

    @property
    def shown(self) -> str:
        """The value in four digits; what they cannot tell from the trivial, as a difference."""
        if not self.vacuous and f"{self.value:.4g}" == f"{self.trivial:.4g}":
            return f"{self.trivial:g} - {self.trivial - self.value:.0e}"
        return f"{self.value:.4g}"

    def __repr__(self) -> str:
        if self.order_only:
            lines = [f"order = {self.shown}  (order only: constants unknown, not a bound)"]
        else:
            verdict = "vacuous: not below" if self.vacuous else "below"
            lines = [f"bound = {self.shown}  ({verdict} the trivial {self.trivial:g})"]
        lines += [f"  {name:<24s}{term:>12.4g}" for name, term in self.terms.items()]
        for label, texts in (
            ("formula", (self.formula,)),
            ("assumes", self.assumptions),
            ("source", (self.source,)),
        ):
            lines += [
                fill(text, 78, initial_indent=f"  {label:<10s}", subsequent_indent=" " * 12)
                for text in texts
            ]
        return "\n".join(lines)


def assembled(
    formula: str,
    terms: Mapping[str, float],
    assumptions: Sequence[str],
    *,
    source: str,
    trivial: float = 1.0,
    order_only: bool = False,
) -> Bound:
    """Put the terms into the formula."""
    value = float(eval(formula, {"__builtins__": {}}, dict(terms)))
    frozen = MappingProxyType(dict(terms))
    return Bound(value, frozen, formula, tuple(assumptions), trivial, source, order_only)


def count(name: str, value: int, *, least: int = 1) -> int:
    """Return a whole number that is not too small."""
    value = whole(name, value)
    if value < least:
        raise ValueError(f"{name} must be a whole number >= {least}, got {value}")
    return value


def check_delta(delta: float) -> None:
    """Refuse what is no probability of failure."""
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie strictly between 0 and 1, got {delta}")


def nonnegative(name: str, value: float) -> float:
    """Return a finite number that is not negative."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a finite number >= 0, got {value}")
    return float(value)


def positive(name: str, value: float) -> float:
    """Return a finite number above zero."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number > 0, got {value}")
    return float(value)


def fraction(name: str, value: float) -> float:
    """Return a number between 0 and 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie between 0 and 1, got {value}")
    return float(value)
