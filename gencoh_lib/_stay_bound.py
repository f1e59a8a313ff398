"""A lower bound on the probability of staying, with its parts.

The public names are those of :mod:`gencoh_lib.stagnation`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import fill
from types import MappingProxyType
from typing import Literal

from gencoh_lib._numbers import nonnegative, positive

MinimalSet = Literal["affine", "convex"]
STAND_IN = (
    "derived here (stand-in; the text of Imaizumi and Schmidt-Hieber was not available to us)"
)


@dataclass(frozen=True)
class StayBound:
    """A lower bound on the probability of staying, with its parts.

    Attributes
    ----------
    value : float
        The bound; at 0 or below it says nothing.
    terms : mapping of str to float
        Named parts; putting them into ``formula`` gives ``value``.
    formula : str
        A Python expression in the names of ``terms``.
    assumptions : tuple of str
        What must hold for the bound to hold.
    source : str
        Where the statement comes from.

    Examples
    --------
    >>> StayBound(-1.0, {"steps": 2.0}, "1 - steps", (), source="an example").vacuous
    True
    """

    value: float
    terms: Mapping[str, float]
    formula: str
    assumptions: tuple[str, ...]
    source: str

    @property
    def vacuous(self) -> bool:
        """Whether the bound promises no more than a probability of 0."""
        return not self.value > 0

    def __repr__(self) -> str:
        verdict = "vacuous: not above 0" if self.vacuous else "a probability"
        lines = [f"stay probability >= {self.value:.6g}  ({verdict})"]
        lines += [f"  {name:<24s}{term:>12.6g}" for name, term in self.terms.items()]
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


def contraction(step_size: float, *, mu: float, lipschitz: float, symmetric: bool = False) -> float:
    r"""How much one step without noise shrinks the distance from the minimal piece.

    Parameters
    ----------
    step_size : float
        :math:`\eta`.
    mu : float
        Restricted secant inequality: :math:`\langle\nabla R, \delta\rangle \ge
        \mu\lVert\delta\rVert^2`, with :math:`\delta = \theta - P\theta`.
    lipschitz : float
        L: :math:`\lVert N\nabla R\rVert \le L\lVert\delta\rVert`, with N the normal part.
    symmetric : bool
        Whether, instead, the eigenvalues of :math:`NHN` across the piece lie in
        :math:`[\mu, L]` on the whole segment from :math:`P\theta` to :math:`\theta`, which gives
        more.

    Returns
    -------
    float
        :math:`\rho`; a bound for staying needs it below 1.

    Raises
    ------
    ValueError
        If a number is out of range or :math:`\mu > L`.

    Notes
    -----
    .. math:: \rho^2 = 1 - 2\eta\mu + \eta^2L^2, \qquad \text{symmetric:}\quad
        \rho = \max(|1-\eta\mu|, |1-\eta L|)

    The first by expanding the square, the second because :math:`N\nabla R = A\delta` with A the
    mean of :math:`NHN` over the segment. Derived here (stand-in; the text of Imaizumi and
    Schmidt-Hieber was not available to us).

    Examples
    --------
    >>> round(contraction(0.1, mu=1, lipschitz=1), 12), contraction(0.1, mu=1, lipschitz=5)
    (0.9, 1.02469507659596)
    """
    eta, mu, lipschitz = (
        positive("step_size", step_size), positive("mu", mu), positive("lipschitz", lipschitz)
    )  # fmt: skip
    if mu > lipschitz:
        raise ValueError(f"mu = {mu:g} exceeds lipschitz = {lipschitz:g}: no loss has that")
    if symmetric:
        return max(abs(1 - eta * mu), abs(1 - eta * lipschitz))
    return math.sqrt((1 - eta * mu) ** 2 + eta**2 * (lipschitz**2 - mu**2))


def declared(minimal_set: str) -> None:
    if minimal_set not in ("affine", "convex"):
        raise ValueError(
            f"minimal_set = {minimal_set!r}: the bound holds if the set of minimisers is 'affine' "
            "(or 'convex', with dimension = D), which you have to declare. On a curved set noise "
            "along it pushes the chain away from it: curved_offset predicts how far"
        )


def effective_variance(contraction: float, step_size: float, noise: float) -> float:
    if not 0 <= contraction < 1:
        raise ValueError(
            f"contraction must lie in [0, 1), got {contraction}: the step does not shrink the "
            "distance; use a smaller step size"
        )
    kick = positive("step_size", step_size) * nonnegative("noise", noise)
    return kick**2 / (1 - contraction**2)


def set_words(minimal_set: MinimalSet, k: int) -> str:
    if minimal_set == "affine":
        return f"the set of minimisers is affine, of codimension {k} (declared)"
    return f"the set of minimisers is closed and convex, in {k} dimensions (declared)"


def assembled(formula: str, terms: dict[str, float], assumptions: list[str]) -> StayBound:
    value = float(eval(formula, {"__builtins__": {}}, dict(terms)))
    return StayBound(value, MappingProxyType(terms), formula, tuple(assumptions), STAND_IN)
