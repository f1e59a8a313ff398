"""Robust averages over the first axis, coordinate by coordinate.

The public names are those of :mod:`gencoh_lib.aggregation`.
"""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor

from gencoh_lib._whole import whole

__all__ = [
    "check_level",
    "median_of_means",
    "median_of_three",
    "replaced",
    "winsorize",
    "winsorized_mean",
]

_TILE_BYTES = 2**22  # what a selection works on at a time should stay in the cache


def winsorize(rows: Tensor, level: float) -> Tensor:
    r"""Pull the most extreme values of every coordinate in to the most extreme that are left.

    Parameters
    ----------
    rows : Tensor
        [m, ...] one row an example, floating point; infinities are allowed, NaN is not.
    level : float
        c, percent of the values that are replaced on *each* side, from 0 to 50.

    Returns
    -------
    Tensor
        [m, ...]: in each coordinate the k smallest values are replaced by the next larger one
        and the k largest by the next smaller one, where k is the whole number nearest to
        :math:`c\,(m-1)/100`, the smaller where two are equally near.

    Raises
    ------
    TypeError
        If ``rows`` is no floating-point tensor.
    ValueError
        If ``rows`` has no examples or holds NaN, or ``level`` is not between 0 and 50.

    Notes
    -----
    The bounds are the c-th and the (100 - c)-th percentile by the "nearest" rule, so that they
    are values of the sample: 100 rows and a whole c replace c values a side. Level 0 changes
    nothing; level 50 leaves nothing but the median (for an even m the two middle values, whose
    mean it is).

    Examples
    --------
    >>> import torch
    >>> from gencoh_lib.aggregation import winsorize
    >>> winsorize(torch.tensor([-5.0, 0.0, 1.0, 2.0, 100.0]), 20).tolist()
    [0.0, 0.0, 1.0, 2.0, 2.0]
    """
    _check_rows(rows)
    k = replaced(len(rows), check_level(level))
    return rows.clone() if k == 0 else rows.clamp(*_bounds(rows, k))


def winsorized_mean(rows: Tensor, level: float) -> Tensor:
    """Mean over the first axis of what :func:`winsorize` returns.

    Parameters
    ----------
    rows, level
        As for :func:`winsorize`.

    Returns
    -------
    Tensor
        [...], the shape of one row. Level 0 gives the mean, level 50 the median.

    Raises
    ------
    TypeError, ValueError
        As :func:`winsorize`.

    Examples
    --------
    >>> import torch
    >>> from gencoh_lib.aggregation import winsorized_mean
    >>> rows = torch.tensor([[1.0, 0.0], [2.0, 0.0], [9.0, 3.0]])
    >>> winsorized_mean(rows, 0).tolist(), winsorized_mean(rows, 50).tolist()
    ([4.0, 1.0], [2.0, 0.0])
    """
    _check_rows(rows)
    k = replaced(len(rows), check_level(level))
    if k == 0:
        return rows.mean(0)
    columns = max(1, _TILE_BYTES // (len(rows) * rows.element_size()))
    means = [
        part.clamp(*_bounds(part, k)).mean(0)
        for part in rows.reshape(len(rows), -1).split(columns, 1)
    ]
    return torch.cat(means).view(rows.shape[1:])


def median_of_three(first: Tensor, second: Tensor, third: Tensor) -> Tensor:
    """Middle one of three values, coordinate by coordinate.

    Parameters
    ----------
    first, second, third : Tensor
        Of one shape.

    Returns
    -------
    Tensor
        Of that shape. Every entry *is* one of the three, bit for bit, also beside infinities;
        where one of them is NaN, it is NaN.

    Raises
    ------
    TypeError
        If they are not all tensors.
    ValueError
        If the shapes differ.

    Notes
    -----
    The third value, clamped between the smaller and the larger of the other two. The sum of the
    three minus the smallest and the largest is the same number on paper; in floating point the
    sum swallows small values beside large ones, and returns 0 for (1, 1e20, -1e20).

    Examples
    --------
    >>> import torch
    >>> from gencoh_lib.aggregation import median_of_three
    >>> one, large = torch.tensor(1.0), torch.tensor(1e20)
    >>> float(median_of_three(one, large, -large))
    1.0
    """
    for value in (first, second, third):
        if not isinstance(value, Tensor):
            raise TypeError(f"the three must be tensors, got {type(value).__name__}")
    if not first.shape == second.shape == third.shape:
        shapes = ", ".join(str(tuple(value.shape)) for value in (first, second, third))
        raise ValueError(f"the three must have one shape, got {shapes}")
    return third.clamp(torch.minimum(first, second), torch.maximum(first, second))


def median_of_means(rows: Tensor, groups: int) -> Tensor:
    """Median over groups of the means within groups, coordinate by coordinate.

    Parameters
    ----------
    rows : Tensor
        [m, ...] one row an example; groups are consecutive rows, and differ by at most one in size.
    groups : int
        Number of groups, from 1 (the mean) to m (the median).

    Returns
    -------
    Tensor
        [...], the shape of one row; for an even number of groups the mean of the middle two.

    Raises
    ------
    TypeError
        If ``rows`` is no floating-point tensor, or ``groups`` is not a whole number.
    ValueError
        If ``rows`` has no examples or holds NaN, or ``groups`` is not between 1 and m.

    Examples
    --------
    >>> import torch
    >>> from gencoh_lib.aggregation import median_of_means
    >>> median_of_means(torch.tensor([0.0, 2.0, 1.0, 3.0, 100.0, 0.0]), 3)
    tensor(2.)
    """
    _check_rows(rows)
    if not 1 <= whole("groups", groups) <= len(rows):
        raise ValueError(f"groups must lie between 1 and the {len(rows)} rows, got {groups}")
    means = torch.stack([part.mean(0) for part in rows.tensor_split(groups)])
    return winsorized_mean(means, 50)


def check_level(level: float) -> float:
    """Refuse what is no percentage a side."""
    if isinstance(level, bool) or not isinstance(level, Real) or not 0 <= level <= 50:
        raise ValueError(
            f"level is the percentage of values replaced on each side, from 0 to 50; got {level!r}"
        )
    return float(level)


def replaced(examples: int, level: float) -> int:
    """Return k, the number of values that winsorizing replaces on each side."""
    return max(0, math.ceil(level * (examples - 1) / 100 - 0.5))


def _bounds(rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Order statistics k and m - 1 - k, counted from 0, of every coordinate."""
    low = rows.topk(k + 1, dim=0, largest=False).values[-1]
    high = rows.topk(k + 1, dim=0, largest=True).values[-1]
    return low, high


def _check_rows(rows: Tensor) -> None:
    if not isinstance(rows, Tensor) or not rows.is_floating_point():
        kind = str(rows.dtype) if isinstance(rows, Tensor) else type(rows).__name__
        raise TypeError(f"rows must be a floating-point tensor [m, ...], got {kind}")
    if rows.ndim == 0 or not len(rows):
        raise ValueError(f"rows must be [m, ...] with m >= 1, got shape {tuple(rows.shape)}")
    if bool(rows.isnan().any()):
        raise ValueError("rows hold NaN, which has no place in an order: look where it comes from")
