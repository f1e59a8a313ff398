"""What staying in a tube buys: the bound on the gap, with the chance that it holds.

The public names are those of :mod:`gencoh_lib.stagnation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gencoh_lib._bound import Bound
from gencoh_lib._dataset import listing
from gencoh_lib._numbers import share
from gencoh_lib._stay import Proportion
from gencoh_lib._stay_bound import StayBound


@dataclass(frozen=True, repr=False)
class StagnationGuarantee:
    """A bound on the gap at the end of a run, with the probability that it holds.

    Attributes
    ----------
    value : float
        The largest of the bounds of the tubes.
    probability : float
        It holds with at least this probability: 1 - delta - chance to leave.
    delta : float
        Chance that a bound fails.
    leaves : float
        Chance that the run does not stay.
    tubes : int
        How many tubes.
    """

    value: float
    probability: float
    delta: float
    leaves: float
    tubes: int

    @property
    def vacuous(self) -> bool:
        """Whether the probability is not positive; the value may be vacuous by itself."""
        return not self.probability > 0

    def __repr__(self) -> str:
        rows = {
            "gap at most": f"{self.value:.4g}, the largest of {self.tubes}",
            "probability": f"at least {self.probability:.4g}",
            "bounds fail": f"at most {self.delta:.4g}",
            "run leaves": f"at most {self.leaves:.4g}",
        }
        return listing("stagnation guarantee", rows)


def stagnation_guarantee(
    bounds: Sequence[Bound], *, stay: float | StayBound | Proportion, delta: float
) -> StagnationGuarantee:
    r"""Bound the gap at the end of a run by staying in one of several tubes.

    Parameters
    ----------
    bounds : sequence of Bound
        One :func:`tube_bound` for each of the K tubes, each made with ``tubes=K`` and this delta.
    stay : float, StayBound or Proportion
        Probability that the run stays in one of the tubes, or a lower bound on it; of a
        proportion the lower end of the interval is taken, whose own confidence comes on top.
    delta : float
        d of the bounds.

    Returns
    -------
    StagnationGuarantee

    Raises
    ------
    TypeError, ValueError
        If there are no bounds or a number is out of range.

    Notes
    -----
    .. math:: P\bigl(|R(\theta_T) - R_n(\theta_T)| \le \max_j \mathrm{bound}_j\bigr)
        \ge 1 - d - P(\text{the run does not stay}).

    Many minima cost only :math:`\ln K` inside a root. Derived here (stand-in; the text of Imaizumi
    and Schmidt-Hieber was not available to us).

    Examples
    --------
    >>> from gencoh_lib.stagnation import tube_bound
    >>> bound = tube_bound(spectral_norms=[1.0], input_norm=1, lipschitz_loss=1, flat_dimension=0,
    ...                    length=0, thickness=0.01, examples=1000, delta=0.05)
    >>> stagnation_guarantee([bound], stay=0.99, delta=0.05)
    stagnation guarantee
      gap at most  0.06295, the largest of 1
      probability  at least 0.94
      bounds fail  at most 0.05
      run leaves   at most 0.01
    """
    if not bounds:
        raise ValueError("bounds is empty: give the tube_bound of each tube")
    if isinstance(stay, StayBound):
        stays = max(0.0, stay.value)
    else:
        stays = stay.low if isinstance(stay, Proportion) else float(stay)
    if not 0 <= stays <= 1:
        raise ValueError(f"stay must be a probability, got {stays}")
    failing = share("delta", delta)
    return StagnationGuarantee(
        value=max(bound.value for bound in bounds),
        probability=stays - failing,
        delta=failing,
        leaves=1 - stays,
        tubes=len(bounds),
    )
