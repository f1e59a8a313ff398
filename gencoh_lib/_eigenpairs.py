"""Eigenvalues and eigenvectors at both ends of a spectrum, with residuals."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gencoh_lib._lanczos import Growing, Krylov, normal
from gencoh_lib._operator import Operator
from gencoh_lib._whole import whole

__all__ = ["Eigenpairs", "eigenpairs"]


@dataclass(frozen=True, eq=False)
class Eigenpairs:
    r"""Eigenvalues at the ends of a spectrum, each with its vector and its residual.

    Attributes
    ----------
    values : Tensor
        [k] float64, descending: the largest first, then those asked for at the bottom.
    vectors : Tensor
        [k, D] orthonormal rows, in the operator's dtype.
    residuals : Tensor
        [k] :math:`\\lVert Av - \\lambda v\\rVert`, computed at the end by one more product each.
        Some eigenvalue of A lies within the residual of each value.
    converged : bool
        Whether the tolerance was met at both ends, and a second sweep, started elsewhere, found
        nothing that the first had missed.
    products : int
        How many were spent.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    converged: bool
    products: int

    def __repr__(self) -> str:
        end = "converged" if self.converged else "NOT converged: allow more products"
        lines = [f"{len(self.values)} eigenvalues, {self.products} products, {end}"]
        lines += [
            f"  {float(value):14.6g} ± {float(residual):.1g}"
            for value, residual in zip(self.values, self.residuals, strict=True)
        ]
        return "\n".join(lines)


def eigenpairs(
    operator: Operator,
    *,
    top: int = 1,
    bottom: int = 0,
    tolerance: float | None = None,
    max_products: int | None = None,
    seed: int = 0,
) -> Eigenpairs:
    r"""Find the largest and the smallest eigenvalues, with multiplicity, and their vectors.

    Parameters
    ----------
    operator : Operator
        A, symmetric.
    top, bottom : int
        How many of the largest and of the smallest (most negative) eigenvalues.
    tolerance : float, optional
        Largest residual, relative to the largest eigenvalue in absolute value; unless given,
        1e-8 for a float64 operator and 1e-4 for float32.
    max_products : int, optional
        Where to give up; unless given, 20 for each pair and 200 more. Memory grows up to as many
        vectors.
    seed : int
        Of the random starts.

    Returns
    -------
    Eigenpairs
        Look at ``converged``: after too few products the values are still inside the spectrum,
        too small at the top and too large at the bottom.

    Raises
    ------
    ValueError
        If nothing is asked for, or more than D pairs, or the tolerance is not positive.

    Notes
    -----
    Lanczos from a random start until the wanted pairs have converged; these are then kept apart,
    and a sweep from another start, in what is orthogonal to them, either shows that nothing larger
    (smaller) is left or finds what one start cannot see: further eigenvectors of an eigenvalue of
    multiplicity above one.

    Examples
    --------
    >>> import torch
    >>> A = Operator.of_matrix(torch.diag(torch.tensor([3.0, 3.0, 1.0, -2.0]).double()))
    >>> found = eigenpairs(A, top=2, bottom=1)
    >>> [round(float(value), 9) for value in found.values], found.converged
    ([3.0, 3.0, -2.0], True)
    """
    top, bottom = whole("top", top), whole("bottom", bottom)
    if top < 0 or bottom < 0 or not 1 <= top + bottom <= operator.size:
        raise ValueError(
            f"top and bottom must be 0 or more and add up to between 1 and the size "
            f"{operator.size}, got {top} and {bottom}"
        )
    if tolerance is None:
        tolerance = 1e-8 if operator.dtype == torch.float64 else 1e-4
    if not tolerance > 0:
        raise ValueError(f"tolerance must be a positive number, got {tolerance}")
    budget = (
        20 * (top + bottom) + 200 if max_products is None else whole("max_products", max_products)
    )
    if budget <= top + bottom:
        raise ValueError(f"max_products must be above {top + bottom}, one a pair, got {budget}")
    search = _Search(operator, top, bottom, tolerance, budget - top - bottom, seed)
    while not search.done and search.spent < search.budget:
        search.sweep()
    values, vectors = search.ends()
    residuals = torch.linalg.vector_norm(
        operator(vectors).double() - values[:, None].to(vectors.device) * vectors.double(), dim=1
    ).cpu()
    good = search.done and bool((residuals <= 2 * tolerance * search.scale).all())
    return Eigenpairs(values, vectors, residuals, good, search.spent + top + bottom)


