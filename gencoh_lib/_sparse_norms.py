"""Norms of a weight matrix once rows and columns are struck out, behind :mod:`gencoh_lib.sparsity`.

A level counts what is struck out, so level 0 is the whole matrix. Rows are outputs, columns inputs.
"""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from gencoh_lib._whole import whole

_BYTES = 4 * 2**20  # of products of two rows held at once: what fits a cache is fastest


def matrix_of(weight: Tensor, name: str = "weight") -> Tensor:
    """Return the weight in float64 on the CPU, checked."""
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        found = weight.dtype if isinstance(weight, Tensor) else type(weight).__name__
        raise TypeError(f"{name} must be a floating-point tensor [rows, columns], got {found}")
    if weight.ndim != 2 or not weight.numel():
        raise ValueError(f"{name} must be [rows, columns], not empty; got {tuple(weight.shape)}")
    if not bool(weight.isfinite().all()):
        raise ValueError(f"{name} holds NaN or infinity; no norm bounds it")
    return weight.detach().to("cpu", torch.float64)


def level_of(name: str, level: int, size: int) -> int:
    """Return a level as an int, at least one row or column being left."""
    level = whole(name, level)
    if not 0 <= level < size:
        raise ValueError(
            f"{name} must be from 0 to {size - 1}, since at least one of {size} is left; "
            f"got {level}"
        )
    return level


def largest_entry(matrix: Tensor) -> float:
    """Largest absolute entry, by which to divide before squaring; 1 for a matrix of zeros."""
    return float(matrix.abs().max()) or 1.0


def reduced_row_norms(weight: Tensor) -> Tensor:
    r"""Largest norm of a row without its smallest entries, at all column levels at once.

    Parameters
    ----------
    weight : Tensor
        [d_2, d_1] matrix.

    Returns
    -------
    Tensor
        [d_1] float64; entry s_1 is :math:`\lVert W \rVert_{(d_2-1,\,s_1)}`, the largest 2-norm of
        d_1 - s_1 entries of one row. It does not increase with s_1.

    Raises
    ------
    TypeError, ValueError
        If `weight` is no floating-point matrix, or holds NaN or infinity.

    Notes
    -----
    :math:`\max_i \sqrt{\textstyle\sum \text{of the } d_1 - s_1 \text{ largest } W_{ij}^2}`, the
    special case of Definition 1 of Muthukumar and Sulam (2023) that is cheap: one sort.

    Examples
    --------
    >>> import torch
    >>> reduced_row_norms(torch.tensor([[3.0, 0.0, 4.0], [0.0, 1.0, 0.0], [1.0, 2.0, 2.0]]))
    tensor([5., 5., 4.], dtype=torch.float64)
    """
    matrix = matrix_of(weight)
    unit = largest_entry(matrix)
    squares = np.sort((matrix / unit).square().numpy(), axis=1)
    sums = torch.from_numpy(squares).flip(1).cumsum(1).amax(0)
    return unit * sums.sqrt().flip(0)


