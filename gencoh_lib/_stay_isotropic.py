"""Lower bounds on staying in a tube under isotropic noise, by comparison with the linear chain.

The public names are those of :mod:`gencoh_lib.stagnation`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincc, gammaln

from gencoh_lib._linear_chain import LinearChain
from gencoh_lib._noisy_sgd import DecayingSteps, StepSize, step_sizes
from gencoh_lib._numbers import count, nonnegative, positive
from gencoh_lib._stay_bound import (
    MinimalSet,
    StayBound,
    assembled,
    contraction,
    declared,
    effective_variance,
    set_words,
)

_LAST_STEP = 2**17  # after so many steps the tail of an endless product is bounded in one piece


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
    declared(minimal_set)
    v = effective_variance(contraction, step_size, noise)
    if nonnegative("start", start) > positive("radius", radius):
        raise ValueError(f"the start, at distance {start:g}, lies outside the tube of {radius:g}")
    chain = LinearChain.from_contraction(contraction, step_size=step_size, noise=noise, dimension=k)
    terms = {"linear_chain": chain.stay(radius, steps, start)}
    if start == 0:
        v_t = v * -np.expm1(2 * np.arange(1, steps + 1) * math.log(contraction or 1e-300))
        late = float(_outside(np.array([v]), radius, k)[0])
        terms["product"] = _product(_outside(v_t, radius, k))
        terms["power"] = math.exp(steps * math.log1p(-late)) if late < 1 else float(steps == 0)
        terms["union"] = 1 - steps * late
    return assembled(
        "linear_chain",
        terms,
        [
            set_words(minimal_set, k),
            f"one step without noise shrinks the distance to at most {contraction:g} of it, "
            "everywhere in the tube",
            f"the noise is Gaussian given the past, isotropic, with a standard deviation of "
            f"{noise:g} in each coordinate",
            "no projection acts in the tube",
        ],
    )


def stay_bound_decaying(
    radius: float,
    *,
    steps: float,
    mu: float,
    lipschitz: float,
    step_size: StepSize,
    noise: float,
    dimension: int,
    minimal_set: MinimalSet,
    symmetric: bool = False,
) -> StayBound:
    r"""Lower bound on staying for isotropic Gaussian noise and steps that change, even for ever.

    Parameters
    ----------
    radius, dimension, minimal_set
        As for :func:`stay_bound`.
    steps : int or math.inf
        T; without end only with :class:`DecayingSteps`.
    mu, lipschitz, symmetric
        As for :func:`contraction`, which gives :math:`\rho_t` for each step.
    step_size : float, sequence or callable
        :math:`\eta_t` at t = 0, 1, ...
    noise : float
        :math:`\sigma`: the noise has the covariance :math:`\sigma^2 I`, exactly.

    Returns
    -------
    StayBound
        With the term ``product`` and, for ever, ``tail``. The start lies on the piece.

    Raises
    ------
    TypeError, ValueError
        If the minimal set is declared neither affine nor convex, a number is out of range, or the
        run is endless and the steps are not :class:`DecayingSteps` with a power of at most 1.

    Notes
    -----
    With :math:`v_0 = 0` and :math:`v_{t+1} = \rho_t^2 v_t + \eta_t^2\sigma^2`,

    .. math:: P(\text{stay } T) \ge \prod_{t=1}^{T} F_k(r^2/v_t).

    For ever, the product runs to a step :math:`T_0`, from where on :math:`v_t \le A\eta_t`, and
    the tail is :math:`\int_{T_0}^\infty (1-F_k(r^2/A\eta_t))\,dt` in closed form. It is positive
    as soon as the steps shrink like a power, and 0 for constant steps. Derived here (stand-in; the
    text of Imaizumi and Schmidt-Hieber was not available to us).

    Examples
    --------
    >>> import math
    >>> bound = stay_bound_decaying(1.2, steps=math.inf, mu=1, lipschitz=1, noise=1, dimension=1,
    ...                             step_size=DecayingSteps(0.2, 50, 0.75), minimal_set="affine")
    >>> round(bound.value, 6)
    0.997873
    """
    k = count("dimension", dimension)
    declared(minimal_set)
    positive("radius", radius), nonnegative("noise", noise)

    def spread(number: int) -> NDArray[np.float64]:
        sizes = step_sizes(step_size, number).tolist()
        variance, found = 0.0, []
        for eta in sizes:
            rho = contraction(eta, mu=mu, lipschitz=lipschitz, symmetric=symmetric) if eta else 1
            variance = rho**2 * variance + (eta * noise) ** 2
            found.append(variance)
        return np.array(found)

    if steps == math.inf:
        terms = _endless(radius, spread, k, noise, mu, lipschitz, step_size)
    else:
        terms = {"product": _product(_outside(spread(count("steps", steps, 0)), radius, k))}
    return assembled(
        "product * (1 - tail)" if "tail" in terms else "product",
        terms,
        [
            set_words(minimal_set, k),
            "the run starts on it",
            f"across it the loss pulls back with mu = {mu:g} and is {lipschitz:g}-smooth, "
            "everywhere in the tube",
            f"the noise is Gaussian given the past, isotropic, with a standard deviation of "
            f"{noise:g} in each coordinate",
            "no projection acts in the tube",
        ],
    )


def _endless(
    radius: float,
    spread: Callable[[int], NDArray[np.float64]],
    k: int,
    noise: float,
    mu: float,
    lipschitz: float,
    step_size: StepSize,
) -> dict[str, float]:
    if not isinstance(step_size, DecayingSteps) or step_size.power > 1:
        raise ValueError(
            "steps without end need step_size = DecayingSteps(...) with a power of at most 1: "
            "no other tail is known"
        )
    last = 1024
    while True:
        variances = spread(last)
        tail = _tail(radius, float(variances[-1]), last, k, noise, mu, lipschitz, step_size)
        if tail < 1e-12 or last >= _LAST_STEP or not step_size.power:
            return {"product": _product(_outside(variances, radius, k)), "tail": min(tail, 1.0)}
        last *= 2


def _tail(
    radius: float,
    variance: float,
    last: int,
    k: int,
    noise: float,
    mu: float,
    lipschitz: float,
    steps: DecayingSteps,
) -> float:
    """Bound the sum of the chances to be outside after step `last`, or say 1 if that is unknown."""
    eta, age, a = steps(last), 1 + last / steps.scale, steps.power
    pull = 2 * mu - eta * lipschitz**2 - a * age ** (a - 1) / (steps.scale * steps.first)
    if pull <= 0 or not a:
        return 1.0
    ratio = max(variance / eta, noise**2 / pull)  # v_t <= ratio * eta_t from here on
    if not ratio:
        return 0.0
    y = radius**2 / (ratio * eta)
    # E[Y^(1/a); Y > y] for Y chi-squared, against y^(1/a) P(Y > y), in units of y^(1/a) / age
    moment = math.exp(gammaln(k / 2 + 1 / a) - gammaln(k / 2) + math.log(2 / y) / a) * float(
        gammaincc(k / 2 + 1 / a, y / 2)
    )
    return max(0.0, steps.scale * age * (moment - float(gammaincc(k / 2, y / 2))))


def _outside(variances: NDArray[np.float64], radius: float, k: int) -> NDArray[np.float64]:
    """Probability that a centred Gaussian with these variances is further away than radius."""
    with np.errstate(divide="ignore"):
        return np.asarray(gammaincc(k / 2, radius**2 / (2 * variances)), dtype=np.float64)


def _product(outside: NDArray[np.float64]) -> float:
    with np.errstate(divide="ignore"):
        return float(np.exp(np.log1p(-outside).sum()))
