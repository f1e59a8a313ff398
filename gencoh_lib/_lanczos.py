"""Lanczos' method: the ends of a spectrum, and a small matrix that stands for the whole.

From one vector b and s products it makes an orthonormal basis of the space spanned by b, Ab, A²b,
..., in which A is tridiagonal. In exact arithmetic a short recurrence is enough; in floating point
it loses orthogonality as soon as an eigenvalue is found and then finds it again and again. Here
every new vector is made orthogonal to all earlier ones, twice ("twice is enough", Kahan and
Parlett), which costs memory for s vectors and leaves no ghosts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gencoh_lib._operator import Operator
from gencoh_lib._whole import whole

__all__ = ["Growing", "Krylov", "lanczos", "normal"]


@dataclass(frozen=True, eq=False)
class Krylov:
    """A Krylov space and the tridiagonal matrix T of the operator in it.

    Attributes
    ----------
    diagonal : Tensor
        [s] of T, float64.
    off_diagonal : Tensor
        [s - 1] beside it, positive, float64.
    basis : Tensor
        Q, [s, D], orthonormal rows, in the operator's dtype; the first is the start.
    remainder : float
        Length of what A maps out of the space: A Q^T = Q^T T + remainder * (a unit vector) e_s^T.
    exhausted : bool
        Whether the space is invariant, up to rounding, so that the eigenvalues of T are
        eigenvalues of A and no further step exists.
    """

    diagonal: Tensor
    off_diagonal: Tensor
    basis: Tensor
    remainder: float
    exhausted: bool

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues of T [s], ascending, and its eigenvectors as columns [s, s]."""
        tridiagonal = torch.diag(self.diagonal)
        if len(self.off_diagonal):
            tridiagonal += torch.diag(self.off_diagonal, 1) + torch.diag(self.off_diagonal, -1)
        values, vectors = torch.linalg.eigh(tridiagonal)
        return values, vectors

    def __repr__(self) -> str:
        steps, size = self.basis.shape
        end = "invariant" if self.exhausted else f"remainder {self.remainder:.3g}"
        return f"Krylov space of {steps} steps in {size} dimensions, {end}"


class Growing:
    """A Krylov space that grows by one product at a time, orthogonal to given vectors."""

    def __init__(self, operator: Operator, start: Tensor, beside: Tensor | None = None) -> None:
        self._operator = operator
        self._beside = start.new_empty(0, operator.size) if beside is None else beside
        self._beside = self._beside.to(operator.device, operator.dtype)
        self._rows = self._beside.new_empty(8, operator.size)  # doubled when it is full
        self._diagonal: list[float] = []
        self._off: list[float] = []
        start = start.to(operator.device, operator.dtype)
        self._next = self._cleaned(start)
        self.remainder = _length(self._next)
        self._scale = 0.0
        self.exhausted = self.remainder <= self._noise(_length(start)) or not self._room()

    def __len__(self) -> int:
        return len(self._diagonal)

    def grow(self) -> None:
        """Take one more step; do nothing once the space is invariant."""
        if self.exhausted:
            return
        if len(self):
            self._off.append(self.remainder)
        if len(self) == len(self._rows):
            self._rows = torch.cat([self._rows, torch.empty_like(self._rows)])
        here = self._rows[len(self)]
        here[:] = self._next / self.remainder
        image = self._operator(here)
        self._diagonal.append(float(torch.linalg.vecdot(image.double(), here.double())))
        self._next = self._cleaned(image)
        self.remainder = _length(self._next)
        self._scale = max(self._scale, abs(self._diagonal[-1]) + self.remainder)
        self.exhausted = self.remainder <= self._noise(self._scale) or not self._room()

    def seen(self) -> Krylov:
        """Return the space as it stands."""
        diagonal = torch.tensor(self._diagonal, dtype=torch.float64)
        off = torch.tensor(self._off, dtype=torch.float64)
        return Krylov(diagonal, off, self._rows[: len(self)], self.remainder, self.exhausted)

    def _room(self) -> int:
        return self._operator.size - len(self._beside) - len(self)

    def _noise(self, scale: float) -> float:
        """Below this a remainder is rounding of the product, and its direction means nothing."""
        return float(torch.finfo(self._operator.dtype).eps) * math.sqrt(self._operator.size) * scale

    def _cleaned(self, vector: Tensor) -> Tensor:
        """Take out, twice, what lies along the vectors that are there already."""
        for _ in range(2):
            for span in (self._rows[: len(self)], self._beside):
                vector = vector - span.T @ (span @ vector)
        return vector


def lanczos(
    operator: Operator, steps: int, *, start: Tensor | None = None, seed: int = 0
) -> Krylov:
    r"""Run Lanczos' method for a number of steps, with full reorthogonalisation.

    Parameters
    ----------
    operator : Operator
        A, symmetric.
    steps : int
        Products to spend, s; fewer are if the space becomes invariant.
    start : Tensor, optional
        [D] b, not zero; drawn from a standard normal distribution unless given.
    seed : int
        Of the draw.

    Returns
    -------
    Krylov
        At most D steps; takes the memory of s vectors.

    Raises
    ------
    ValueError
        If ``steps`` is not a whole number >= 1, or the start is zero or of another length.

    Notes
    -----
    .. math:: A Q^\top = Q^\top T + \beta_s\, q_{s+1} e_s^\top

    Lanczos (1950). Each step multiplies the basis so far twice more: s steps cost
    :math:`4 s^2 D` operations beside the products.

    Examples
    --------
    >>> import torch
    >>> A = Operator.of_matrix(torch.diag(torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)))
    >>> space = lanczos(A, 10, seed=0)
    >>> len(space.basis), space.exhausted, [round(float(v), 9) for v in space.ritz()[0]]
    (3, True, [1.0, 2.0, 4.0])
    """
    if whole("steps", steps) < 1:
        raise ValueError(f"steps must be a whole number >= 1, got {steps}")
    if start is None:
        start = normal(operator, seed)
    elif start.shape != (operator.size,):
        raise ValueError(
            f"start must be a vector of length {operator.size}, got {tuple(start.shape)}"
        )
    space = Growing(operator, start)
    if space.exhausted:
        raise ValueError("start is the zero vector: it spans nothing")
    while len(space) < steps and not space.exhausted:
        space.grow()
    return space.seen()


def normal(operator: Operator, seed: int | torch.Generator) -> Tensor:
    """Draw a vector of independent standard normal entries, the same on every device."""
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    drawn = torch.randn(operator.size, generator=generator, dtype=torch.float64)
    return drawn.to(operator.device, operator.dtype)


def _length(vector: Tensor) -> float:
    return float(torch.linalg.vector_norm(vector, dtype=torch.float64))