def reduced_babel(weight: Tensor, column_level: int, *, byte_budget: int = _BYTES) -> Tensor:
    r"""Reduced Babel function, exact, at all row levels at once.

    It measures how far rows are from orthogonal when the d_1 - s_1 columns that are left may be
    the worst ones for each pair of rows.

    Parameters
    ----------
    weight : Tensor
        [d_2, d_1] matrix.
    column_level : int
        Number s_1 of columns struck out, from 0 to d_1 - 1.
    byte_budget : int
        Bytes of products of two rows held at once; at least one row against all others is.

    Returns
    -------
    Tensor
        [d_2] float64; entry s_2 is :math:`\mu_{s_2,s_1}(W)`, from 0 to d_2 - s_2 - 1. Entry
        d_2 - 1 is 0, and so is everything for a matrix of zeros.

    Raises
    ------
    TypeError, ValueError
        If `weight` is no floating-point matrix, holds NaN or infinity, or the level is too large.

    Notes
    -----
    .. math::

        \mu_{s_2,s_1}(W) = \frac{1}{\lVert W \rVert_{(d_2-1,\,s_1)}^2}
        \max_{|J_2| = d_2 - s_2}\ \max_{j \in J_2} \sum_{i \in J_2,\, i \ne j}\
        \max_{|J_1| = d_1 - s_1} \left| \langle w_i[J_1], w_j[J_1] \rangle \right|.

    Definition 2 of Muthukumar and Sulam (2023). Their Algorithm 1 is misprinted in five places;
    this is the corrected one: the inner maximum sums the largest, or the smallest, d_1 - s_1
    products :math:`W_{ic} W_{jc}`, the outer one the largest d_2 - s_2 - 1 of those.

    Examples
    --------
    >>> import torch
    >>> reduced_babel(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), 1)
    tensor([1., 0.], dtype=torch.float64)
    """
    matrix = matrix_of(weight)
    rows, columns = matrix.shape
    level = level_of("column_level", column_level, columns)
    norm = float(reduced_row_norms(matrix)[level])
    if norm == 0:
        return torch.zeros(rows, dtype=torch.float64)
    matrix = matrix / norm  # the function does not change, and nothing overflows
    products = (matrix @ matrix.T).abs() if level == 0 else _products(matrix, level, byte_budget)
    products.fill_diagonal_(0)
    ranked = torch.from_numpy(np.sort(products.numpy(), axis=1)).flip(1)
    sums = ranked[:, :-1].cumsum(1).amax(0).flip(0)
    most = torch.arange(rows - 1, 0, -1, dtype=torch.float64)  # by Cauchy-Schwarz; rounding aside
    return torch.cat([torch.minimum(sums, most), sums.new_zeros(1)])


def _products(matrix: Tensor, level: int, byte_budget: int) -> Tensor:
    """[rows, rows] of the largest |inner product| of two rows over columns - level columns."""
    w = matrix.numpy()
    rows, columns = w.shape
    kept = columns - level
    step = max(1, byte_budget // (8 * rows * columns))
    found = np.zeros((rows, rows))
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        u = w[start:stop, None, :] * w[None, start:, :]  # the matrix of results is symmetric
        u.partition(level, axis=-1)
        largest = u[..., level:].sum(-1)
        u.partition(kept - 1, axis=-1)
        smallest = u[..., :kept].sum(-1)
        found[start:stop, start:] = np.maximum(largest, -smallest)
    upper = np.triu(found, 1)
    return torch.from_numpy(upper + upper.T)


def sparse_norm(weight: Tensor, row_level: int, column_level: int, *, most: int = 100_000) -> float:
    r"""Sparse induced norm of a small matrix, by listing its submatrices.

    Parameters
    ----------
    weight : Tensor
        [d_2, d_1] matrix.
    row_level, column_level : int
        Numbers s_2 and s_1 of rows and columns struck out.
    most : int
        Submatrices to list at most; their number is a product of two binomial coefficients.

    Returns
    -------
    float
        :math:`\lVert W \rVert_{(s_2,s_1)}`.

    Raises
    ------
    TypeError, ValueError
        If `weight` is no floating-point matrix, holds NaN or infinity, a level is too large, or
        there are more submatrices than `most`.

    Notes
    -----
    :math:`\max \lVert P_{J_2,J_1}(W) \rVert_2` over :math:`|J_2| = d_2 - s_2`,
    :math:`|J_1| = d_1 - s_1`: Definition 1 of Muthukumar and Sulam (2023).

    Examples
    --------
    >>> import torch
    >>> sparse_norm(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), 1, 1)
    1.0
    """
    matrix = matrix_of(weight)
    rows, columns = matrix.shape
    out = level_of("row_level", row_level, rows)
    into = level_of("column_level", column_level, columns)
    count = math.comb(rows, out) * math.comb(columns, into)
    if count > most:
        raise ValueError(
            f"{count} submatrices to list, more than most = {most}; bound the norm with "
            "sparse_norm_bounds, or raise most"
        )
    some_rows = torch.tensor(list(combinations(range(rows), rows - out)))
    some_columns = torch.tensor(list(combinations(range(columns), columns - into)))
    submatrices = matrix[some_rows][:, :, some_columns].transpose(1, 2)
    return float(torch.linalg.matrix_norm(submatrices, 2).max())
