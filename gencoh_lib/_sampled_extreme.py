"""The smallest or largest value that sampled points of a tube met.

An extreme over samples bounds the true one from one side only, so every answer says how many
trials it saw. The public names are those of :mod:`gencoh_lib.stagnation`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from gencoh_lib._dataset import listing
from gencoh_lib._numbers import count, positive
from gencoh_lib._tubes import Tube

_SHARES = (0.25, 0.5, 1.0)  # of the radius of the tube, where no radii are given


@dataclass(frozen=True, eq=False, repr=False)
class SampledExtreme:
    """The smallest or largest value that a number of trials met.

    Attributes
    ----------
    quantity : str
        What was measured.
    kind : str
        ``"minimum"`` or ``"maximum"``.
    value : float
        The extreme over all trials: the true one in the tube is no larger, or no smaller.
    trials : int
        How many points were tried.
    by_radius : mapping of float to float
        The extreme at each distance from the piece.
    at_points : float or None
        The extreme over the points that were given, such as iterates.

    Examples
    --------
    >>> import torch
    >>> from gencoh_lib.stagnation import secant_ratio
    >>> secant_ratio(lambda t: 2 * t, Tube(torch.zeros(2), radius=1), trials=50)
    secant ratio <grad, delta> / |delta|^2
      sampled minimum    2 over 150 trials: the true one may be smaller
      at distance 0.25   2
      at distance 0.5    2
      at distance 1      2
    """

    quantity: str
    kind: Literal["minimum", "maximum"]
    value: float
    trials: int
    by_radius: Mapping[float, float]
    at_points: float | None

    def __repr__(self) -> str:
        beyond = "smaller" if self.kind == "minimum" else "larger"
        rows = {
            f"sampled {self.kind}": f"{self.value:.4g} over {self.trials} trials: the true one "
            f"may be {beyond}",
        }
        rows |= {f"at distance {r:g}": f"{value:.4g}" for r, value in self.by_radius.items()}
        if self.at_points is not None:
            rows["at the points"] = f"{self.at_points:.4g}"
        width = max(len(name) for name in rows) + 1
        return listing(self.quantity, {f"{name:<{width}}": value for name, value in rows.items()})


def sampled(
    quantity: str,
    kind: Literal["minimum", "maximum"],
    measure: Callable[[Tensor, int], Tensor],
    tube: Tube,
    radii: Sequence[float] | None,
    trials: int,
    stretch: float,
    points: Tensor | None,
    seed: int,
) -> SampledExtreme:
    """Measure at random points of each radius, and at given ones; the measure gets a seed too."""
    pick = torch.amin if kind == "minimum" else torch.amax
    chosen = [share * tube.radius for share in _SHARES] if radii is None else list(radii)
    if not chosen and points is None:
        raise ValueError("no radii and no points: there is nothing to try")
    trials, total = count("trials", trials), 0
    by_radius: dict[float, float] = {}
    generator = torch.Generator().manual_seed(seed)  # one seed a radius, none a neighbour's
    seeds = torch.randint(2**62, (len(chosen) + 1,), generator=generator).tolist()
    for radius, own in zip(chosen, seeds, strict=False):
        positive("radii", radius)
        drawn = tube.points(radius, trials, stretch=stretch, seed=own)
        by_radius[float(radius)] = _extreme(pick, measure(drawn, own), quantity)
        total += trials
    at_points = None
    if points is not None:
        off = points[tube.distance(points) > 0]
        if points.ndim != 2 or not len(off):
            raise ValueError("points must be of shape [n, D], some of them off the piece")
        at_points = _extreme(pick, measure(off, seeds[-1]), quantity)
        total += len(off)
    values = [*by_radius.values(), *([] if at_points is None else [at_points])]
    value = min(values) if kind == "minimum" else max(values)
    return SampledExtreme(quantity, kind, value, total, MappingProxyType(by_radius), at_points)


def _extreme(pick: Callable[[Tensor], Tensor], values: Tensor, quantity: str) -> float:
    if not values.isfinite().all():
        raise ValueError(f"{quantity} is not finite at some of the points")
    return float(pick(values))
