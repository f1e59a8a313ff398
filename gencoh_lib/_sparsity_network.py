"""What bounds ask of a network and of a sample, each found once, behind `gencoh_lib.sparsity`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gencoh_lib._sparse_hyperparameters import Hyperparameters
from gencoh_lib._sparse_network import pre_activations
from gencoh_lib._sparse_norm_bounds import WeightNorms
from gencoh_lib._sparsity_prior import Prior

Norm = Literal["babel", "minimum", "spectral"]
"""Bounds on sparse norms: the paper's, the smallest known, the smallest without Babel."""

NORMS: tuple[Norm, ...] = ("babel", "minimum", "spectral")


class Network:
    """Weights with their norms, and with those of the centre of a prior."""

    def __init__(self, weights: Sequence[Tensor], prior: Prior | None = None) -> None:
        self.weights = tuple(weights)
        self.prior = Prior.zero(weights) if prior is None else prior
        self.norms = [WeightNorms(w) for w in weights]
        self._centres = [WeightNorms(w) for w in self.prior.weights]
        self.shapes: list[tuple[int, int]] = [(w.shape[0], w.shape[1]) for w in weights]
        self.hidden = len(self.weights) - 1
        self._distances: dict[tuple[int, float], float] = {}

    def row_norm(self, k: int, column_level: int) -> float:
        """Row norm of weight k, counted from 0."""
        found = float(self.norms[k].row_norms[column_level])
        if not found > 0:
            raise ValueError(
                f"weight {k + 1} is zero, so that it has no scale; a network without it computes "
                "the same, and hyper can give it a row norm by hand"
            )
        return found

    def babel(self, k: int, out: int, into: int, norm: Norm, points: int | None) -> float:
        r"""Smallest :math:`\eta` known for weight k at these levels, rounded up to a grid."""
        norms = self.norms[k]
        if norm == "babel":
            eta = float(norms.babel(into)[out])
        elif norm == "minimum":
            eta = norms.at(out, into).effective_mu
        else:
            omega = min(norms.spectral, float(norms.top_rows(into)[out]))
            eta = max(0.0, (omega / self.row_norm(k, into)) ** 2 - 1)
        return eta if points is None else rounded_up(eta, self.shapes[k][0] - out, points)

    def hyper(
        self,
        levels: Sequence[int],
        perturbations: Sequence[float],
        input_norm: float,
        norm: Norm,
        points: int | None,
    ) -> Hyperparameters:
        """Hyper-parameters with the norms of these weights."""
        columns = [0, *levels]
        return Hyperparameters(
            tuple(levels),
            tuple(self.row_norm(k, into) for k, into in enumerate(columns)),
            tuple(self.babel(k, out, columns[k], norm, points) for k, out in enumerate(levels)),
            tuple(perturbations),
            input_norm,
        )

    def distance(self, k: int, hyper: Hyperparameters, *, own_scale: bool) -> float:
        """Squared Frobenius distance of weight k to the centre of the prior.

        With `own_scale` both are measured in units of their own row norm, and the result in those
        of the network.
        """
        factor = 1.0
        centre = self._centres[k]
        if own_scale and self.prior.kind != "zero":
            length = float(centre.row_norms[hyper.column_level(k)])
            factor = hyper.row_norms[k] / length if length else 0.0
        key = (k, factor)
        if key not in self._distances:
            change = self.weights[k] - factor * centre.weight
            self._distances[key] = float(change.square().sum())
        return self._distances[key]


def growths(perturbations: Sequence[float]) -> list[float]:
    """Relative changes after each layer, rounded as those of the hyper-parameters are."""
    return [math.expm1(total) for total in accumulate(map(math.log1p, perturbations))]


def rounded_up(eta: float, rows: int, points: int) -> float:
    r"""Round the Babel function up to a grid.

    Of `rows` rows it lies between 0 and rows - 1; on the grid
    :math:`1 + \eta = \text{rows}^{j / (\text{points} - 1)}`, j = 0, ..., points - 1.
    """
    if rows == 1:
        return 0.0
    if points == 1:
        return rows - 1.0
    step = math.log(rows) / (points - 1)
    j = max(0, math.ceil(math.log1p(eta) / step) - 1)
    while j < points - 1 and math.expm1(j * step) < eta:
        j += 1
    return rows - 1.0 if j >= points - 1 else math.expm1(j * step)


class Depths:
    """Sorted pre-activations of the hidden layers at a sample, and the outputs."""

    def __init__(self, weights: Sequence[Tensor], x: Tensor) -> None:
        *hidden, self.outputs = (h.numpy() for h in pre_activations(weights, x))
        self.ordered: list[NDArray[np.float64]] = hidden
        for h in hidden:
            h.sort(axis=1)
        self._rows = np.arange(len(x))

    def radius(self, k: int, level: int, scale: float) -> NDArray[np.float64]:
        """[m] sparse local radius of layer k, counted from 0."""
        if level == 0:
            return np.full(len(self._rows), np.inf)
        return np.maximum(0.0, -self.ordered[k][:, level - 1] / scale)

    def count(self, k: int, least: float, scale: float | NDArray[np.float64]) -> NDArray[np.int64]:
        """[m] largest level, up to all units, at which the radius is at least (or above) it."""
        ordered = self.ordered[k]
        low = np.zeros(len(ordered), dtype=np.int64)
        high = np.full(len(ordered), ordered.shape[1], dtype=np.int64)
        while (low < high).any():
            middle = (low + high) // 2
            depth = -ordered[self._rows, np.minimum(middle, ordered.shape[1] - 1)] / scale
            off = (depth >= least if least > 0 else depth > 0) & (middle < high)
            low, high = np.where(off, middle + 1, low), np.where(off, high, middle)
        return low
