"""Projection on networks with bounded spectral norms, behind :mod:`gencoh_lib.stagnation`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gencoh_lib._numbers import positive


class SpectralClip:
    r"""Project flat parameter vectors on networks whose layers have bounded spectral norms.

    Parameters
    ----------
    shapes : sequence of sequences of int
        Shapes of the parameters, in the order in which the flat vector holds them; matrices are
        clipped, all others left as they are.
    bounds : float or sequence of float
        Largest spectral norm, one for all matrices or one for each.

    Raises
    ------
    ValueError
        If there is no matrix, a bound is not a positive number, or their number is wrong.

    Notes
    -----
    Cutting the singular values at the bound is the nearest point in the Frobenius norm, so that
    this is the projection on a product of balls.

    Examples
    --------
    >>> import torch
    >>> clip = SpectralClip([(2, 2)], bounds=1.0)
    >>> [round(value, 6) for value in clip(torch.tensor([[3.0, 0.0, 0.0, 0.5]]))[0].tolist()]
    [1.0, 0.0, 0.0, 0.5]
    """

    def __init__(self, shapes: Sequence[Sequence[int]], bounds: float | Sequence[float]) -> None:
        self.shapes = tuple(tuple(shape) for shape in shapes)
        matrices = sum(len(shape) == 2 for shape in self.shapes)
        if not matrices:
            raise ValueError("no matrix among the shapes: there is no spectral norm to clip")
        each = [bounds] * matrices if isinstance(bounds, int | float) else list(bounds)
        if len(each) != matrices:
            raise ValueError(
                f"{len(each)} bounds for {matrices} matrices: one each, or one for all"
            )
        self.bounds = tuple(positive("bounds", bound) for bound in each)
        self.dimension = sum(math.prod(shape) for shape in self.shapes)

    def __call__(self, theta: Tensor) -> Tensor:
        """Return the projection of points [chains, D]."""
        if theta.ndim != 2 or theta.shape[1] != self.dimension:
            raise ValueError(
                f"the shapes hold {self.dimension} parameters, the points are of shape "
                f"{tuple(theta.shape)}"
            )
        parts, bounds = [], iter(self.bounds)
        split = theta.split([math.prod(shape) for shape in self.shapes], 1)
        for shape, part in zip(self.shapes, split, strict=True):
            clipped = part if len(shape) != 2 else _clip(part, shape, next(bounds))
            parts.append(clipped)
        return torch.cat(parts, 1)


def _clip(rows: Tensor, shape: tuple[int, ...], bound: float) -> Tensor:
    """Clip the chains that can be too large: no spectral norm is above the Frobenius norm."""
    suspects = torch.linalg.vector_norm(rows, dim=1) > bound
    if not suspects.any():
        return rows
    u, s, v = torch.linalg.svd(rows[suspects].unflatten(1, shape), full_matrices=False)
    clipped = (u * s.clamp(max=bound).unsqueeze(-2)) @ v
    kept = (s[:, :1] <= bound).to(rows.dtype)  # inside already: not even rounded
    rows = rows.clone()
    rows[suspects] = kept * rows[suspects] + (1 - kept) * clipped.flatten(1)
    return rows
