"""Sampled checks of essential convexity, behind :mod:`gencoh_lib.stagnation`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gencoh_lib._gradient_noise import Gradient
from gencoh_lib._numbers import count
from gencoh_lib._sampled_extreme import SampledExtreme, sampled
from gencoh_lib._tubes import Tube


def secant_ratio(
    gradient: Gradient,
    tube: Tube,
    *,
    radii: Sequence[float] | None = None,
    trials: int = 200,
    stretch: float = 0.0,
    points: Tensor | None = None,
    seed: int = 0,
) -> SampledExtreme:
    r"""Smallest pull back to the minimal piece, per unit of distance, over sampled points.

    Parameters
    ----------
    gradient : callable
        Maps points [n, D] to gradients [n, D].
    tube : Tube
        The piece and the directions across it.
    radii : sequence of float, optional
        Distances at which to try; by default a quarter, a half and all of the tube's radius.
    trials : int
        Random points at each distance.
    stretch : float
        How far from the centre along the piece they may lie.
    points : Tensor, optional
        [n, D] more points to try, such as the iterates of a run.
    seed : int
        Seed of the points.

    Returns
    -------
    SampledExtreme
        The sampled minimum: only an upper bound on the constant :math:`\mu` of the tube.

    Raises
    ------
    TypeError, ValueError
        If there is nothing to try, a number is out of range, or a ratio is not finite.

    Notes
    -----
    .. math:: \min \frac{\langle\nabla R(\theta), \delta\rangle}{\lVert\delta\rVert^2},
        \qquad \delta = \theta - P\theta,

    the constant of the restricted secant inequality. It can be positive where the Hessian has
    negative eigenvalues. Derived here (stand-in; the text of Imaizumi and Schmidt-Hieber was not
    available to us).

    Examples
    --------
    >>> import torch
    >>> from gencoh_lib.stagnation import gradient_of
    >>> valley = gradient_of(lambda t: t[:, 0] ** 2 * (1 + t[:, 1] ** 2) / 2)
    >>> tube = Tube(torch.zeros(2), radius=1, flat=torch.tensor([[0.0], [1.0]]))
    >>> secant_ratio(valley, tube, stretch=0).value
    1.0
    """

    def ratio(theta: Tensor, _: int) -> Tensor:
        delta = tube.across(theta)
        return (gradient(theta) * delta).sum(1) / delta.square().sum(1)

    name = "secant ratio <grad, delta> / |delta|^2"
    return sampled(name, "minimum", ratio, tube, radii, trials, stretch, points, seed)


def essential_convexity(
    loss: Callable[[Tensor], Tensor],
    gradient: Gradient,
    tube: Tube,
    *,
    radii: Sequence[float] | None = None,
    trials: int = 200,
    stretch: float = 0.0,
    points: Tensor | None = None,
    seed: int = 0,
) -> SampledExtreme:
    r"""Smallest strong convexity across the minimal piece, over sampled pairs of points.

    Parameters
    ----------
    loss : callable
        Maps points [n, D] to losses [n].
    gradient : callable
        Maps points [n, D] to gradients [n, D].
    tube, radii, trials, stretch, points, seed
        As for :func:`secant_ratio`; each point x is paired with a random y in the tube that has
        the same nearest point of the piece.

    Returns
    -------
    SampledExtreme
        The sampled minimum: only an upper bound on the constant :math:`\mu` of the tube.

    Raises
    ------
    TypeError, ValueError
        As :func:`secant_ratio`.

    Notes
    -----
    Local essential strong convexity: for all x, y in the tube with Px = Py,

    .. math:: R(x) \ge R(y) + \langle\nabla R(y), x-y\rangle + \tfrac\mu2\lVert x-y\rVert^2;

    no convexity along the piece is asked. It implies the restricted secant inequality with the
    same :math:`\mu`. Derived here (stand-in; the text of Imaizumi and Schmidt-Hieber was not
    available to us).

    Examples
    --------
    >>> import torch
    >>> tube = Tube(torch.zeros(2, dtype=torch.float64), radius=1)
    >>> found = essential_convexity(lambda t: t.square().sum(1), lambda t: 2 * t, tube)
    >>> round(found.value, 6)
    2.0
    """

    def convexity(x: Tensor, seed: int) -> Tensor:
        directions = tube.points(1.0, len(x), seed=seed + 1) - tube.centre
        generator = torch.Generator(x.device).manual_seed(seed + 2)
        share = torch.rand(len(x), 1, generator=generator, dtype=x.dtype, device=x.device)
        y = tube.nearest(x) + tube.radius * share * directions
        step = x - y
        excess = loss(x) - loss(y) - (gradient(y) * step).sum(1)
        return 2 * excess / step.square().sum(1)

    name = "essential convexity 2 (R(x) - R(y) - <grad R(y), x - y>) / |x - y|^2"
    return sampled(name, "minimum", convexity, tube, radii, trials, stretch, points, seed)


def hessian_on_segments(
    hessian_product: Callable[[Tensor, Tensor], Tensor],
    tube: Tube,
    *,
    radii: Sequence[float] | None = None,
    trials: int = 20,
    points_per_segment: int = 5,
    stretch: float = 0.0,
    points: Tensor | None = None,
    seed: int = 0,
) -> SampledExtreme:
    r"""Smallest curvature across the minimal piece, on segments from it to sampled points.

    Parameters
    ----------
    hessian_product : callable
        Maps a point [D] and vectors [D, k] to the products [D, k] of the Hessian there with them.
    tube, radii, stretch, points, seed
        As for :func:`secant_ratio`.
    trials : int
        Random segments for each radius; each costs `points_per_segment` products with k vectors.
    points_per_segment : int
        Points on each segment, its far end and the piece among them; at least 2.

    Returns
    -------
    SampledExtreme
        The sampled minimum; counted are segments.

    Raises
    ------
    TypeError, ValueError
        As :func:`secant_ratio`.

    Notes
    -----
    If the smallest eigenvalue of :math:`NHN` across the piece is at least :math:`\mu` on the whole
    segment from :math:`P\theta` to :math:`\theta`, the secant ratio at :math:`\theta` is at least
    :math:`\mu`: integrate the Hessian along the segment. Derived here (stand-in; the text of
    Imaizumi and Schmidt-Hieber was not available to us).

    Examples
    --------
    >>> import torch
    >>> tube = Tube(torch.zeros(2), radius=1)
    >>> hessian_on_segments(lambda theta, v: torch.diag(torch.tensor([1.0, 3.0])) @ v, tube).value
    1.0
    """
    shares = torch.linspace(0, 1, count("points_per_segment", points_per_segment, 2)).tolist()
    basis = tube.normal_basis()

    def smallest(theta: Tensor, _: int) -> Tensor:
        found = []
        for foot, delta in zip(tube.nearest(theta), tube.across(theta), strict=True):
            blocks = [basis.T @ hessian_product(foot + s * delta, basis) for s in shares]
            stacked = torch.stack(blocks)
            found.append(torch.linalg.eigvalsh((stacked + stacked.mT) / 2).amin())
        return torch.stack(found)

    name = "smallest eigenvalue of the Hessian across the piece, on segments"
    return sampled(name, "minimum", smallest, tube, radii, trials, stretch, points, seed)
