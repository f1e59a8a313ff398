"""Lower bounds on the probability that noisy SGD stays in a tube.

The public names are those of :mod:`gencoh_lib.stagnation`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import fill
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincc

from gencoh_lib._linear_chain import LinearChain
from gencoh_lib._numbers import count, nonnegative, positive, share

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


def contraction(
    step_size: float, *, mu: float, lipschitz: float, symmetric: bool = False
) -> float:
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


def stay_bound(
    radius: float,
    *,
    steps: int,
    contraction: float,
    step_size: float,
    noise: float,
    dimension: int,
    minimal_set: MinimalSet,
    start: float = 0.0,
) -> StayBound:
    r"""Lower bound on staying in a tube for T steps, for any Gaussian noise that is small enough.

    Parameters
    ----------
    radius : float
        r, the radius of the tube.
    steps : int
        T.
    contraction : float
        :math:`\rho < 1` in the whole tube, see :func:`contraction`.
    step_size : float
        :math:`\eta`, constant.
    noise : float
        :math:`\sigma`: the covariance of the noise across the piece is at most
        :math:`\sigma^2 I`, in every direction and at every step.
    dimension : int
        k, the number of directions across the piece. For a convex set D, the number of all
        parameters.
    minimal_set : str
        ``"affine"`` or ``"convex"``: declares the shape of the set of minimisers, which no
        function can check from outside. On a curved set noise along it pushes the chain away from
        it, and the bound is false: see :func:`curved_offset`. For ``"convex"`` the contraction is
        that of the whole step, not only of its normal part.
    start : float
        Distance of the start from the piece.

    Returns
    -------
    StayBound
        With terms ``steps`` and ``exit_per_step``.

    Raises
    ------
    TypeError, ValueError
        If the minimal set is declared neither affine nor convex, the start lies outside the core
        :math:`\mathrm{dist}^2 \le r\sqrt{kv}`, or a number is out of range.

    Notes
    -----
    With :math:`v = \eta^2\sigma^2/(1-\rho^2)` and :math:`q = r/\sqrt v \ge \sqrt k`,

    .. math:: P(\text{stay } T) \ge 1 - T \exp\Bigl(-\frac{(q-\sqrt k)^2}{2}\Bigr).

    For smaller q the bound is vacuous. Derived here (stand-in; the text of Imaizumi and
    Schmidt-Hieber was not available to us).

    Examples
    --------
    >>> bound = stay_bound(1.0, steps=1000, contraction=0.95, step_size=0.05, noise=1, dimension=1,
    ...                    minimal_set="affine")
    >>> round(bound.value, 6)
    0.998938
    """
    steps, k = count("steps", steps, at_least=0), count("dimension", dimension)
    _declared(minimal_set)
    v = _effective_variance(contraction, step_size, noise)
    q = _normalised(positive("radius", radius), v)
    _in_core(start, radius, k * v, q**2 >= k)
    terms = {"steps": float(steps), "exit_per_step": _exit_per_step(q, k)}
    return _stay_bound(
        "1 - steps * exit_per_step",
        terms,
        [
            _set_words(minimal_set, k),
            f"one step without noise shrinks the distance to at most {contraction:g} of it, "
            "everywhere in the tube",
            f"the noise is Gaussian given the past, with at most {noise:g} of standard deviation "
            "in every direction across the piece",
            "no projection acts in the tube",
        ],
    )


def stay_bound_isotropic(
    radius: float,
    *,
    steps: int,
    contraction: float,
    step_size: float,
    noise: float,
    dimension: int,
    minimal_set: MinimalSet,
    start: float = 0.0,
) -> StayBound:
    r"""Lower bound on staying for isotropic Gaussian noise: that of the linear chain, exactly.

    Parameters
    ----------
    radius, steps, contraction, step_size, dimension, minimal_set
        As for :func:`stay_bound`.
    noise : float
        :math:`\sigma`: the noise has the covariance :math:`\sigma^2 I`, exactly.
    start : float
        Distance of the start from the piece, at most r.

    Returns
    -------
    StayBound
        With the terms ``linear_chain`` and, if the start lies on the piece, the weaker
        ``product`` :math:`\prod_t F_k(r^2/v_t)`, ``power`` :math:`F_k(r^2/v)^T` and ``union``
        :math:`1 - T(1-F_k(r^2/v))`.

    Raises
    ------
    TypeError, ValueError
        If the minimal set is declared neither affine nor convex, or a number is out of range.

    Notes
    -----
    Step by step, and jointly in time, the distance is at most that of
    :math:`x_{t+1} = \rho x_t + \eta\sigma z_t` in k dimensions, in distribution. The product is the
    Gaussian correlation inequality (Royen), with :math:`v_t = v(1-\rho^{2t})` and :math:`F_k` the
    distribution function of :math:`\chi^2_k`. Derived here (stand-in; the text of Imaizumi and
    Schmidt-Hieber was not available to us).

    Examples
    --------
    >>> bound = stay_bound_isotropic(1.0, steps=1000, contraction=0.9, step_size=0.1, noise=1,
    ...                              dimension=1, minimal_set="affine")
    >>> round(bound.value, 6), round(bound.terms["product"], 6), round(bound.terms["union"], 6)
    (0.991617, 0.987188, 0.986928)
    """
    steps, k = count("steps", steps, at_least=0), count("dimension", dimension)
    _declared(minimal_set)
    v = _effective_variance(contraction, step_size, noise)
    if nonnegative("start", start) > positive("radius", radius):
        raise ValueError(f"the start, at distance {start:g}, lies outside the tube of {radius:g}")
    chain = LinearChain.from_contraction(
        contraction, step_size=step_size, noise=noise, dimension=k
    )
    terms = {"linear_chain": chain.stay(radius, steps, start)}
    if start == 0:
        v_t = v * -np.expm1(2 * np.arange(1, steps + 1) * math.log(contraction or 1e-300))
        late = float(_outside(np.array([v]), radius, k)[0])
        terms["product"] = _product(_outside(v_t, radius, k))
        terms["power"] = math.exp(steps * math.log1p(-late)) if late < 1 else float(steps == 0)
        terms["union"] = 1 - steps * late
    return _stay_bound(
        "linear_chain",
        terms,
        [
            _set_words(minimal_set, k),
            f"one step without noise shrinks the distance to at most {contraction:g} of it, "
            "everywhere in the tube",
            f"the noise is Gaussian given the past, isotropic, with a standard deviation of "
            f"{noise:g} in each coordinate",
            "no projection acts in the tube",
        ],
    )


def stay_bound_drift(
    radius: float,
    *,
    steps: int,
    contraction: float,
    step_size: float,
    noise: float,
    gradient_error: float,
    dimension: int,
    minimal_set: MinimalSet,
    start: float = 0.0,
) -> StayBound:
    r"""Lower bound on staying when the gradient is not quite that of the contracting loss.

    Parameters
    ----------
    radius, steps, contraction, step_size, noise, dimension, minimal_set, start
        As for :func:`stay_bound`; the contraction is that of the population risk, say, while the
        run follows the empirical one.
    gradient_error : float
        e, the largest :math:`\lVert N(\nabla R_n - \nabla R)\rVert` in the tube.

    Returns
    -------
    StayBound
        With terms ``steps`` and ``exit_per_step``.

    Raises
    ------
    TypeError, ValueError
        As :func:`stay_bound`, with the core :math:`\mathrm{dist}^2 \le r\sqrt{2v(k+b)}`; or if
        `noise` is 0.

    Notes
    -----
    With :math:`b = \frac{1+\rho^2}{1-\rho^2}\,\frac{e^2}{\sigma^2}` and
    :math:`r \ge \sqrt{2v(k+b)}`,

    .. math:: P(\text{stay } T) \ge 1 - T \exp\Bigl(-\frac12
        \Bigl(\frac{r}{\sqrt{2v}} - \sqrt{k+b}\Bigr)^2\Bigr).

    At e = 0 it is weaker than :func:`stay_bound`: half of the contraction pays for the error.
    Derived here (stand-in; the text of Imaizumi and Schmidt-Hieber was not available to us).

    Examples
    --------
    >>> bound = stay_bound_drift(0.9, steps=500, contraction=0.9, step_size=0.1, noise=0.3,
    ...                          gradient_error=0.3, dimension=2, minimal_set="affine")
    >>> round(bound.value, 5)
    0.99998
    """
    steps, k = count("steps", steps, at_least=0), count("dimension", dimension)
    _declared(minimal_set)
    positive("noise", noise)
    v = 2 * _effective_variance(contraction, step_size, noise)
    odds = (1 + contraction**2) / (1 - contraction**2)
    effective = k + odds * (nonnegative("gradient_error", gradient_error) / noise) ** 2
    q = _normalised(positive("radius", radius), v)
    _in_core(start, radius, effective * v, q**2 >= effective)
    terms = {"steps": float(steps), "exit_per_step": _exit_per_step(q, effective)}
    return _stay_bound(
        "1 - steps * exit_per_step",
        terms,
        [
            _set_words(minimal_set, k),
            f"one step along the exact gradient shrinks the distance to at most {contraction:g} "
            "of it, everywhere in the tube",
            f"the gradient of the run is off by at most {gradient_error:g} across the piece, "
            "everywhere in the tube",
            f"the noise is Gaussian given the past, with at most {noise:g} of standard deviation "
            "in every direction across the piece",
            "no projection acts in the tube",
        ],
    )


def stagnation_radius(
    failure: float,
    *,
    steps: int,
    contraction: float,
    step_size: float,
    noise: float,
    dimension: int,
) -> float:
    r"""Radius of the tube in which a run stays for T steps with probability 1 - d.

    Parameters
    ----------
    failure : float
        d.
    steps, contraction, step_size, noise, dimension
        As for :func:`stay_bound`.

    Returns
    -------
    float
        :math:`r = \sqrt v\,(\sqrt k + \sqrt{2\ln(T/d)})`, at which :func:`stay_bound` is 1 - d.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range.

    Notes
    -----
    Derived here (stand-in; the text of Imaizumi and Schmidt-Hieber was not available to us).

    Examples
    --------
    >>> round(stagnation_radius(0.05, steps=1000, contraction=0.9, step_size=0.1, noise=1,
    ...                         dimension=10), 4)
    1.7465
    """
    steps, k = count("steps", steps), count("dimension", dimension)
    v = _effective_variance(contraction, step_size, noise)
    wanted = math.sqrt(2 * math.log(steps / share("failure", failure)))
    return math.sqrt(v) * (math.sqrt(k) + wanted)


def _declared(minimal_set: str) -> None:
    if minimal_set not in ("affine", "convex"):
        raise ValueError(
            f"minimal_set = {minimal_set!r}: the bound holds if the set of minimisers is 'affine' "
            "(or 'convex', with dimension = D), which you have to declare. On a curved set noise "
            "along it pushes the chain away from it: curved_offset predicts how far"
        )


def _effective_variance(contraction: float, step_size: float, noise: float) -> float:
    if not 0 <= contraction < 1:
        raise ValueError(
            f"contraction must lie in [0, 1), got {contraction}: the step does not shrink the "
            "distance; use a smaller step size"
        )
    kick = positive("step_size", step_size) * nonnegative("noise", noise)
    return kick**2 / (1 - contraction**2)


def _normalised(radius: float, variance: float) -> float:
    return radius / math.sqrt(variance) if variance else math.inf


def _exit_per_step(q: float, k: float) -> float:
    """Chance to leave at one step at most, or 1 where the theorem says nothing."""
    return math.exp(-((q - math.sqrt(k)) ** 2) / 2) if q**2 >= k else 1.0


def _in_core(start: float, radius: float, spread: float, says_something: bool) -> None:
    core = math.sqrt(radius * math.sqrt(spread)) if says_something else radius
    if nonnegative("start", start) > core:
        raise ValueError(
            f"the start lies at distance {start:g}, outside the core of radius {core:.4g}: the "
            "bound holds for runs that start in the core, or from their first step in it"
        )


def _outside(variances: NDArray[np.float64], radius: float, k: int) -> NDArray[np.float64]:
    """Probability that a centred Gaussian with these variances is further away than radius."""
    with np.errstate(divide="ignore"):
        return np.asarray(gammaincc(k / 2, radius**2 / (2 * variances)), dtype=np.float64)


def _product(outside: NDArray[np.float64]) -> float:
    with np.errstate(divide="ignore"):
        return float(np.exp(np.log1p(-outside).sum()))


def _set_words(minimal_set: MinimalSet, k: int) -> str:
    if minimal_set == "affine":
        return f"the set of minimisers is affine, with {k} directions across it (declared)"
    return f"the set of minimisers is closed and convex, in {k} dimensions (declared)"


def _stay_bound(formula: str, terms: dict[str, float], assumptions: list[str]) -> StayBound:
    value = float(eval(formula, {"__builtins__": {}}, dict(terms)))
    return StayBound(value, MappingProxyType(terms), formula, tuple(assumptions), STAND_IN)
