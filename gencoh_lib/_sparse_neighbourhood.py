"""Stability of a whole network: its class, its neighbourhood, and what is true there.

Behind :mod:`gencoh_lib.sparsity`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gencoh_lib._sparse_hyperparameters import Hyperparameters
from gencoh_lib._sparse_network import check_chain, inputs_of, pre_activations
from gencoh_lib._sparse_norm_bounds import WeightNorms
from gencoh_lib._sparse_norms import sparse_norm
from gencoh_lib._sparse_radius import layer_inactive_set, radii_of
from gencoh_lib._sparse_stability import (
    HYPOTHESIS,
    Statement,
    at_most,
    deep,
    difference,
    off,
)


def in_class(weights: Sequence[Tensor], hyper: Hyperparameters) -> bool:
    r"""Whether a network has the norms that the hyper-parameters say.

    Parameters
    ----------
    weights : sequence of Tensor
        K + 1 weights, [d_k, d_{k-1}].
    hyper : Hyperparameters
        Bounds on the norms.

    Returns
    -------
    bool
        True if :math:`\lVert W_k \rVert_{(d_k-1,\,s_{k-1})} \le \xi_k` in every layer and, in
        every hidden one, :math:`\mu_{s_k,s_{k-1}}(W_k) \le \eta_k` or another bound of
        :func:`sparse_norm_bounds` is at most :math:`\xi_k\sqrt{1+\eta_k}`.

    Raises
    ------
    TypeError, ValueError
        If shapes, types or levels do not fit.

    Notes
    -----
    Definition 5 of Muthukumar and Sulam (2023), widened by the other bounds: their theorems use
    no more than that :math:`\xi_k\sqrt{1+\eta_k}` bounds the sparse norm.

    Examples
    --------
    >>> import torch
    >>> W = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    >>> hyper = Hyperparameters.of([W, W], [1], 0.1, input_norm=1.0)
    >>> in_class([W, W], hyper), in_class([2 * W, W], hyper)
    (True, False)
    """
    chain = check_chain(weights)
    hyper.check_shapes([tuple(w.shape) for w in chain])
    return _norms_at_most(chain, hyper, [1.0] * len(chain), exact=False)


def _norms_at_most(
    weights: Sequence[Tensor], hyper: Hyperparameters, factors: Sequence[float], *, exact: bool
) -> bool:
    """Whether row norms are at most factor * xi, and sparse norms at most factor * xi * omega."""
    for k, (weight, factor) in enumerate(zip(weights, factors, strict=True)):
        norms, into = WeightNorms(weight), hyper.column_level(k)
        allowed = factor + HYPOTHESIS  # rounding of a difference is relative to the weight
        if float(norms.row_norms[into]) > hyper.row_norms[k] * allowed:
            return False
        if k == len(hyper.levels):
            continue
        out, most = hyper.levels[k], hyper.norms[k] * allowed
        found = sparse_norm(weight, out, into) if exact else norms.at(out, into).value
        if found > most:
            return False
    return True


def in_neighbourhood(
    weights: Sequence[Tensor],
    perturbed: Sequence[Tensor],
    hyper: Hyperparameters,
    *,
    exact: bool = False,
) -> bool:
    r"""Whether perturbed weights lie in the local neighbourhood of a network.

    Parameters
    ----------
    weights, perturbed : sequence of Tensor
        K + 1 weights each, [d_k, d_{k-1}].
    hyper : Hyperparameters
        Levels, norms and perturbations.
    exact : bool
        Compute sparse norms by listing submatrices, for small layers. By default their upper
        bounds are used, so that True is certain and False may be wrong.

    Returns
    -------
    bool
        True if in every hidden layer
        :math:`\lVert \hat W_k - W_k \rVert_{(s_k,s_{k-1})} \le \varepsilon_k\xi_k\sqrt{1+\eta_k}`
        and :math:`\lVert \hat W_k - W_k \rVert_{(d_k-1,\,s_{k-1})} \le \varepsilon_k \xi_k`, and
        in the last one the second of these.

    Raises
    ------
    TypeError, ValueError
        If shapes, types or levels do not fit, or `exact` asks for too many submatrices.

    Notes
    -----
    Definition 6 of Muthukumar and Sulam (2023).

    Examples
    --------
    >>> import torch
    >>> W = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    >>> hyper = Hyperparameters.of([W, W], [1], 0.1, input_norm=1.0)
    >>> [in_neighbourhood([W, W], [c * W, W], hyper) for c in (1.09, 1.11)]
    [True, False]
    """
    chain, other = check_chain(weights), check_chain(perturbed)
    _check_same_shapes(chain, other)
    hyper.check_shapes([tuple(w.shape) for w in chain])
    changes = [b - a for a, b in zip(chain, other, strict=True)]
    return _norms_at_most(changes, hyper, hyper.perturbations, exact=exact)


def _check_same_shapes(first: Sequence[Tensor], second: Sequence[Tensor]) -> None:
    shapes = [[tuple(w.shape) for w in weights] for weights in (first, second)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"perturbed weights have shapes {shapes[1]}, the weights {shapes[0]}")


def size_statement(weights: Sequence[Tensor], x: Tensor, hyper: Hyperparameters) -> Statement:
    r"""Proposition 9: where every radius is positive, units are off and outputs bounded.

    Parameters
    ----------
    weights : sequence of Tensor
        K + 1 weights, [d_k, d_{k-1}].
    x : Tensor
        [m, d_0] inputs.
    hyper : Hyperparameters
        Levels and norms.

    Returns
    -------
    Statement
        Supposed: the weights are :func:`in_class`, :math:`\lVert x_0 \rVert_2 \le M_X`, every
        :math:`r_k > 0`. Concluded: every :math:`I_k` is off,
        :math:`\lVert x_k \rVert_2 \le \zeta_k`,
        :math:`\lVert h(x_0) \rVert_\infty \le \zeta_{K+1}`.

    Raises
    ------
    TypeError, ValueError
        If shapes, types or levels do not fit.

    Notes
    -----
    Proposition 9 of Muthukumar and Sulam (2023).

    Examples
    --------
    >>> import torch
    >>> W = torch.eye(3) - 0.5
    >>> hyper = Hyperparameters.of([W, torch.ones(1, 3)], [2], 0.1, input_norm=1.0)
    >>> size_statement([W, torch.ones(1, 3)], torch.eye(3), hyper)
    Proposition 9: supposed at 3 of 3, concluded at 3 of these: holds
    """
    chain = check_chain(weights)
    rows = inputs_of(chain, x)
    member = in_class(chain, hyper)
    pre = pre_activations(chain, rows)
    scales = hyper.output_scales
    supposed = _inputs_obey(rows, hyper) & (radii_of(pre, hyper) > 0).all(dim=1) & member
    concluded = at_most(pre[-1].abs().amax(1), scales[-1], scales[-1])
    for k, h in enumerate(pre[:-1]):
        chosen = layer_inactive_set(h, hyper.levels[k])
        concluded &= off(h, chosen, hyper.row_norms[k] * scales[k])
        concluded &= at_most(h.relu().norm(dim=1), scales[k + 1], scales[k + 1])
    return Statement("Proposition 9", supposed, concluded)


def _inputs_obey(rows: Tensor, hyper: Hyperparameters) -> Tensor:
    lengths: Tensor = rows.norm(dim=1)
    return lengths <= hyper.input_norm * (1 + HYPOTHESIS)


def sensitivity_statement(
    weights: Sequence[Tensor],
    perturbed: Sequence[Tensor],
    x: Tensor,
    hyper: Hyperparameters,
    *,
    exact: bool = False,
) -> Statement:
    r"""Proposition 10: where radii exceed the growth, a perturbed network stays close.

    Parameters
    ----------
    weights, perturbed : sequence of Tensor
        K + 1 weights each, [d_k, d_{k-1}].
    x : Tensor
        [m, d_0] inputs.
    hyper : Hyperparameters
        Levels, norms and perturbations.
    exact : bool
        See :func:`in_neighbourhood`.

    Returns
    -------
    Statement
        Supposed: the weights are :func:`in_class`, the perturbed ones :func:`in_neighbourhood`,
        :math:`\lVert x_0 \rVert_2 \le M_X`, every :math:`r_k \ge \gamma_k` (and above 0).
        Concluded: the same :math:`I_k` are off in both networks,
        :math:`\lVert \hat x_k - x_k \rVert_2 \le \zeta_k\gamma_k`,
        :math:`\lVert \hat h(x_0) - h(x_0) \rVert_\infty \le \zeta_{K+1}\gamma_{K+1}`.

    Raises
    ------
    TypeError, ValueError
        If shapes, types or levels do not fit, or `exact` asks for too many submatrices.

    Notes
    -----
    Proposition 10 of Muthukumar and Sulam (2023).

    Examples
    --------
    >>> import torch
    >>> W, V = torch.eye(3) - 0.5, torch.ones(1, 3)
    >>> hyper = Hyperparameters.of([W, V], [2], 0.1, input_norm=1.0)
    >>> sensitivity_statement([W, V], [1.09 * W, 0.91 * V], torch.eye(3), hyper)
    Proposition 10: supposed at 3 of 3, concluded at 3 of these: holds
    """
    pre, other, near = _pair(weights, perturbed, x, hyper, exact)
    scales, growth = hyper.output_scales, hyper.growth
    shift = (other[-1] - pre[-1]).abs().amax(1)
    concluded = at_most(shift, scales[-1] * growth[-1], scales[-1])
    radius = radii_of(pre, hyper)
    for k, (h, hh) in enumerate(zip(pre[:-1], other[:-1], strict=True)):
        near = near & deep(radius[:, k], growth[k])
        chosen = layer_inactive_set(h, hyper.levels[k])
        scale = hyper.row_norms[k] * scales[k]
        concluded &= off(h, chosen, scale) & off(hh, chosen, scale)
        moved = (hh.relu() - h.relu()).norm(dim=1)
        concluded &= at_most(moved, scales[k + 1] * growth[k], scales[k + 1])
    return Statement("Proposition 10", near, concluded)


def radius_statement(
    weights: Sequence[Tensor],
    perturbed: Sequence[Tensor],
    x: Tensor,
    hyper: Hyperparameters,
    *,
    exact: bool = False,
) -> Statement:
    r"""Radii of a perturbed network are close to those of the network, layer by layer.

    Parameters
    ----------
    weights, perturbed : sequence of Tensor
        K + 1 weights each, [d_k, d_{k-1}].
    x : Tensor
        [m, d_0] inputs.
    hyper : Hyperparameters
        Levels, norms and perturbations.
    exact : bool
        See :func:`in_neighbourhood`.

    Returns
    -------
    Statement
        [m, K] booleans. Supposed in layer k: what :func:`sensitivity_statement` supposes, but the
        radii of the layers n < k only; nothing on radii for k = 1. Concluded:
        :math:`|r_k(\hat h, x_0) - r_k(h, x_0)| \le \gamma_k`.

    Raises
    ------
    TypeError, ValueError
        If shapes, types or levels do not fit, or `exact` asks for too many submatrices.

    Notes
    -----
    Muthukumar and Sulam (2023), in the proof of Theorem 13 (p. 25).

    Examples
    --------
    >>> import torch
    >>> W, V = torch.eye(3) - 0.5, torch.ones(1, 3)
    >>> hyper = Hyperparameters.of([W, V], [2], 0.1, input_norm=1.0)
    >>> radius_statement([W, V], [1.09 * W, V], torch.eye(3), hyper)
    Stability of the radius: supposed at 3 of 3, concluded at 3 of these: holds
    """
    pre, other, near = _pair(weights, perturbed, x, hyper, exact)
    radius, moved = radii_of(pre, hyper), radii_of(other, hyper)
    supposed = torch.zeros_like(radius, dtype=torch.bool)
    for k, growth in enumerate(hyper.growth[:-1]):
        supposed[:, k] = near
        near = near & deep(radius[:, k], growth)
    allowed = torch.tensor(hyper.growth[:-1], dtype=torch.float64)
    return Statement(
        "Stability of the radius",
        supposed,
        at_most(difference(radius, moved), allowed, 1.0),
    )


def _pair(
    weights: Sequence[Tensor],
    perturbed: Sequence[Tensor],
    x: Tensor,
    hyper: Hyperparameters,
    exact: bool,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
    """Pre-activations of both networks, and [m] where weights and inputs are as supposed."""
    near = in_neighbourhood(weights, perturbed, hyper, exact=exact) and in_class(weights, hyper)
    chain, other = check_chain(weights), check_chain(perturbed)
    rows = inputs_of(chain, x)
    supposed = _inputs_obey(rows, hyper) & near
    return pre_activations(chain, rows), pre_activations(other, rows), supposed
