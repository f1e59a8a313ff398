"""Lower bounds on staying in a tube under any Gaussian noise that is small enough.

The public names are those of :mod:`gencoh_lib.stagnation`.
"""

from __future__ import annotations

import math

from gencoh_lib._numbers import count, nonnegative, positive, share
from gencoh_lib._stay_bound import (
    MinimalSet,
    StayBound,
    assembled,
    declared,
    effective_variance,
    set_words,
)


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
    declared(minimal_set)
    v = effective_variance(contraction, step_size, noise)
    q = _normalised(positive("radius", radius), v)
    _in_core(start, radius, k * v, q**2 >= k)
    terms = {"steps": float(steps), "exit_per_step": _exit_per_step(q, k)}
    return assembled(
        "1 - steps * exit_per_step",
        terms,
        [
            set_words(minimal_set, k),
            f"one step without noise shrinks the distance to at most {contraction:g} of it, "
            "everywhere in the tube",
            f"the noise is Gaussian given the past, with at most {noise:g} of standard deviation "
            "in every direction across the piece",
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
    declared(minimal_set)
    positive("noise", noise)
    v = 2 * effective_variance(contraction, step_size, noise)
    odds = (1 + contraction**2) / (1 - contraction**2)
    effective = k + odds * (nonnegative("gradient_error", gradient_error) / noise) ** 2
    q = _normalised(positive("radius", radius), v)
    _in_core(start, radius, effective * v, q**2 >= effective)
    terms = {"steps": float(steps), "exit_per_step": _exit_per_step(q, effective)}
    return assembled(
        "1 - steps * exit_per_step",
        terms,
        [
            set_words(minimal_set, k),
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
    v = effective_variance(contraction, step_size, noise)
    wanted = math.sqrt(2 * math.log(steps / share("failure", failure)))
    return math.sqrt(v) * (math.sqrt(k) + wanted)


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
