"""Upper bounds on sparse induced norms, behind :mod:`gencoh_lib.sparsity`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gencoh_lib._dataset import listing
from gencoh_lib._sparse_norms import (
    largest_entry,
    level_of,
    matrix_of,
    reduced_babel,
    reduced_row_norms,
)


@dataclass(frozen=True, repr=False)
class SparseNorm:
    r"""Three upper bounds on a sparse induced norm :math:`\lVert W \rVert_{(s_2,s_1)}`.

    Attributes
    ----------
    row_level, column_level : int
        Rows and columns struck out, s_2 and s_1.
    row_norm : float
        :math:`\xi = \lVert W \rVert_{(d_2-1,\,s_1)}`, which is also a lower bound.
    mu : float
        Reduced Babel function :math:`\mu_{s_2,s_1}(W)`.
    spectral : float
        :math:`\lVert W \rVert_2`, the norm with nothing struck out.
    top_rows : float
        Root of the sum of the d_2 - s_2 largest squared norms of reduced rows.

    Examples
    --------
    >>> import torch
    >>> sparse_norm_bounds(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), 1, 0)
    ||W||_(1,0) <= 1.41421, the smallest of
      Babel: row norm * sqrt(1 + mu)  1.41421  = 1.41421 * sqrt(1 + 0)
      spectral norm of W              1.41421
      largest reduced rows            1.41421
    """

    row_level: int
    column_level: int
    row_norm: float
    mu: float
    spectral: float
    top_rows: float

    @property
    def babel(self) -> float:
        r"""Bound :math:`\xi \sqrt{1 + \mu}`: Lemma 18 of the paper."""
        return self.row_norm * math.sqrt(1 + self.mu)

    @property
    def value(self) -> float:
        """The smallest of the three bounds; that of the minimum is derived in the course."""
        return min(self.babel, self.spectral, self.top_rows)

    @property
    def effective_mu(self) -> float:
        r"""Number :math:`\eta \ge 0` for which :math:`\xi\sqrt{1+\eta}` is the smallest bound."""
        return max(0.0, (self.value / self.row_norm) ** 2 - 1) if self.row_norm else 0.0

    def __repr__(self) -> str:
        """Return a small table."""
        return listing(
            f"||W||_({self.row_level},{self.column_level}) <= {self.value:.6g}, the smallest of",
            {
                "Babel: row norm * sqrt(1 + mu)": (
                    f"{self.babel:.6g}  = {self.row_norm:.6g} * sqrt(1 + {self.mu:.6g})"
                ),
                "spectral norm of W": f"{self.spectral:.6g}",
                "largest reduced rows": f"{self.top_rows:.6g}",
            },
        )


class WeightNorms:
    """Norms of one weight at every level, each computed when first asked for and then kept."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = matrix_of(weight)
        self._babel: dict[int, Tensor] = {}
        self._top_rows: dict[int, Tensor] = {}

    @cached_property
    def row_norms(self) -> Tensor:
        """[columns], by column level: see :func:`reduced_row_norms`."""
        return reduced_row_norms(self.weight)

    @cached_property
    def spectral(self) -> float:
        """Largest singular value."""
        return float(torch.linalg.matrix_norm(self.weight, 2))

    def babel(self, column_level: int) -> Tensor:
        """[rows], by row level: see :func:`reduced_babel`."""
        if column_level not in self._babel:
            self._babel[column_level] = reduced_babel(self.weight, column_level)
        return self._babel[column_level]

    def top_rows(self, column_level: int) -> Tensor:
        """[rows], by row level: root of the sum of the largest squared norms of reduced rows."""
        if column_level not in self._top_rows:
            kept = self.weight.shape[1] - column_level
            unit = largest_entry(self.weight)
            squares = (self.weight / unit).square()
            lengths = squares.topk(kept, dim=1, sorted=False).values.sum(1)
            sums = lengths.sort(descending=True).values.cumsum(0)
            self._top_rows[column_level] = unit * sums.sqrt().flip(0)
        return self._top_rows[column_level]

    def at(self, row_level: int, column_level: int) -> SparseNorm:
        """All bounds at one pair of levels."""
        rows, columns = self.weight.shape
        out = level_of("row_level", row_level, rows)
        into = level_of("column_level", column_level, columns)
        return SparseNorm(
            row_level=out,
            column_level=into,
            row_norm=float(self.row_norms[into]),
            mu=float(self.babel(into)[out]),
            spectral=self.spectral,
            top_rows=float(self.top_rows(into)[out]),
        )


def sparse_norm_bounds(weight: Tensor, row_level: int, column_level: int) -> SparseNorm:
    r"""Bound the sparse induced norm of a matrix in three ways.

    Parameters
    ----------
    weight : Tensor
        [d_2, d_1] matrix.
    row_level, column_level : int
        Numbers s_2 and s_1 of rows and columns struck out.

    Returns
    -------
    SparseNorm
        The Babel bound :math:`\lVert W \rVert_{(s_2,s_1)} \le \xi \sqrt{1 + \mu_{s_2,s_1}}`, the
        spectral norm, the largest rows, and the smallest of these.

    Raises
    ------
    TypeError, ValueError
        If `weight` is no floating-point matrix, holds NaN or infinity, or a level is too large.

    Notes
    -----
    The Babel bound is Lemma 18 of Muthukumar and Sulam (2023); for dense Gaussian weights it is
    far above the spectral norm, which is why the minimum, derived in the course, is worth taking.

    Examples
    --------
    >>> import torch
    >>> W = torch.tensor([[3.0, 0.0, 4.0], [0.0, 1.0, 0.0], [1.0, 2.0, 2.0]])
    >>> bounds = sparse_norm_bounds(W, 1, 2)
    >>> round(bounds.babel, 6), round(bounds.value, 6), round(bounds.row_norm, 6)
    (4.898979, 4.472136, 4.0)
    """
    return WeightNorms(weight).at(row_level, column_level)
