"""Search for the levels and perturbations of the best bound, behind :mod:`gencoh_lib.sparsity`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn

from gencoh_lib._sparsity_bound import SparsityBound, one_shot_of, theorem_13_of
from gencoh_lib._sparsity_levels import greedy, quantile_share
from gencoh_lib._sparsity_network import Norm
from gencoh_lib._sparsity_prior import Part, Prior
from gencoh_lib._sparsity_sample import (
    Sample,
    check_delta,
    check_norm,
    check_points,
    measure,
    sample_of,
)

Schedule = Literal["equal", "early layers less"]
"""How one number becomes a perturbation of each layer."""

BoundName = Literal["theorem 13", "one-shot"]
"""The bounds that :func:`search` knows."""


def geometric(first: float, last: float, points: int) -> tuple[float, ...]:
    """Return points that grow by a constant factor."""
    return tuple(first * (last / first) ** (j / (points - 1)) for j in range(points))


@dataclass(frozen=True)
class Grid:
    r"""What a search looks at, fixed before the sample is seen.

    Attributes
    ----------
    epsilons : tuple of float
        :math:`T_\varepsilon` sizes of the perturbation, each above 0.
    losses : tuple of float
        Targets :math:`\alpha` for the sparse loss; each leads to levels by the quantile rule.
        They cost nothing, since all levels are paid for.
    babel_points : int
        :math:`T_\eta`, points of the grid to which the Babel function of each hidden layer is
        rounded up.
    schedule : str
        ``"equal"``: :math:`\varepsilon_k = \varepsilon`; ``"early layers less"``:
        :math:`\varepsilon_k = \varepsilon / (K + 1 - k)` in hidden layers, as in the paper's
        appendix B, and :math:`\varepsilon` in the last, which is not printed.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range, or the schedule unknown.

    Examples
    --------
    >>> round(Grid(epsilons=(0.01, 0.1), babel_points=10).log_size([(4, 4), (2, 4)]), 6)
    4.382027
    """

    epsilons: tuple[float, ...] = geometric(1e-4, 1.0, 81)
    losses: tuple[float, ...] = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)
    babel_points: int = 100
    schedule: Schedule = "equal"

    def __post_init__(self) -> None:
        for name in ("epsilons", "losses"):
            values = tuple(map(float, getattr(self, name)))
            object.__setattr__(self, name, values)
            if not all(math.isfinite(value) and value >= 0 for value in values):
                raise ValueError(f"{name} must be finite and not negative, got {values}")
        if not self.epsilons or not min(self.epsilons) > 0:
            raise ValueError(f"epsilons must be positive, and one at least; got {self.epsilons}")
        check_points(self.babel_points)
        if self.schedule not in get_args(Schedule):
            raise ValueError(
                f"schedule must be one of {', '.join(map(repr, get_args(Schedule)))}, "
                f"got {self.schedule!r}"
            )

    def perturbations(self, epsilon: float, hidden: int) -> tuple[float, ...]:
        """Return a perturbation for each of the K + 1 layers, K being `hidden`."""
        if self.schedule == "equal":
            return (epsilon,) * (hidden + 1)
        return (*(epsilon / (hidden + 1 - k) for k in range(1, hidden + 1)), epsilon)

    def log_size(self, shapes: Sequence[tuple[int, int]]) -> float:
        r"""Union cost: the logarithm of the number T of choices for a network.

        Parameters
        ----------
        shapes : sequence of pairs
            (d_k, d_{k-1}) of its K + 1 weights.

        Returns
        -------
        float
            :math:`\log T_\varepsilon + \sum_{k=1}^{K} (\log d_k + \log T_\eta)`: all levels of all
            hidden layers, with every grid point.

        Notes
        -----
        Muthukumar and Sulam (2023), p. 10. They write :math:`T_\eta` once for all layers.

        Examples
        --------
        >>> Grid(epsilons=(0.1,), babel_points=1).log_size([(1, 4), (2, 1)])
        0.0
        """
        hidden = [rows for rows, _ in shapes[:-1]]
        return math.fsum([
            math.log(len(self.epsilons)),
            *map(math.log, hidden),
            len(hidden) * math.log(self.babel_points),
        ])  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """One choice that a search has looked at, and the bound there."""

    epsilon: float
    loss: float
    levels: tuple[int, ...]
    value: float


@dataclass(frozen=True, eq=False, repr=False)
class Search:
    """The best bound of a grid, and everything that was tried.

    Attributes
    ----------
    best : SparsityBound
        With the union cost of the whole grid.
    dense : SparsityBound
        The best with level 0 everywhere, at the same union cost.
    tried : tuple of Trial
        Every choice.
    grid : Grid
        What was searched.

    Examples
    --------
    >>> import torch
    >>> W, V = torch.eye(4) - 0.5, torch.eye(2).repeat(1, 2)
    >>> x, y = torch.eye(4).repeat(2500, 1), torch.tensor([0, 1] * 5000)
    >>> search([W, V], x, y, prior=Prior.fixed([W, V]), bound="one-shot").best.vacuous
    False
    """

    best: SparsityBound
    dense: SparsityBound
    tried: tuple[Trial, ...]
    grid: Grid

    def __repr__(self) -> str:
        """Return a small table: for each size of the perturbation the best that was tried."""
        lines = [
            f"search over {len(self.grid.epsilons)} perturbations, all levels, "
            f"{self.grid.babel_points} Babel points a layer",
            f"  union cost {self.best.union_cost:.3g}, {len(self.tried)} choices evaluated",
            f"  best {self.best.value:.4g} at levels {self.best.hyper.levels}, dense "
            f"{self.dense.value:.4g}",
            "  epsilon     best    levels",
        ]
        for epsilon in self.grid.epsilons:
            row = min((t for t in self.tried if t.epsilon == epsilon), key=lambda t: t.value)
            lines.append(f"  {epsilon:<9.3g} {row.value:>7.4g}   {', '.join(map(str, row.levels))}")
        return "\n".join(lines)


def search(
    model: nn.Module | Sequence[Tensor],
    x: Tensor | Part,
    y: Tensor | None = None,
    *,
    prior: Prior | None = None,
    grid: Grid | None = None,
    delta: float = 0.05,
    bound: BoundName = "theorem 13",
    input_norm: float = 1.0,
    norm: Norm = "babel",
    paper_exact: bool = False,
) -> Search:
    r"""The best bound of a grid of perturbations and levels, the price of choosing included.

    Parameters
    ----------
    model, x, y, prior, input_norm, norm
        See :func:`theorem_13`.
    grid : Grid, optional
        What to look at, fixed before the sample was seen.
    delta : float
        Probability that the bound may fail, for all choices of the grid at once.
    bound : str
        ``"theorem 13"``, or ``"one-shot"``, see :func:`one_shot`.
    paper_exact : bool
        See :func:`theorem_13`; not for the one-shot bound.

    Returns
    -------
    Search
        For every perturbation, level 0 and the levels of :func:`greedy_levels` for every target
        of the grid were evaluated; any other levels would have been paid for too.

    Raises
    ------
    SeenByPriorError, TypeError, ValueError
        See :func:`theorem_13`; also if `bound` is unknown.

    Notes
    -----
    Muthukumar and Sulam (2023), section 3.3 and appendix B, with the corrections named in
    :func:`greedy_levels`. Norms of the layers cost nothing, since network and prior are each
    divided by their own.

    Examples
    --------
    >>> import torch
    >>> W, V = torch.eye(4) - 0.5, torch.eye(2).repeat(1, 2)
    >>> x, y = torch.eye(4).repeat(2500, 1), torch.tensor([0, 1] * 5000)
    >>> found = search([W, V], x, y, prior=Prior.fixed([W, V]), grid=Grid(epsilons=(0.05, 0.06)))
    >>> found.best.hyper.levels, round(found.best.union_cost, 4)
    ((3,), 6.6846)
    """
    grid = Grid() if grid is None else grid
    check_delta(delta)
    check_norm(norm)
    if bound not in get_args(BoundName):
        raise ValueError(
            f"bound must be one of {', '.join(map(repr, get_args(BoundName)))}, got {bound!r}"
        )
    if paper_exact and bound == "one-shot":
        raise ValueError("paper_exact is for theorem 13: the one-shot bound is not the paper's")
    sample = sample_of(model, x, y, prior)
    sample.check_input_norm(input_norm)
    cost = grid.log_size(sample.network.shapes)

    def evaluate(levels: tuple[int, ...], perturbations: tuple[float, ...]) -> SparsityBound:
        hyper = sample.network.hyper(levels, perturbations, input_norm, norm, grid.babel_points)
        found = measure(sample, hyper, delta=delta, union_cost=cost, own_scale=True)
        if bound == "one-shot":
            return one_shot_of(found)
        return theorem_13_of(found, paper_exact=paper_exact)

    tried: list[Trial] = []
    found: list[SparsityBound] = []
    for epsilon in grid.epsilons:
        perturbations = grid.perturbations(epsilon, sample.network.hidden)
        for levels, loss in _candidates(sample, grid, perturbations, input_norm, norm).items():
            found.append(evaluate(levels, perturbations))
            tried.append(Trial(epsilon, loss, levels, found[-1].value))
    return Search(
        best=min(found, key=lambda one: one.value),
        dense=min((o for o in found if not any(o.hyper.levels)), key=lambda one: one.value),
        tried=tuple(tried),
        grid=grid,
    )


def _candidates(
    sample: Sample, grid: Grid, perturbations: tuple[float, ...], input_norm: float, norm: Norm
) -> dict[tuple[int, ...], float]:
    """Levels to look at, each with the smallest target that led to it."""
    hidden = sample.network.hidden
    found = {(0,) * hidden: 0.0}
    for loss in sorted(grid.losses):
        levels = greedy(
            sample.network, sample.depths, perturbations, quantile_share(loss, hidden),
            input_norm, norm, grid.babel_points,
        )  # fmt: skip
        found.setdefault(levels, loss)
    return found
