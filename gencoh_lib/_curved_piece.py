"""What happens around a curved set of minimisers, behind :mod:`gencoh_lib.stagnation`."""

from __future__ import annotations

import math

from gencoh_lib._numbers import count, nonnegative, positive


def curved_offset(
    radius_of_curvature: float,
    *,
    tangential: int,
    curvature: float,
    step_size: float,
    noise: float,
) -> float:
    r"""How far noise along a sphere of minimisers keeps the chain off it.

    Parameters
    ----------
    radius_of_curvature : float
        :math:`\varrho`, the radius of the sphere.
    tangential : int
        p, the number of directions along it.
    curvature : float
        h, in :math:`R = h(\lVert\theta\rVert - \varrho)^2/2`.
    step_size, noise : float
        :math:`\eta`, and :math:`\sigma` in each coordinate.

    Returns
    -------
    float
        Predicted mean of :math:`\lVert\theta\rVert - \varrho` in the long run.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range.

    Notes
    -----
    The positive solution o of

    .. math:: (\varrho + o)\,o = \frac{\eta\sigma^2 p}{2h},

    where the pull :math:`\eta h o` balances what a step along the tangent adds to the length,
    :math:`\eta^2\sigma^2p/2\lVert\theta\rVert`, to leading order in :math:`\eta`. So flat
    directions do no harm only if the piece is not curved. Derived here (stand-in; the text of
    Imaizumi and Schmidt-Hieber was not available to us).

    Examples
    --------
    >>> round(curved_offset(1, tangential=10, curvature=1, step_size=0.1, noise=0.3), 4)
    0.0431
    """
    rho = positive("radius_of_curvature", radius_of_curvature)
    positive("step_size", step_size), positive("curvature", curvature)
    push = step_size * nonnegative("noise", noise) ** 2 * count("tangential", tangential, 0)
    target = push / (2 * curvature)
    return 2 * target / (rho + math.sqrt(rho**2 + 4 * target))
