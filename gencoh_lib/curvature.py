"""Curvature of a loss: products with its Hessian, the ends of the spectrum, and all of it.

Nothing here forms the D x D matrix of second derivatives. :func:`hessian` and
:func:`gauss_newton` keep one graph and multiply it with vectors; :func:`eigenpairs`,
:func:`spectral_density` and :func:`trace` ask for such products and nothing else, and say how
sure they are: residuals where the answer is an eigenvalue, standard errors where it is a mean over
random vectors.
"""

from __future__ import annotations

from gencoh_lib._eigenpairs import Eigenpairs, eigenpairs
from gencoh_lib._hessian_products import gauss_newton, hessian
from gencoh_lib._lanczos import Krylov, lanczos
from gencoh_lib._operator import Operator, mean_operator
from gencoh_lib._spectral_density import MeanEstimate, SpectralDensity, spectral_density, trace

__all__ = [
    "Eigenpairs",
    "Krylov",
    "MeanEstimate",
    "Operator",
    "SpectralDensity",
    "eigenpairs",
    "gauss_newton",
    "hessian",
    "lanczos",
    "mean_operator",
    "spectral_density",
    "trace",
]

for _object in (
    Eigenpairs, Krylov, MeanEstimate, Operator, SpectralDensity, eigenpairs, gauss_newton,
    hessian, lanczos, mean_operator, spectral_density, trace,
):  # fmt: skip
    _object.__module__ = __name__  # their public name, in tracebacks and in the API reference
