"""The length of a shifted Gaussian vector, behind :mod:`gencoh_lib.stagnation`."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, ive

Array = NDArray[np.float64]


def radius_density(radius: Array, shift: Array, scale: float, dimension: int) -> Array:
    r"""Density at `radius` of :math:`\lVert a + s z\rVert`, with |a| = `shift` and s = `scale`.

    In :math:`k` dimensions and with :math:`\nu = k/2 - 1`, :math:`\zeta = ra/s^2`,

    .. math:: \frac{r}{s^2} \Bigl(\frac{r}{a}\Bigr)^{\nu} e^{-(r^2+a^2)/2s^2} I_\nu(\zeta).
    """
    r, a = np.broadcast_arrays(radius / scale, shift / scale)
    if dimension == 1:  # folded: the Bessel function of order -1/2 is infinite at 0
        gauss = np.exp(-((r - a) ** 2) / 2) + np.exp(-((r + a) ** 2) / 2)
        return np.asarray(gauss / (math.sqrt(2 * math.pi) * scale))
    nu, z = dimension / 2 - 1, r * a
    # Written with I_nu(z) (2/z)^nu, which is regular at 0.
    exponent = -((r - a) ** 2) / 2 + (dimension - 1) * np.log(r) - nu * math.log(2)
    return np.asarray(np.exp(exponent + _log_regular_bessel(nu, z)) / scale)


def _log_regular_bessel(nu: float, z: Array) -> Array:
    r"""Return the logarithm of :math:`e^{-z} I_\nu(z) (2/z)^\nu`."""
    scaled = ive(nu, z)
    underflows = (scaled < 1e-250) | (z == 0)  # there the power series is short
    z, short = np.where(underflows, 1.0, z), np.where(underflows, z, 0.0)
    found = np.log(np.where(underflows, 1.0, scaled)) - nu * np.log(z / 2)
    if underflows.any():
        quarter, term, total, j = short**2 / 4, np.ones_like(short), np.ones_like(short), 1
        while (term > 1e-18 * total).any():
            term = term * quarter / (j * (nu + j))
            total, j = total + term, j + 1
        found = np.where(underflows, np.log(total) - gammaln(nu + 1) - short, found)
    return np.asarray(found)
