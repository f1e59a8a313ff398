"""Sampled constants for the bounds on staying, behind :mod:`gencoh_lib.stagnation`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gencoh_lib._gradient_noise import Gradient
from gencoh_lib._numbers import positive
from gencoh_lib._sampled_extreme import SampledExtreme, sampled
from gencoh_lib._tubes import Tube


def sampled_contraction(
    gradient: Gradient,
    tube: Tube,
    step_size: float,
    *,
    radii: Sequence[float] | None = None,
    trials: int = 200,
    stretch: float = 0.0,
    points: Tensor | None = None,
    seed: int = 0,
) -> SampledExtreme:
    r"""Largest factor by which one step without noise changes the distance, over sampled points.

    Parameters
    ----------
    gradient, tube, radii, trials, stretch, points, seed
        As for :func:`secant_ratio`.
    step_size : float
        :math:`\eta`.

    Returns
    -------
    SampledExtreme
        The sampled maximum: only a lower bound on the contraction :math:`\rho` of the tube.

    Raises
    ------
    TypeError, ValueError
        As :func:`secant_ratio`.

    Notes
    -----
    :math:`\max \lVert N(\delta - \eta\nabla R(\theta))\rVert / \lVert\delta\rVert`. Derived here
    (stand-in; the text of Imaizumi and Schmidt-Hieber was not available to us).

    Examples
    --------
    >>> import torch
    >>> tube = Tube(torch.zeros(2, dtype=torch.float64), radius=1)
    >>> round(sampled_contraction(lambda t: t, tube, 0.1).value, 9)
    0.9
    """
    positive("step_size", step_size)

    def factor(theta: Tensor, _: int) -> Tensor:
        # The step moves the nearest point too; across the piece only the normal part counts.
        return tube.distance(theta - step_size * gradient(theta)) / tube.distance(theta)

    name = "contraction |N(delta - eta grad)| / |delta|"
    return sampled(name, "maximum", factor, tube, radii, trials, stretch, points, seed)


def gradient_error(
    gradient: Gradient,
    other: Gradient,
    tube: Tube,
    *,
    radii: Sequence[float] | None = None,
    trials: int = 200,
    stretch: float = 0.0,
    points: Tensor | None = None,
    seed: int = 0,
) -> SampledExtreme:
    r"""Largest difference of two gradients across the piece, over sampled points.

    Parameters
    ----------
    gradient, other : callable
        Map points [n, D] to gradients [n, D], such as those on the training sample and on
        held-out examples.
    tube, radii, trials, stretch, points, seed
        As for :func:`secant_ratio`.

    Returns
    -------
    SampledExtreme
        The sampled maximum: only a lower bound on the e of :func:`stay_bound_drift`.

    Raises
    ------
    TypeError, ValueError
        As :func:`secant_ratio`.

    Notes
    -----
    :math:`\max \lVert N(\nabla R_n(\theta) - \nabla R(\theta))\rVert`. Derived here (stand-in; the
    text of Imaizumi and Schmidt-Hieber was not available to us).

    Examples
    --------
    >>> import torch
    >>> tube = Tube(torch.zeros(2), radius=1)
    >>> round(gradient_error(lambda t: t, lambda t: 1.1 * t, tube).value, 6)
    0.1
    """

    def error(theta: Tensor, _: int) -> Tensor:
        difference = gradient(theta) - other(theta)
        return tube.distance(tube.centre + difference)

    name = "gradient error |N(grad - other)|"
    return sampled(name, "maximum", error, tube, radii, trials, stretch, points, seed)
