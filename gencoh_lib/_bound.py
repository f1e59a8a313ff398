"""An upper bound with its parts, behind :mod:`gencoh_lib.bounds`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import fill


@dataclass(frozen=True)
class Bound:
    """An upper bound with its parts.

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

    @property
    def vacuous(self) -> bool:
        """Whether the bound promises no more than what is true without it."""
        return not self.value < self.trivial

    def __repr__(self) -> str:
        verdict = "vacuous: not below" if self.vacuous else "below"
        lines = [f"bound = {self.value:.4g}  ({verdict} the trivial {self.trivial:g})"]
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
