"""Three models of the noise in a gradient, behind :mod:`gencoh_lib.stagnation`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Generator, Tensor

from gencoh_lib._numbers import count, nonnegative

Gradient = Callable[[Tensor], Tensor]


class GradientNoise(Protocol):
    """What :func:`noisy_sgd` asks for a noisy gradient; write your own by this signature.

    The three models of this module are called in the same way: with the points [chains, D], the
    exact gradient as a function of them, and a generator to draw from.

    Examples
    --------
    >>> import torch
    >>> noise: GradientNoise = IsotropicNoise(0.0)
    >>> noise(torch.ones(3, 2), lambda theta: 2 * theta, torch.Generator()).tolist()[0]
    [2.0, 2.0]
    """

    def __call__(self, theta: Tensor, gradient: Gradient, generator: Generator) -> Tensor:
        """Return a noisy gradient [chains, D] at the points `theta` [chains, D]."""
        ...


def _normals(shape: tuple[int, ...], like: Tensor, generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)


class IsotropicNoise:
    r"""Gaussian noise of the same size in all directions, :math:`\zeta \sim N(0, \sigma^2 I)`.

    Parameters
    ----------
    sigma : float
        Standard deviation in each coordinate.

    Raises
    ------
    ValueError
        If `sigma` is negative or not finite.

    Examples
    --------
    >>> import torch
    >>> gradients = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    >>> IsotropicNoise.matching(FrozenMinibatchNoise(gradients, batch_size=2))
    IsotropicNoise(sigma=0.5)
    """

    def __init__(self, sigma: float) -> None:
        self.sigma = nonnegative("sigma", sigma)

    @classmethod
    def matching(cls, other: FrozenMinibatchNoise) -> IsotropicNoise:
        """Return the isotropic noise whose covariance has the same trace."""
        return cls(math.sqrt(other.trace / other.dimension))

    def __call__(self, theta: Tensor, gradient: Gradient, generator: Generator) -> Tensor:
        """Return a noisy gradient [chains, D]."""
        noise = _normals(tuple(theta.shape), theta, generator)
        return noise.mul_(self.sigma).add_(gradient(theta))

    def __repr__(self) -> str:
        return f"IsotropicNoise(sigma={self.sigma:.4g})"


class FrozenMinibatchNoise:
    r"""Gaussian noise with the covariance that a mini-batch has at one point.

    Parameters
    ----------
    per_example : Tensor
        [n, D] gradient of each example at the point.
    batch_size : int
        B.

    Raises
    ------
    TypeError, ValueError
        If `per_example` is not a finite floating-point matrix, or `batch_size` not a whole number
        >= 1.

    Notes
    -----
    :math:`\zeta \sim N(0, S/B)`, with S the covariance of the rows of G, drawn without forming S:

    .. math:: \zeta = \frac{1}{\sqrt{Bn}} (G - \bar G)^\top z, \qquad z \sim N(0, I_n).

    If n > D the factor is first reduced to D x D. Derived here (stand-in; the text of Imaizumi and
    Schmidt-Hieber was not available to us).

    Examples
    --------
    >>> import torch
    >>> noise = FrozenMinibatchNoise(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), batch_size=4)
    >>> round(noise.trace, 6)
    0.25
    """

    def __init__(self, per_example: Tensor, batch_size: int) -> None:
        if not isinstance(per_example, Tensor) or not per_example.is_floating_point():
            raise TypeError("per_example must be a floating-point tensor [n, D]")
        if per_example.ndim != 2 or not per_example.numel() or not per_example.isfinite().all():
            raise ValueError(
                "per_example must be finite and of shape [n, D], got shape "
                f"{tuple(per_example.shape)}"
            )
        self.batch_size, self.examples = count("batch_size", batch_size), len(per_example)
        centred = per_example.detach() - per_example.detach().mean(0)
        factor = centred / math.sqrt(self.batch_size * self.examples)
        if factor.shape[0] > factor.shape[1]:
            factor = torch.linalg.qr(factor, mode="r").R
        self._factor = factor  # noise = factor^T z

    @property
    def dimension(self) -> int:
        """D, the number of parameters."""
        return self._factor.shape[1]

    @property
    def trace(self) -> float:
        """Mean squared length of the noise, tr S / B."""
        return float(self._factor.double().square().sum())

    def variances(self, basis: Tensor | None = None) -> Tensor:
        """Variance of the noise along directions.

        Parameters
        ----------
        basis : Tensor, optional
            [D, k] unit columns; by default the coordinate axes.

        Returns
        -------
        Tensor
            [k].
        """
        along = self._factor if basis is None else self._factor @ basis.to(self._factor)
        return along.square().sum(0)

    def largest_sigma(self, basis: Tensor | None = None) -> float:
        """Largest standard deviation of the noise in any direction.

        Parameters
        ----------
        basis : Tensor, optional
            [D, k] orthonormal columns: only directions in their span count.

        Returns
        -------
        float
        """
        along = self._factor if basis is None else self._factor @ basis.to(self._factor)
        return float(torch.linalg.matrix_norm(along, 2))

    def __call__(self, theta: Tensor, gradient: Gradient, generator: Generator) -> Tensor:
        """Return a noisy gradient [chains, D]."""
        if theta.shape[-1] != self.dimension:
            raise ValueError(
                f"the noise was measured on {self.dimension} parameters, the chains have "
                f"{theta.shape[-1]}"
            )
        if self._factor.dtype != theta.dtype or self._factor.device != theta.device:
            self._factor = self._factor.to(theta)
        z = _normals((len(theta), len(self._factor)), theta, generator)
        return torch.addmm(gradient(theta), z, self._factor)

    def __repr__(self) -> str:
        return (
            f"FrozenMinibatchNoise({self.examples} examples, {self.dimension} parameters, "
            f"batch_size={self.batch_size}, trace={self.trace:.4g})"
        )


class LiveMinibatch:
    r"""The gradient of a true mini-batch, drawn anew at every step: not Gaussian, a control.

    Parameters
    ----------
    batch_gradient : callable
        Maps points [chains, D] and positions of examples [chains, B] to the mean gradients of
        those examples [chains, D], such as
        :meth:`NetworkLoss.batch_gradient <gencoh_lib.stagnation.NetworkLoss.batch_gradient>`.
    examples : int
        n, how many examples there are.
    batch_size : int
        B.
    replacement : bool
        Whether an example may be drawn twice into a batch. With replacement the covariance of the
        noise is that of :class:`FrozenMinibatchNoise` at the point; without it is smaller by the
        factor (n - B)/(n - 1).

    Raises
    ------
    TypeError, ValueError
        If a number is out of range, or B > n without replacement.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([1.0, 2.0, 6.0])  # the loss of example i is (theta - x_i)^2 / 2
    >>> live = LiveMinibatch(lambda theta, i: theta - x[i].mean(1, keepdim=True), 3, 3,
    ...                      replacement=False)
    >>> live(torch.zeros(2, 1), lambda theta: theta - 3, torch.Generator()).tolist()
    [[-3.0], [-3.0]]
    """

    def __init__(
        self,
        batch_gradient: Callable[[Tensor, Tensor], Tensor],
        examples: int,
        batch_size: int,
        replacement: bool = True,
    ) -> None:
        self.batch_gradient = batch_gradient
        self.examples, self.batch_size = (
            count("examples", examples),
            count("batch_size", batch_size),
        )
        self.replacement = replacement
        if not replacement and self.batch_size > self.examples:
            raise ValueError(
                f"batch_size = {self.batch_size} of {self.examples} examples without replacement: "
                "there are not so many"
            )

    def __call__(self, theta: Tensor, gradient: Gradient, generator: Generator) -> Tensor:
        """Return the gradient [chains, D] of a batch for each chain; `gradient` is not used."""
        shape, device = (len(theta), self.batch_size), theta.device
        if self.replacement:
            chosen = torch.randint(self.examples, shape, generator=generator, device=device)
        else:
            keys = torch.rand(shape[0], self.examples, generator=generator, device=device)
            chosen = keys.topk(self.batch_size, dim=1).indices
        return self.batch_gradient(theta, chosen)

    def __repr__(self) -> str:
        how = "with" if self.replacement else "without"
        return f"LiveMinibatch({self.batch_size} of {self.examples} examples, {how} replacement)"