class _Search:
    """What is known of both ends, and the sweeps that add to it."""

    def __init__(
        self, operator: Operator, top: int, bottom: int, tolerance: float, budget: int, seed: int
    ) -> None:
        self._operator = operator
        self._wanted = (top, bottom)
        self._tolerance = tolerance
        self.budget = budget
        self._generator = torch.Generator().manual_seed(seed)
        self._values = torch.empty(0, dtype=torch.float64)
        self._vectors = torch.empty(0, operator.size, dtype=operator.dtype, device=operator.device)
        self.spent = 0
        self.scale = 0.0  # largest eigenvalue in absolute value, as far as seen
        self.done = False

    def sweep(self) -> None:
        """Run Lanczos beside what is kept, until it has something to say about both ends."""
        space = Growing(self._operator, normal(self._operator, self._generator), self._vectors)
        look = 4
        while not space.exhausted and self.spent < self.budget:
            space.grow()
            self.spent += 1
            if len(space) >= look or space.exhausted:
                look = len(space) + max(2, len(space) // 8)
                if self._settled(space.seen()):
                    break
        if len(space):
            self._keep(space.seen())
        else:  # nothing is left beside what is kept
            self.done = True

    def ends(self) -> tuple[Tensor, Tensor]:
        """The wanted values, descending, and their vectors."""
        order = self._values.argsort(descending=True)
        top, bottom = self._wanted
        chosen = torch.cat([order[:top], order[len(order) - bottom :]])
        return self._values[chosen], self._vectors[chosen.to(self._vectors.device)]

    def _settled(self, space: Krylov) -> bool:
        """Whether, at both ends, the wanted are found or nothing beyond what is kept is left."""
        values, coefficients = space.ritz()
        residuals = space.remainder * coefficients[-1].abs()
        self.scale = max(self.scale, float(values.abs().max()))
        if space.exhausted:
            return True
        return all(self._end_settled(sign, values, residuals) for sign in (1, -1))

    def _end_settled(self, sign: int, values: Tensor, residuals: Tensor) -> bool:
        wanted = self._wanted[0 if sign > 0 else 1]
        if not wanted:
            return True
        close = self._tolerance * self.scale
        order = (sign * values).argsort(descending=True)[:wanted]
        kept = (sign * self._values).sort(descending=True).values
        if len(kept) >= wanted:  # is the first one here beyond the last that is kept?
            first = order[0]
            reach = sign * values[first] + residuals[first]
            return bool(reach <= kept[wanted - 1] or residuals[first] <= close)
        return len(order) == wanted and bool((residuals[order] <= close).all())

    def _keep(self, space: Krylov) -> None:
        """Add the ends of the space to what is kept; done if none of them is news."""
        values, coefficients = space.ritz()
        top, bottom = self._wanted
        news = list(range(max(0, len(values) - top), len(values)))
        news += [i for i in range(min(bottom, len(values))) if i not in news]
        close = self._tolerance * self.scale
        before = self._values
        if len(before) >= top + bottom:
            ordered = before.sort(descending=True).values
            news = [
                i
                for i in news
                if (top and values[i] > ordered[top - 1] + close)
                or (bottom and values[i] < ordered[len(ordered) - bottom] - close)
            ]
            self.done = not news and self.spent < self.budget
        if not news:
            return
        vectors = coefficients[:, news].T.to(space.basis) @ space.basis
        self._values = torch.cat([before, values[news]])
        self._vectors = torch.cat([self._vectors, vectors])
        if len(self._values) == self._operator.size:
            self.done = True
