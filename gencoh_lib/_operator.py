"""A symmetric matrix that is known by its products with vectors.

Behind :mod:`gencoh_lib.curvature`, whose algorithms ask for nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Operator", "mean_operator"]

DENSE_LIMIT = 20_000  # side of the largest matrix that is ever formed: 3.2 GB in float64


@dataclass(frozen=True, eq=False)
class Operator:
    """A symmetric matrix that is known by its products.

    Attributes
    ----------
    product : callable
        Takes vectors as rows, [k, D], and returns their products as rows, [k, D].
    size : int
        D, the number of rows.
    dtype, device
        Of the vectors that it takes and returns.
    name : str
        What it is, for messages and tables.

    Examples
    --------
    >>> import torch
    >>> double = Operator(lambda rows: 2 * rows, size=3)
    >>> double(torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)).tolist()
    [2.0, 0.0, -2.0]
    """

    product: Callable[[Tensor], Tensor]
    size: int
    dtype: torch.dtype = torch.float64
    device: torch.device | str = "cpu"
    name: str = "operator"

    @classmethod
    def of_matrix(cls, matrix: Tensor) -> Operator:
        """Wrap a symmetric matrix [D, D].

        Raises
        ------
        ValueError
            If it is not square, finite and symmetric up to rounding.
        """
        if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
            raise ValueError(f"matrix must be square [D, D], got shape {tuple(matrix.shape)}")
        apart = (matrix - matrix.T).abs().max()
        if not apart <= 100 * torch.finfo(matrix.dtype).eps * matrix.abs().max():
            raise ValueError(
                f"matrix is not symmetric: entries differ by up to {float(apart):.3g} from those "
                "across the diagonal; take (A + A.T) / 2 if that is what is meant"
            )
        kept = matrix.detach()
        return cls(lambda rows: rows @ kept, len(kept), kept.dtype, kept.device, "matrix")

    def __call__(self, vectors: Tensor) -> Tensor:
        """Multiply one vector [D], or several as rows [k, D]; the result has the same shape.

        Raises
        ------
        ValueError
            If the vectors have another length, or a product is not finite.
        """
        if not 1 <= vectors.dim() <= 2 or vectors.shape[-1] != self.size:
            got = tuple(vectors.shape)
            raise ValueError(f"the {self.name} takes vectors of length {self.size}, got {got}")
        rows = vectors.detach().to(self.device, self.dtype).reshape(-1, self.size)
        found = self.product(rows) if len(rows) else rows
        # The sum is finite where all entries are, but for overflow: one pass instead of two.
        if not bool(torch.isfinite(found.sum())) and not bool(torch.isfinite(found).all()):
            raise ValueError(
                f"a product with the {self.name} holds NaN or infinity: look at the vector, or at "
                "a loss without a second derivative at this point, such as a norm at zero"
            )
        return found.reshape(vectors.shape)

    def dense(self, *, chunk: int = 64) -> Tensor:
        """Form the matrix [D, D] by D products, ``chunk`` at a time, and make it symmetric.

        Raises
        ------
        ValueError
            If D is above 20,000.
        """
        if self.size > DENSE_LIMIT:
            raise ValueError(
                f"the {self.name} has {self.size:,} rows; a dense matrix is formed up to "
                f"{DENSE_LIMIT:,}. Use eigenpairs or spectral_density"
            )
        found = torch.empty(self.size, self.size, dtype=self.dtype, device=self.device)
        for first in range(0, self.size, chunk):
            rows = found.new_zeros(min(chunk, self.size - first), self.size)
            rows[:, first:].fill_diagonal_(1)
            found[first : first + len(rows)] = self(rows)
        return (found + found.T) / 2

    def __repr__(self) -> str:
        return f"{self.name}, {self.size} x {self.size}, {self.dtype}"


def mean_operator(
    operators: Sequence[Operator], weights: Sequence[float] | None = None
) -> Operator:
    """Mean of several operators, such as the Hessians of mini-batches.

    Parameters
    ----------
    operators : sequence of Operator
        Of one size.
    weights : sequence of float, optional
        One for each, such as the sizes of the mini-batches; they are divided by their sum. Equal
        unless given.

    Returns
    -------
    Operator
        Every product asks all of them, whose graphs therefore stay in memory.

    Raises
    ------
    ValueError
        If there are none, sizes differ, or the weights do not fit or are not positive.

    Examples
    --------
    >>> one, three = (Operator(lambda rows, c=c: c * rows, size=1) for c in (1, 3))
    >>> mean_operator([one, three], weights=[3, 1]).dense().item()
    1.5
    """
    operators = list(operators)
    if not operators:
        raise ValueError("there are no operators to take the mean of")
    first = operators[0]
    sizes = sorted({operator.size for operator in operators})
    if len(sizes) > 1:
        raise ValueError(f"operators of sizes {sizes} cannot be averaged: give those of one model")
    given = [1.0] * len(operators) if weights is None else [float(w) for w in weights]
    if len(given) != len(operators) or not all(w > 0 for w in given):
        raise ValueError(f"weights must be {len(operators)} positive numbers, got {given}")
    shares = [weight / sum(given) for weight in given]

    def product(rows: Tensor) -> Tensor:
        total = torch.zeros_like(rows)
        for share, operator in zip(shares, operators, strict=True):
            total += share * operator(rows).to(total)
        return total

    name = f"mean of {len(operators)}: {first.name}"
    return Operator(product, first.size, first.dtype, first.device, name)
