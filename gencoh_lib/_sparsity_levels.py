"""Sparsity levels that keep the loss of a sample low, behind :mod:`gencoh_lib.sparsity`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from gencoh_lib._sparse_network import inputs_of
from gencoh_lib._sparsity_network import Depths, Network, Norm, growths
from gencoh_lib._sparsity_prior import chain_of
from gencoh_lib._sparsity_sample import check_norm, of_all_layers


def quantile_share(loss: float, hidden: int) -> float:
    r"""Share of the examples that each layer may fail, so that the sparse loss is at most `loss`.

    An example that fails in layer n counts in the terms k = n, ..., K of the sum: shares of
    :math:`2\alpha/(K(K+1))` add up to :math:`\alpha`.
    """
    return 2 * loss / (hidden * (hidden + 1)) if hidden else 0.0


def greedy_levels(
    weights: nn.Module | Sequence[Tensor],
    x: Tensor,
    perturbations: Sequence[float] | float,
    *,
    loss: float = 0.0,
    quantile: float | None = None,
    input_norm: float = 1.0,
    norm: Norm = "babel",
) -> tuple[int, ...]:
    r"""Largest levels, layer by layer, that keep the sparse loss of a sample low.

    Parameters
    ----------
    weights : torch.nn.Module or sequence of Tensor
        A network or its K + 1 weights, [d_k, d_{k-1}].
    x : Tensor
        [m, ...] inputs.
    perturbations : sequence of float or float
        K + 1 relative perturbations, or one for all layers; 0 asks for radii above 0.
    loss : float
        :math:`\alpha`, target for the sum of shares ``sparse_loss_3`` of :func:`theorem_13`.
    quantile : float, optional
        Share of the examples that each layer may fail, in place of `loss`.
    input_norm : float
        Bound on the 2-norm of every input.
    norm : str
        See :func:`theorem_13`.

    Returns
    -------
    tuple of int
        K levels, **common** to all examples: in each layer the largest level at which all but
        that share of the examples has :math:`r_k \ge 3\gamma_k`, given the levels before.

    Raises
    ------
    TypeError, ValueError
        If shapes or numbers do not fit.

    Notes
    -----
    The share is :math:`2\alpha/(K(K+1))`; Muthukumar and Sulam (2023, p. 26) print
    :math:`2\alpha/(K(K-1))`. They choose levels for every example and take the least in each
    layer, which for K > 1 may leave a loss: a lower level in one layer enlarges the normaliser of
    the next. Choosing common levels one layer after the other is what keeps the promise.

    Examples
    --------
    >>> import torch
    >>> greedy_levels([torch.eye(4) - 0.5, torch.ones(2, 4)], torch.eye(4), 0.06)
    (3,)
    """
    chain = chain_of(weights)
    check_norm(norm)
    hidden = len(chain) - 1
    share = quantile_share(loss, hidden) if quantile is None else quantile
    if not share >= 0:
        raise ValueError(f"loss and quantile must not be negative, got {share}")
    eps = of_all_layers(perturbations, len(chain))
    if not all(0 <= value < math.inf for value in eps):
        raise ValueError(f"perturbations must be finite and not negative, got {eps}")
    depths = Depths(chain, inputs_of(chain, x))
    return greedy(Network(chain), depths, eps, share, input_norm, norm, None)


def greedy(
    network: Network,
    depths: Depths,
    perturbations: Sequence[float],
    share: float,
    input_norm: float,
    norm: Norm,
    points: int | None,
) -> tuple[int, ...]:
    """Largest levels, layer by layer, at which a share of the examples at most fails 3 gamma."""
    levels: list[int] = []
    zeta, into = float(input_norm), 0
    for k, growth in enumerate(growths(perturbations)[: network.hidden]):
        xi = network.row_norm(k, into)
        found = np.sort(depths.count(k, 3 * growth, xi * zeta))
        level = min(int(found[allowed(share, len(found))]), network.shapes[k][0] - 1)
        zeta *= xi * math.sqrt(1 + network.babel(k, level, into, norm, points))
        levels.append(level)
        into = level
    return tuple(levels)


def allowed(share: float, examples: int) -> int:
    """How many of the examples a share is, rounded down, and one must be left."""
    return min(examples - 1, math.floor(share * examples + 1e-9))
