"""The whole spectrum from a few random vectors: stochastic Lanczos quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gencoh_lib._lanczos import lanczos
from gencoh_lib._operator import Operator
from gencoh_lib._whole import whole

__all__ = ["MeanEstimate", "SpectralDensity", "spectral_density", "trace"]


@dataclass(frozen=True)
class MeanEstimate:
    """A mean over independent random draws, with its standard error.

    Attributes
    ----------
    value : float
        The mean, unbiased.
    standard_error : float
        Of the mean; NaN for a single draw.
    draws : int
        How many.
    """

    value: float
    standard_error: float
    draws: int

    @classmethod
    def of(cls, draws: Tensor) -> MeanEstimate:
        """Summarise independent draws [p]."""
        count = len(draws)
        error = float(draws.std()) / math.sqrt(count) if count > 1 else math.nan
        return cls(float(draws.mean()), error, count)

    def __repr__(self) -> str:
        return (
            f"{self.value:.6g} ± {self.standard_error:.2g} (one standard error, {self.draws} draws)"
        )


@dataclass(frozen=True, eq=False)
class SpectralDensity:
    r"""Where the eigenvalues of a large matrix lie, as a weighted set of points for each probe.

    Attributes
    ----------
    nodes : Tensor
        [p, s] float64: for each of p random vectors, s points on the axis of eigenvalues.
    weights : Tensor
        [p, s] their weights, not negative and summing to 1 in each row; 0 where a probe ended
        early because its Krylov space was invariant.
    size : int
        D, the number of eigenvalues that the weights stand for.
    products : int
        How many were spent.
    """

    nodes: Tensor
    weights: Tensor
    size: int
    products: int

    def mean_of(self, function: Callable[[Tensor], Tensor]) -> MeanEstimate:
        r"""Mean of a function over the spectrum, :math:`\operatorname{tr} f(A) / D`.

        Each probe is exact in what it estimates, :math:`z^\top f(A) z`, for polynomials of degree
        up to 2s - 1; the standard error is over probes and does not show what s is too small for.
        """
        values = torch.as_tensor(function(self.nodes)).to(self.nodes)
        return MeanEstimate.of((self.weights * values).sum(1))

    def share_above(self, threshold: float) -> MeanEstimate:
        """Share of the eigenvalues above a threshold; times ``size`` it is their number."""
        return self.mean_of(lambda nodes: (nodes > threshold).double())

    def smoothed(
        self, points: Sequence[float] | NDArray[np.float64], width: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Density of eigenvalues at some points, each node widened to a Gaussian.

        Parameters
        ----------
        points : sequence of float
            [n] where to evaluate it.
        width : float
            Standard deviation of the Gaussian, in units of the eigenvalues.

        Returns
        -------
        tuple of numpy.ndarray
            The density [n], which integrates to 1, and its standard error over probes [n].

        Raises
        ------
        ValueError
            If the width is not a positive number.
        """
        if not (math.isfinite(width) and width > 0):
            raise ValueError(f"width must be a positive number, got {width}")
        at = torch.as_tensor(np.asarray(points, dtype=float))
        apart = (at[:, None, None] - self.nodes) / width
        bells = torch.exp(-(apart**2) / 2) / (width * math.sqrt(2 * math.pi))
        draws = (bells * self.weights).sum(2)  # [n, p]
        error = draws.std(1) / math.sqrt(len(self.nodes))
        return draws.mean(1).numpy(), error.numpy()

    def __repr__(self) -> str:
        probes, steps = self.nodes.shape
        present = self.nodes[self.weights > 0]
        return "\n".join(
            [
                f"spectral density of {self.size:,} eigenvalues",
                f"  {probes} probes of up to {steps} steps, {self.products} products",
                f"  nodes from {float(present.min()):.4g} to {float(present.max()):.4g}",
                f"  mean eigenvalue {self.mean_of(lambda nodes: nodes)!r}",
            ]
        )


