"""The linear paradox: weights that memorise anything, and that generalise at any size.

The public names are those of :mod:`gencoh_lib.paths`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gencoh_lib._dataset import listing
from gencoh_lib._whole import whole


@dataclass(frozen=True, eq=False, repr=False)
class LargeSolution:
    """What :func:`large_solution` returns.

    Attributes
    ----------
    weights : Tensor
        [n, d_y], float64.
    train_deviation, test_deviation : float
        Frobenius distance of the predictions from the targets.
    norm, distance : float
        Frobenius norm of the weights, and their distance from the truth.

    Examples
    --------
    >>> found = large_solution(torch.eye(1, 3), torch.eye(1, 3), torch.zeros(3, 1), norm=100)
    >>> found.train_deviation, found.norm >= 100
    (0.0, True)
    """

    weights: Tensor
    train_deviation: float
    test_deviation: float
    norm: float
    distance: float

    def __repr__(self) -> str:
        """Return a small table."""
        n, outputs = self.weights.shape
        return listing(
            f"a linear model of {n} features and {outputs} outputs",
            {
                "distance from the training targets": f"{self.train_deviation:.3g}",
                "distance from the test targets": f"{self.test_deviation:.3g}",
                "norm of the weights": f"{self.norm:.4g}",
                "distance of the weights from the truth": f"{self.distance:.4g}",
            },
        )


def memorise(features: Tensor, targets: Tensor) -> Tensor:
    r"""Weights of a linear model that reproduce any targets, random ones included.

    Parameters
    ----------
    features : Tensor
        [m, n] :math:`\Phi`, of rank m.
    targets : Tensor
        [m, d_y] anything.

    Returns
    -------
    Tensor
        [n, d_y] the smallest w with :math:`\Phi w = Y`, float64.

    Raises
    ------
    TypeError, ValueError
        If shapes do not fit, or the rows of `features` are linearly dependent.

    Notes
    -----
    Kawaguchi, Kaelbling and Bengio (2019, v5, Theorem 1 (i)).

    Examples
    --------
    >>> w = memorise(torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([[4.0]]))
    >>> [round(float(entry), 9) for entry in w]
    [2.0, 0.0, 2.0]
    """
    phi, y = _matrix("features", features), _matrix("targets", targets)
    m, n = phi.shape
    if len(y) != m:
        raise ValueError(f"features have {m} rows and targets {len(y)}: one a training example")
    rank = int(torch.linalg.matrix_rank(phi))
    if rank < m:
        raise ValueError(
            f"the {m} rows of features have rank {rank} in {n} dimensions, so that some targets "
            "cannot be reproduced; take more features, or fewer examples"
        )
    found: Tensor = torch.linalg.lstsq(phi, y, driver="gelsd").solution
    return found


def large_solution(
    features: Tensor,
    test_features: Tensor,
    truth: Tensor,
    *,
    norm: float,
    deviation: float = 0.0,
    seed: int = 0,
) -> LargeSolution:
    r"""Weights as large and as far from the truth as you like that still generalise.

    Parameters
    ----------
    features, test_features : Tensor
        [m, n] and [m', n]; stacked, of a rank below n.
    truth : Tensor
        [n, d_y] :math:`w^*`; its predictions are the targets, in training and test.
    norm : float
        What the norm of the weights, and their distance from the truth, must reach at least.
    deviation : float
        How far predictions may be off, in Frobenius norm, in training and test: the larger of
        the two is exactly this, up to rounding.
    seed : int
        Seed of the directions.

    Returns
    -------
    LargeSolution

    Raises
    ------
    TypeError, ValueError
        If shapes do not fit, no direction is invisible to all examples, or a number is negative.

    Notes
    -----
    Kawaguchi, Kaelbling and Bengio (2019, v5, Theorem 1 (ii) and Corollary 2): the part of w in
    the null space of all features changes no prediction, whatever its size.

    Examples
    --------
    >>> found = large_solution(torch.eye(2, 5), torch.eye(3, 5), torch.ones(5, 1), norm=1e6,
    ...                        deviation=1e-3)
    >>> found.test_deviation < 1.001e-3, found.norm >= 1e6, found.distance >= 1e6
    (True, True, True)
    """
    phi, phi_test = _matrix("features", features), _matrix("test_features", test_features)
    w = _matrix("truth", truth)
    n = phi.shape[1]
    if phi_test.shape[1] != n or len(w) != n:
        raise ValueError(
            f"features have {n} columns, test_features {phi_test.shape[1]}, and truth {len(w)} "
            "rows: all must be the number of features"
        )
    for name, value in (("norm", norm), ("deviation", deviation)):
        if not 0 <= value < torch.inf:
            raise ValueError(f"{name} must be finite and >= 0, got {value}")
    stacked = torch.cat([phi, phi_test])
    _, s, vh = torch.linalg.svd(stacked, full_matrices=True)
    rank = int((s > max(stacked.shape) * torch.finfo(torch.float64).eps * s.max()).sum())
    if rank == n:
        raise ValueError(
            f"training and test features together have rank {n}, the number of features: every "
            "direction of the weights is visible, and there is only one solution"
        )
    generator = torch.Generator().manual_seed(whole("seed", seed))
    seen, unseen = vh[:rank], vh[rank:]

    def drawn(basis: Tensor) -> Tensor:
        shape = (len(basis), w.shape[1])
        return basis.T @ torch.randn(*shape, generator=generator, dtype=torch.float64)

    hidden = drawn(unseen)
    hidden *= (2 * norm + float(w.norm())) / float(hidden.norm())  # wins over any part of w
    visible = drawn(seen) if deviation else torch.zeros_like(w)
    if deviation:
        size = max(float((phi @ visible).norm()), float((phi_test @ visible).norm()))
        visible *= deviation / size if size else 0.0
    found = w + visible + hidden
    return LargeSolution(
        weights=found,
        train_deviation=float((phi @ (found - w)).norm()),
        test_deviation=float((phi_test @ (found - w)).norm()),
        norm=float(found.norm()),
        distance=float((found - w).norm()),
    )


def _matrix(name: str, value: Tensor) -> Tensor:
    if not isinstance(value, Tensor) or value.ndim != 2 or not value.numel():
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must be a matrix, a torch tensor with two dimensions; got {found}")
    value = value.detach().to("cpu", torch.float64)
    if not bool(value.isfinite().all()):
        raise ValueError(f"{name} holds NaN or infinity")
    return value
