"""How many directions a run explores, beside a random walk, which explores none on purpose.

The public names are those of :mod:`gencoh_lib.stagnation`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gencoh_lib._dataset import listing
from gencoh_lib._numbers import count, share
from gencoh_lib._tubes import Tube


@dataclass(frozen=True, eq=False, repr=False)
class ExploredDimension:
    """What the principal components of a run say, and what they say of a random walk.

    Attributes
    ----------
    shares, null_shares : Tensor
        [r] share of the variance in each principal component, the largest first, of the run and
        of a random walk of the same shape.
    n90, null_n90 : int
        Components that hold 90% of the variance.
    participation_ratio, null_participation_ratio : float
        Squared sum of the component variances over the sum of their squares.
    share_in_basis, null_share_in_basis : float or None
        Share of the variance inside the given basis.
    chains, steps, dimension : int
        What was looked at.

    Examples
    --------
    >>> import torch
    >>> line = torch.linspace(0, 1, 50)[:, None] * torch.eye(1, 100)
    >>> explored_dimension(line)
    explored dimension: 1 chain of 50 positions in 100 dimensions
                           run   random walk
      first component   100.0%         54.3%
      second component    0.0%         20.6%
      n90                    1             6
      participation          1          2.88
    """

    shares: Tensor
    null_shares: Tensor
    n90: int
    null_n90: int
    participation_ratio: float
    null_participation_ratio: float
    share_in_basis: float | None
    null_share_in_basis: float | None
    chains: int
    steps: int
    dimension: int

    def __repr__(self) -> str:
        def percent(shares: Tensor, j: int) -> str:
            return f"{100 * float(shares[j]):.1f}%" if j < len(shares) else "none"

        rows: list[tuple[str, str, str]] = [
            ("", "run", "random walk"),
            ("first component", percent(self.shares, 0), percent(self.null_shares, 0)),
            ("second component", percent(self.shares, 1), percent(self.null_shares, 1)),
            ("n90", f"{self.n90}", f"{self.null_n90}"),
            (
                "participation",
                f"{self.participation_ratio:.3g}",
                f"{self.null_participation_ratio:.3g}",
            ),
        ]
        if self.share_in_basis is not None and self.null_share_in_basis is not None:
            own, null = 100 * self.share_in_basis, 100 * self.null_share_in_basis
            rows.append(("in the basis", f"{own:.1f}%", f"{null:.1f}%"))
        chains = "1 chain" if self.chains == 1 else f"{self.chains} chains"
        title = f"explored dimension: {chains} of {self.steps} positions in {self.dimension}"
        return "\n".join([f"{title} dimensions", *(f"  {a:<16}{b:>8}{c:>14}" for a, b, c in rows)])


def explored_dimension(
    positions: Tensor, *, basis: Tensor | None = None, seed: int = 0
) -> ExploredDimension:
    r"""Principal components of the positions of a run, with the random-walk null beside them.

    Parameters
    ----------
    positions : Tensor
        [T, D] or, pooled, [chains, T, D]: what a run visited after its burn-in.
    basis : Tensor, optional
        [D, k] orthonormal columns, such as the top eigenvectors of the Hessian: also report the
        share of the variance in their span.
    seed : int
        Seed of the random walk.

    Returns
    -------
    ExploredDimension

    Raises
    ------
    TypeError, ValueError
        If the shape is another, positions are not finite, all are the same, or the columns of
        `basis` are not orthonormal.

    Notes
    -----
    Eigenvalues of the smaller of the Gram and the covariance matrix of the centred positions. The
    null walk has the same number of chains, steps and dimensions, independent Gaussian steps in
    all directions and no structure at all; yet its first component holds about
    :math:`6/\pi^2 = 61\%` of the variance, see :func:`random_walk_shares`: a trajectory that looks
    low-dimensional proves nothing by itself.

    Examples
    --------
    >>> import torch
    >>> walk = torch.randn(200, 300, generator=torch.Generator().manual_seed(1)).cumsum(0)
    >>> found = explored_dimension(walk)
    >>> found.n90, found.null_n90
    (6, 6)
    """
    if not isinstance(positions, Tensor) or not positions.is_floating_point():
        raise TypeError("positions must be a floating-point tensor, [T, D] or [chains, T, D]")
    pooled = positions[None] if positions.ndim == 2 else positions
    if pooled.ndim != 3 or pooled.shape[1] < 2:
        raise ValueError(
            f"positions must be of shape [T, D] or [chains, T, D] with T >= 2, got "
            f"{tuple(positions.shape)}"
        )
    if not pooled.isfinite().all():
        raise ValueError("positions are not finite: the run diverged")
    if basis is not None:
        Tube(pooled.new_zeros(pooled.shape[2]), 1.0, normal=basis.to(pooled))  # refuses a bad one
    generator = torch.Generator(pooled.device).manual_seed(seed)
    steps = torch.randn(pooled.shape, generator=generator, dtype=pooled.dtype, device=pooled.device)
    found, inside = _components(pooled, basis)
    null, null_inside = _components(steps.cumsum(1), basis)
    chains, length, dimension = pooled.shape
    return ExploredDimension(
        shares=found,
        null_shares=null,
        n90=_n90(found),
        null_n90=_n90(null),
        participation_ratio=_participation(found),
        null_participation_ratio=_participation(null),
        share_in_basis=inside,
        null_share_in_basis=null_inside,
        chains=chains,
        steps=length,
        dimension=dimension,
    )


def random_walk_shares(number: int) -> NDArray[np.float64]:
    r"""Shares of variance in the principal components of a long random walk in many dimensions.

    Parameters
    ----------
    number : int
        How many components.

    Returns
    -------
    ndarray
        [number] :math:`6/(\pi^2 j^2)` for j = 1, 2, ...

    Raises
    ------
    TypeError, ValueError
        If `number` is not a whole number >= 1.

    Notes
    -----
    The limit of many dimensions, then many steps: the centred walk has the covariance of a
    Brownian motion minus its mean, whose eigenvalues go like :math:`1/(\pi j)^2` and sum to 1/6.
    After Antognini and Sohl-Dickstein (2018).

    Examples
    --------
    >>> random_walk_shares(3).round(3).tolist()
    [0.608, 0.152, 0.068]
    """
    return 6 / (math.pi * np.arange(1.0, count("number", number) + 1)) ** 2


@dataclass(frozen=True)
class EffectiveDimensions:
    """Three ways to count the large eigenvalues of a matrix.

    Attributes
    ----------
    above_threshold : int
        Eigenvalues above `threshold` times the largest.
    stable_rank : float
        Sum of the eigenvalues over the largest.
    participation_ratio : float
        Squared sum of the eigenvalues over the sum of their squares.
    threshold : float
        The share of the largest eigenvalue that counts.

    Examples
    --------
    >>> import torch
    >>> effective_dimensions(torch.tensor([4.0, 4.0, 0.1, 0.0]))
    effective dimensions
      above 10% of the largest  2
      stable rank               2.025
      participation ratio       2.05
    """

    above_threshold: int
    stable_rank: float
    participation_ratio: float
    threshold: float

    def __repr__(self) -> str:
        rows = {
            f"above {100 * self.threshold:g}% of the largest": f"{self.above_threshold}",
            "stable rank": f"{self.stable_rank:.4g}",
            "participation ratio": f"{self.participation_ratio:.4g}",
        }
        return listing("effective dimensions", rows)


def effective_dimensions(eigenvalues: Tensor, threshold: float = 0.1) -> EffectiveDimensions:
    r"""Count the large eigenvalues in three ways; say which whenever you quote one.

    Parameters
    ----------
    eigenvalues : Tensor
        [D] of a Hessian or a covariance; a few may be negative.
    threshold : float
        :math:`\tau`.

    Returns
    -------
    EffectiveDimensions

    Raises
    ------
    TypeError, ValueError
        If no eigenvalue is positive, one is not finite, or `threshold` is out of range.

    Notes
    -----
    :math:`k_\tau = \#\{\lambda_i > \tau\lambda_1\}`, :math:`\sum\lambda_i/\lambda_1` and
    :math:`(\sum\lambda_i)^2/\sum\lambda_i^2`.

    Examples
    --------
    >>> import torch
    >>> effective_dimensions(torch.ones(7)).participation_ratio
    7.0
    """
    if not isinstance(eigenvalues, Tensor) or not eigenvalues.is_floating_point():
        raise TypeError("eigenvalues must be a floating-point tensor [D]")
    if eigenvalues.ndim != 1 or not len(eigenvalues) or not eigenvalues.isfinite().all():
        raise ValueError("eigenvalues must be finite and of shape [D]")
    values = eigenvalues.double()
    top = float(values.max())
    if not top > 0:
        raise ValueError(f"the largest eigenvalue is {top:g}: there is nothing to count")
    above = int((values > share("threshold", threshold) * top).sum())
    return EffectiveDimensions(
        above, float(values.sum()) / top, _participation(values), float(threshold)
    )


def _components(pooled: Tensor, basis: Tensor | None) -> tuple[Tensor, float | None]:
    """Shares of variance by principal component, and in the span of the basis."""
    rows = pooled.flatten(0, 1)
    rows = rows - rows.double().mean(0).to(rows)
    total = float(rows.double().square().sum())
    if not total:
        raise ValueError("all positions are the same: there is no variance to share out")
    small = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
    eigenvalues = torch.linalg.eigvalsh(small.double()).flip(0).clamp(min=0)
    inside = None
    if basis is not None:
        inside = float((rows @ basis.to(rows)).double().square().sum()) / total
    return eigenvalues / eigenvalues.sum(), inside


def _n90(shares: Tensor) -> int:
    return int((shares.cumsum(0) < 0.9 - 1e-12).sum()) + 1


def _participation(values: Tensor) -> float:
    return float(values.sum() ** 2 / values.square().sum())