def spectral_density(
    operator: Operator, *, probes: int = 8, steps: int = 40, seed: int = 0
) -> SpectralDensity:
    r"""Estimate how the eigenvalues are distributed, by stochastic Lanczos quadrature.

    Parameters
    ----------
    operator : Operator
        A, symmetric, [D, D].
    probes : int
        p, the number of random vectors, with independent signs as entries.
    steps : int
        s, Lanczos steps for each of them.
    seed : int
        Of the vectors.

    Returns
    -------
    SpectralDensity
        After p s products.

    Raises
    ------
    ValueError
        If there is no probe or no step.

    Notes
    -----
    For a probe z, of length 1, with eigenvectors u_i,

    .. math:: z^\top f(A) z = \sum_i f(\lambda_i) \langle z, u_i\rangle^2
        \approx \sum_{j=1}^{s} \tau_j^2 f(\theta_j)

    with eigenvalues :math:`\theta_j` of Lanczos' tridiagonal matrix and first entries
    :math:`\tau_j` of its eigenvectors: the Gauss quadrature of that measure, exact up to degree
    2s - 1 (Golub and Welsch 1969; Golub and Meurant 1994). Its mean over z is
    :math:`\operatorname{tr} f(A)/D` (Ubaru, Chen and Saad 2017; for networks, Ghorbani,
    Krishnan and Xiao 2019).

    Examples
    --------
    >>> import torch
    >>> A = Operator.of_matrix(torch.diag(torch.arange(1.0, 6.0).double()))
    >>> density = spectral_density(A, probes=4, steps=5)
    >>> round(density.mean_of(lambda nodes: nodes**2).value, 9)  # (1 + 4 + 9 + 16 + 25) / 5
    11.0
    """
    for name, value in (("probes", probes), ("steps", steps)):
        if whole(name, value) < 1:
            raise ValueError(f"{name} must be a whole number >= 1, got {value}")
    generator = torch.Generator().manual_seed(seed)
    nodes = torch.zeros(probes, steps, dtype=torch.float64)
    weights = torch.zeros_like(nodes)
    products = 0
    for row in range(probes):
        space = lanczos(operator, steps, start=_signs(operator, generator))
        values, coefficients = space.ritz()
        nodes[row, : len(values)] = values
        weights[row, : len(values)] = coefficients[0] ** 2
        products += len(values)
    return SpectralDensity(nodes, weights, operator.size, products)


def trace(operator: Operator, *, probes: int = 16, seed: int = 0) -> MeanEstimate:
    r"""Estimate the trace of a matrix from its products with random signs.

    Parameters
    ----------
    operator : Operator
        A, symmetric.
    probes : int
        Number of random vectors, and of products.
    seed : int
        Of the vectors.

    Returns
    -------
    MeanEstimate
        Exact for a diagonal matrix.

    Raises
    ------
    ValueError
        If there is no probe.

    Notes
    -----
    .. math:: \operatorname{tr} A = \mathbb E\, z^\top A z, \qquad
        \operatorname{Var} z^\top A z = 2 \sum_{i \ne j} A_{ij}^2

    for independent signs z (Hutchinson 1990).

    Examples
    --------
    >>> import torch
    >>> trace(Operator.of_matrix(torch.diag(torch.tensor([1.0, 2.0, 4.0]))), probes=2).value
    7.0
    """
    if whole("probes", probes) < 1:
        raise ValueError(f"probes must be a whole number >= 1, got {probes}")
    generator = torch.Generator().manual_seed(seed)
    drawn = [_signs(operator, generator) for _ in range(probes)]
    forms = [float(torch.linalg.vecdot(operator(z).double(), z.double())) for z in drawn]
    return MeanEstimate.of(torch.tensor(forms, dtype=torch.float64))


def _signs(operator: Operator, generator: torch.Generator) -> Tensor:
    """Independent signs, the same on every device."""
    signs = torch.randint(2, (operator.size,), generator=generator) * 2 - 1
    return signs.to(operator.device, operator.dtype)
