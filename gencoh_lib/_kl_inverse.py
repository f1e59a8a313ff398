"""Divergences between coins, and their inverses rounded outward, behind `gencoh_lib.bounds`."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from gencoh_lib._bound import count, fraction

_ROUNDING = 2.0**-53
_SMALLEST = 1e-300  # what is smaller overflows when it is divided by


def binary_kl(risk: float, other: float) -> float:
    r"""Divergence between two coins, kl(q || p).

    Parameters
    ----------
    risk, other : float
        q and p, probabilities.

    Returns
    -------
    float
        :math:`q\ln\frac qp + (1-q)\ln\frac{1-q}{1-p}`, infinite where p rules q out.

    Raises
    ------
    ValueError
        If a number does not lie between 0 and 1.

    Examples
    --------
    >>> round(binary_kl(0.1, 0.2), 9)
    0.036690014
    """
    q, p = fraction("risk", risk), fraction("other", other)
    if q > p:
        q, p = 1 - q, 1 - p
    gain, loss = _parts(q, p)
    return max(gain - loss, 0.0)


def kl_inverse(risk: float, budget: float) -> float:
    r"""Largest risk that a divergence allows, rounded up.

    Parameters
    ----------
    risk : float
        q, the empirical risk.
    budget : float
        c, the divergence that is allowed.

    Returns
    -------
    float
        A p in [q, 1] with :math:`\mathrm{kl}(q\,\|\,p) \ge c` in exact arithmetic, or 1; larger
        than the :math:`\sup\{p : \mathrm{kl}(q\,\|\,p) \le c\}` that is meant by rounding alone.

    Raises
    ------
    ValueError
        If `risk` does not lie between 0 and 1, or `budget` is negative or NaN.

    Examples
    --------
    >>> round(kl_inverse(0.0, 0.01), 9)  # 1 - exp(-c)
    0.009950166
    """
    q = fraction("risk", risk)
    if not budget >= 0:
        raise ValueError(f"budget must be a number >= 0, got {budget}")

    if 0 < q < _SMALLEST:
        q = _SMALLEST

    def is_beyond(p: float) -> bool:
        gain, loss = _parts(q, p)
        return gain - loss - 16 * _ROUNDING * (gain + loss) >= budget

    return q if budget == 0 else _first(is_beyond, q)


def binomial_upper(errors: int, examples: int, delta: float) -> float:
    r"""Largest risk for which so few errors are not too unlikely, rounded up.

    Parameters
    ----------
    errors, examples : int
        k wrong ones among m independent examples.
    delta : float
        Probability that is too unlikely.

    Returns
    -------
    float
        A p with :math:`P[\mathrm{Bin}(m, p) \le k] \le \delta`, the smallest but for rounding;
        1 if k = m. This is the upper end of the interval of Clopper and Pearson (1934).

    Raises
    ------
    TypeError, ValueError
        If a number is out of range.

    Examples
    --------
    >>> round(binomial_upper(0, 100, 0.05), 9)  # 1 - delta^(1/m)
    0.02951305
    """
    m, k = count("examples", examples), count("errors", errors, least=0)
    if k > m:
        raise ValueError(f"errors must be at most examples = {m}, got {k}")
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie strictly between 0 and 1, got {delta}")
    if k == m:
        return 1.0
    lower = np.arange(k, 0, -1, dtype=float)
    shrinking = lower / (m - lower + 1)  # P[Bin = j - 1] / P[Bin = j], but for the odds of p
    choose = math.lgamma(m + 1) - math.lgamma(k + 1) - math.lgamma(m - k + 1)
    slack = 32 * _ROUNDING * (m + 2) * math.log(m + 2)  # of the three, of k logs, and of the sum

    def is_beyond(p: float) -> bool:
        if p == 1:
            return True
        tail = 1.0 + float(np.cumprod(shrinking * ((1 - p) / p)).sum())
        log_tail = choose + k * math.log(p) + (m - k) * math.log1p(-p) + math.log(tail)
        size = k * abs(math.log(p)) + (m - k) * abs(math.log1p(-p))
        return log_tail + slack + 8 * _ROUNDING * size <= math.log(delta)

    return _first(is_beyond, k / m)


def _parts(q: float, p: float) -> tuple[float, float]:
    """Gain and loss with kl(q || p) = gain - loss for q <= p: each to eight roundings."""
    distance = p - q
    if distance == 0:
        return 0.0, 0.0
    if p == 1:
        return math.inf, 0.0
    gain = (1 - q) * math.log1p(distance / (1 - p))
    return gain, (q * math.log1p(distance / q) if q else 0.0)


def _first(is_beyond: Callable[[float], bool], low: float) -> float:
    """Halve (low, 1] down to neighbouring floats; the result is beyond, or 1."""
    high = 1.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if is_beyond(middle) else (middle, high)
    return high
