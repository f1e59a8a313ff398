"""What a quadratic model of the loss predicts for noisy SGD, direction by direction.

The public names are those of :mod:`gencoh_lib.stagnation`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gencoh_lib._numbers import count, positive


def linear_surrogate(
    curvatures: Tensor,
    noise_variances: Tensor,
    *,
    step_size: float,
    steps: int,
    chains: int,
    seed: int = 0,
) -> Tensor:
    r"""Distances of simulated linear chains with a curvature and a noise for each direction.

    Parameters
    ----------
    curvatures : Tensor
        [k] eigenvalues :math:`\lambda_i` of the Hessian.
    noise_variances : Tensor
        [k] variances :math:`s_i` of the gradient noise along the eigenvectors.
    step_size : float
        :math:`\eta`.
    steps, chains : int
        How long and how many.
    seed : int
        Seed of the noise.

    Returns
    -------
    Tensor
        [chains, steps + 1] distance from the minimum, where all start.

    Raises
    ------
    TypeError, ValueError
        If the shapes differ or a number is out of range.

    Notes
    -----
    :math:`x_{i,t+1} = (1-\eta\lambda_i)x_{i,t} - \eta\sqrt{s_i}\,z_{i,t}`, independent over i: what
    a quadratic model of the loss predicts for the run.

    Examples
    --------
    >>> import torch
    >>> d = linear_surrogate(torch.ones(1), torch.ones(1), step_size=0.1, steps=50, chains=4000)
    >>> round(float((d[:, 1:].amax(1) <= 0.5).double().mean()), 1)  # exactly: 0.643
    0.6
    """
    h, s = _spectra(curvatures, noise_variances)
    positive("step_size", step_size)
    steps, chains = count("steps", steps), count("chains", chains)
    generator = torch.Generator(h.device).manual_seed(seed)
    rho, kick = 1 - step_size * h, step_size * s.sqrt()
    x = torch.zeros(chains, len(h), dtype=h.dtype, device=h.device)
    distances = x.new_zeros(steps + 1, chains)
    for t in range(1, steps + 1):
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        x = noise.mul_(kick).addcmul_(x, rho)
        torch.linalg.vector_norm(x, dim=1, out=distances[t])
    return distances.T


def stationary_variances(curvatures: Tensor, noise_variances: Tensor, step_size: float) -> Tensor:
    r"""Variances of noisy gradient descent around a minimum, along the Hessian's eigenvectors.

    Parameters
    ----------
    curvatures : Tensor
        [k] eigenvalues :math:`\lambda_i` of the Hessian.
    noise_variances : Tensor
        [k] variances :math:`s_i = u_i^\top \Sigma u_i` of the gradient noise along them.
    step_size : float
        :math:`\eta`, constant.

    Returns
    -------
    Tensor
        [k] in float64: infinite where nothing holds the chain, :math:`\lambda_i \le 0` or
        :math:`\eta\lambda_i \ge 2`, unless there is no noise at all: then 0.

    Raises
    ------
    TypeError, ValueError
        If the shapes differ or a number is out of range.

    Notes
    -----
    .. math:: v_i = \frac{\eta s_i}{\lambda_i (2 - \eta\lambda_i)}

    Exact for a quadratic loss, whatever the correlations of the noise between eigenvectors. With
    noise of covariance :math:`cH` it is :math:`\eta c/(2-\eta\lambda_i)`, nearly the same in all
    directions of positive curvature. Derived here.

    Examples
    --------
    >>> import torch
    >>> h = torch.tensor([1.0, 0.253, 0.110], dtype=torch.float64)
    >>> [round(v, 5) for v in stationary_variances(h, 0.04 * h, 0.5).tolist()]
    [0.01333, 0.01068, 0.01028]
    """
    h, s = _spectra(curvatures, noise_variances)
    h, s = h.double(), s.double()
    positive("step_size", step_size)
    denominator = h * (2 - step_size * h)
    held = torch.where(denominator > 0, step_size * s / denominator, math.inf)
    return torch.where(s > 0, held, torch.zeros_like(held))


def _spectra(curvatures: Tensor, noise_variances: Tensor) -> tuple[Tensor, Tensor]:
    for name, values in (("curvatures", curvatures), ("noise_variances", noise_variances)):
        if not isinstance(values, Tensor) or not values.is_floating_point():
            raise TypeError(f"{name} must be a floating-point tensor [k]")
        if values.ndim != 1 or not len(values) or not values.isfinite().all():
            raise ValueError(
                f"{name} must be finite and of shape [k], got shape {tuple(values.shape)}"
            )
    if curvatures.shape != noise_variances.shape:
        raise ValueError(
            f"{len(curvatures)} curvatures but {len(noise_variances)} noise_variances: one each"
        )
    if (noise_variances < 0).any():
        raise ValueError("noise_variances must not be negative")
    return curvatures.detach(), noise_variances.detach().to(curvatures)
