"""Upper bounds on the risk or the generalisation gap, as numbers that can be taken apart.

A bound is only as honest as its parts: it comes as a :class:`Bound`, which names the factors, the
formula that puts them together, what was assumed, and whether the result says anything at all.
Where a source leaves its constants open, the result is of an order only and says so.
:func:`compare` puts the bounds for one trained network side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import MappingProxyType

import numpy as np

from gencoh_lib._bound import Bound
from gencoh_lib._capacity_bounds import finite_class, growth_function, log_relu_patterns, vc_order
from gencoh_lib._comparison import Comparison, compare
from gencoh_lib._holdout_bounds import holdout
from gencoh_lib._kl_inverse import binary_kl, binomial_upper, kl_inverse
from gencoh_lib._norm_bounds import frobenius_rademacher, golowich_order, norm_margin
from gencoh_lib._pac_bayes import gaussian_pac_bayes, pac_bayes
from gencoh_lib._path_bounds import two_phase_margin, two_phase_squared, validation
from gencoh_lib._spectral_bounds import spectral_complexity, spectral_margin, spectral_margin_order
from gencoh_lib._spectral_pac_bayes import pac_bayes_spectral, pac_bayes_spectral_order

__all__ = [
    "Bound",
    "Comparison",
    "binary_kl",
    "binomial_upper",
    "coherence_stability",
    "compare",
    "finite_class",
    "frobenius_rademacher",
    "gaussian_pac_bayes",
    "golowich_order",
    "growth_function",
    "holdout",
    "kl_inverse",
    "log_relu_patterns",
    "norm_margin",
    "pac_bayes",
    "pac_bayes_spectral",
    "pac_bayes_spectral_order",
    "spectral_complexity",
    "spectral_margin",
    "spectral_margin_order",
    "two_phase_margin",
    "two_phase_squared",
    "validation",
    "vc_order",
]

for _object in (
    Bound, Comparison, binary_kl, binomial_upper, compare, finite_class, frobenius_rademacher,
    gaussian_pac_bayes, golowich_order, growth_function, holdout, kl_inverse, log_relu_patterns,
    norm_margin, pac_bayes, pac_bayes_spectral, pac_bayes_spectral_order, spectral_complexity,
    spectral_margin, spectral_margin_order, two_phase_margin, two_phase_squared, validation,
    vc_order,
):  # fmt: skip
    _object.__module__ = __name__  # their public name, in tracebacks and in the API reference


def coherence_stability(
    alphas: Sequence[float],
    learning_rates: float | Sequence[float],
    *,
    lipschitz: float,
    smoothness: float,
    examples: int,
    trivial: float = 1.0,
) -> Bound:
    r"""Bound on the expected generalisation gap by the coherence along the run.

    Parameters
    ----------
    alphas : sequence of float
        [T] coherence :math:`\alpha(w_{t-1})` of the distribution of per-example gradients before
        step t = 1..T; on a sample, ``alpha_corrected`` estimates it.
    learning_rates : float or sequence of float
        Step size :math:`\eta_t`, one for all steps or [T].
    lipschitz : float
        L: no per-example gradient is longer.
    smoothness : float
        :math:`\beta`: Lipschitz constant of the per-example gradients.
    examples : int
        m, the size of the training sample.
    trivial : float
        Largest value that the gap can take (1 for a loss between 0 and 1).

    Returns
    -------
    Bound
        With terms ``sensitivity`` :math:`= L^2/m` and ``amplified_disagreement``, the sum over t.

    Raises
    ------
    ValueError
        If a coherence lies outside [0, 1], a constant is negative or not finite, or the lengths
        differ.

    Notes
    -----
    .. math:: |\mathrm{gap}| \le \frac{L^2}{m} \sum_{t=1}^{T}
        \Bigl[\prod_{k=t+1}^{T} (1+\eta_k\beta)\Bigr]\, \eta_t \sqrt{2(1-\alpha(w_{t-1}))}

    Chatterjee and Zielinski (2022), their stability theorem as reported by Walker (2023); the
    proof is re-derived in the course. The product grows like :math:`e^{T\eta\beta}`: for real
    networks the value is vacuous, and it is meant to be read, not to be used.

    Examples
    --------
    >>> bound = coherence_stability([0.5] * 10, 0.1, lipschitz=1, smoothness=1, examples=100)
    >>> round(bound.value, 8)
    0.01593742
    """
    alpha = np.asarray(alphas, dtype=float)
    if alpha.ndim != 1 or not len(alpha):
        raise ValueError(f"alphas must be a sequence of T >= 1 values, got shape {alpha.shape}")
    if np.isnan(alpha).any():
        raise ValueError("alphas hold NaN: where all gradients vanish there is no coherence")
    if not ((alpha >= 0) & (alpha <= 1)).all():
        raise ValueError(
            "alphas must lie in [0, 1]; is this m-coherence? Then divide by m. "
            f"Got values from {alpha.min():g} to {alpha.max():g}"
        )
    rates = np.asarray(learning_rates, dtype=float)
    if rates.ndim and rates.shape != alpha.shape:
        raise ValueError(f"{len(alpha)} alphas but learning_rates of shape {rates.shape}")
    if not (np.isfinite(rates) & (rates >= 0)).all():
        raise ValueError("learning_rates must be finite and not negative")
    for name, constant in (("lipschitz", lipschitz), ("smoothness", smoothness)):
        if not (math.isfinite(constant) and constant >= 0):
            raise ValueError(f"{name} must be a finite number >= 0, got {constant}")
    if not isinstance(examples, int) or examples < 1:
        raise ValueError(f"examples must be a whole number >= 1, got {examples!r}")
    if not trivial > 0:
        raise ValueError(f"trivial must be a positive number, got {trivial}")
    distance = 0.0  # of the twin runs, in units of L/m: the unrolled sum, step by step
    for eta, a in zip(np.broadcast_to(rates, alpha.shape), alpha, strict=True):
        distance = distance * (1 + float(eta) * smoothness) + float(eta) * math.sqrt(2 * (1 - a))
    terms = {"sensitivity": lipschitz**2 / examples, "amplified_disagreement": distance}
    return Bound(
        value=terms["sensitivity"] * terms["amplified_disagreement"],
        terms=MappingProxyType(terms),
        formula="sensitivity * amplified_disagreement",
        assumptions=(
            f"every per-example gradient is at most {lipschitz:g} long",
            f"every per-example gradient is {smoothness:g}-Lipschitz in the parameters",
            "plain (stochastic) gradient descent from a fixed start, batches blind to the data",
            "alphas are those of the distribution, averaged over runs; the plug-in value of a "
            "sample is larger by about (1 - alpha)/m",
            "the gap is the expected, signed one",
            "the replaced example and its replacement are exchangeable given the parameters "
            "(exact for a first pass over the data)",
        ),
        trivial=trivial,
        source="Chatterjee and Zielinski (2022), as reported by Walker (2023); proof re-derived",
    )
