"""Who stayed, who left and when; and how sure that makes us.

The public names are those of :mod:`gencoh_lib.stagnation`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.special import betaincinv, ndtri
from torch import Tensor

from gencoh_lib._dataset import listing
from gencoh_lib._numbers import count, positive, share

Method = Literal["clopper-pearson", "wilson"]


@dataclass(frozen=True, repr=False)
class Proportion:
    """A share of independent trials, with an interval for the probability behind it.

    Attributes
    ----------
    successes, trials : int
        How many of how many.
    low, high : float
        The interval.
    confidence : float
        Its nominal coverage.
    method : str
        ``"clopper-pearson"`` or ``"wilson"``.

    Examples
    --------
    >>> proportion(31, 32)
    31 of 32 = 0.9688   95% interval [0.8378, 0.9992] (clopper-pearson)
    """

    successes: int
    trials: int
    low: float
    high: float
    confidence: float
    method: Method

    @property
    def value(self) -> float:
        """The share, successes over trials."""
        return self.successes / self.trials

    def __repr__(self) -> str:
        return (
            f"{self.successes} of {self.trials} = {self.value:.4g}   {100 * self.confidence:g}% "
            f"interval [{self.low:.4f}, {self.high:.4f}] ({self.method})"
        )


def proportion(
    successes: int,
    trials: int,
    *,
    confidence: float = 0.95,
    method: Method = "clopper-pearson",
) -> Proportion:
    r"""Interval for a probability, from independent trials.

    Parameters
    ----------
    successes, trials : int
        How many of how many.
    confidence : float
        Nominal coverage :math:`1-a`.
    method : str
        ``"clopper-pearson"`` covers with at least the nominal probability, whatever the truth;
        ``"wilson"`` is shorter and covers about as often as it says.

    Returns
    -------
    Proportion

    Raises
    ------
    TypeError, ValueError
        If there are more successes than trials, a number is out of range, or the method unknown.

    Notes
    -----
    Clopper and Pearson (1934): the a/2 quantile of Beta(s, n - s + 1) and the 1 - a/2 quantile of
    Beta(s + 1, n - s). Wilson (1927): the p with
    :math:`|s/n - p| \le z_{1-a/2}\sqrt{p(1-p)/n}`.

    Examples
    --------
    >>> round(proportion(10, 10).low, 4), round(proportion(10, 10, method="wilson").low, 4)
    (0.6915, 0.7225)
    """
    trials = count("trials", trials)
    successes = count("successes", successes, at_least=0)
    if successes > trials:
        raise ValueError(f"{successes} successes in {trials} trials: there cannot be more")
    tail = (1 - share("confidence", confidence)) / 2
    s, n = successes, trials
    if method == "clopper-pearson":
        low = float(betaincinv(s, n - s + 1, tail)) if s else 0.0
        high = float(betaincinv(s + 1, n - s, 1 - tail)) if s < n else 1.0
    elif method == "wilson":
        z = float(ndtri(1 - tail))
        middle = (s + z**2 / 2) / (n + z**2)
        half = z / (n + z**2) * math.sqrt(s * (n - s) / n + z**2 / 4)
        low = max(0.0, middle - half) if s else 0.0
        high = min(1.0, middle + half) if s < n else 1.0
    else:
        raise ValueError(f"method must be 'clopper-pearson' or 'wilson', got {method!r}")
    return Proportion(s, n, low, high, confidence, method)


def trials_needed(tolerance: float, confidence: float = 0.95) -> int:
    r"""How many trials without a failure certify a probability of at least 1 - tolerance.

    Parameters
    ----------
    tolerance : float
        a.
    confidence : float
        :math:`1-d`, one-sided.

    Returns
    -------
    int
        The smallest n with :math:`(1-a)^n \le d`.

    Raises
    ------
    ValueError
        If a number does not lie strictly between 0 and 1.

    Examples
    --------
    >>> trials_needed(0.01)
    299
    """
    share("tolerance", tolerance), share("confidence", confidence)
    return math.ceil(math.log1p(-confidence) / math.log1p(-tolerance))


@dataclass(frozen=True, eq=False, repr=False)
class StayRecord:
    """Which of many runs stayed within a radius.

    Attributes
    ----------
    radius : float
        r.
    steps : int
        T, the number of steps that were watched.
    stayed : Tensor
        [chains] whether all distances were at most r.
    exit_time : Tensor
        [chains] first step t >= 1 further away than r, or infinity; float64.
    occupancy : Tensor
        [chains] share of the steps within r; float64.
    longest : Tensor
        [chains] most steps in a row within r.

    Examples
    --------
    >>> import torch
    >>> record = stay_record(torch.tensor([[0.1, 0.3, 0.2, 0.4], [0.1, 0.6, 0.2, 0.2]]), 0.5)
    >>> record
    2 runs of 4 steps within radius 0.5
      stayed          1 of 2 = 0.5   95% interval [0.0126, 0.9874] (clopper-pearson)
      first exit      after 2 steps at the earliest
      occupancy       0.875 on average
    """

    radius: float
    steps: int
    stayed: Tensor
    exit_time: Tensor
    occupancy: Tensor
    longest: Tensor

    def probability(
        self, confidence: float = 0.95, method: Method = "clopper-pearson"
    ) -> Proportion:
        """Share of the runs that stayed, with its interval; see :func:`proportion`."""
        return proportion(
            int(self.stayed.sum()), len(self.stayed), confidence=confidence, method=method
        )

    def __repr__(self) -> str:
        first = float(self.exit_time.min())
        rows = {
            "stayed": f"{self.probability()}",
            "first exit": f"after {first:g} steps at the earliest" if first < math.inf else "none",
            "occupancy": f"{float(self.occupancy.mean()):.4g} on average",
        }
        return listing(
            f"{len(self.stayed)} runs of {self.steps} steps within radius {self.radius:g}",
            {f"{name:<14}": value for name, value in rows.items()},
        )


def stay_record(distances: Tensor, radius: float) -> StayRecord:
    """See which runs stayed within a radius, which left, and when.

    Parameters
    ----------
    distances : Tensor
        [chains, T] or [T] distance after each of the steps 1..T: without the start.
    radius : float
        r.

    Returns
    -------
    StayRecord

    Raises
    ------
    TypeError, ValueError
        If there are no distances, or `radius` is not a positive number.

    Notes
    -----
    A distance that is infinite or NaN counts as outside.

    Examples
    --------
    >>> import torch
    >>> stay_record(torch.tensor([0.1, 0.6, 0.2]), 0.5).exit_time.tolist()
    [2.0]
    """
    if not isinstance(distances, Tensor):
        raise TypeError(f"distances must be a Tensor, got {type(distances).__name__}")
    rows = distances[None] if distances.ndim == 1 else distances
    if rows.ndim != 2 or not rows.numel():
        raise ValueError(f"distances must be of shape [chains, T], got {tuple(distances.shape)}")
    inside = rows <= positive("radius", radius)
    stayed = inside.all(1)
    first = (~inside).to(torch.uint8).argmax(1).double() + 1
    longest = current = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    for column in inside.unbind(1):
        current = (current + 1) * column
        longest = torch.maximum(longest, current)
    return StayRecord(
        radius=float(radius),
        steps=rows.shape[1],
        stayed=stayed,
        exit_time=torch.where(stayed, math.inf, first),
        occupancy=inside.double().mean(1),
        longest=longest,
    )
