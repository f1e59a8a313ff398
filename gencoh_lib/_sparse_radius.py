"""Sparse local radius: how far units are from switching on, behind :mod:`gencoh_lib.sparsity`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gencoh_lib._sparse_hyperparameters import Hyperparameters
from gencoh_lib._sparse_network import check_chain, inputs_of, pre_activations


def layer_radius(pre: Tensor, level: int, scale: float) -> Tensor:
    """[m] radius of a layer with pre-activations [m, d]; infinite at level 0."""
    if level == 0:
        return pre.new_full((len(pre),), torch.inf)
    lowest = np.partition(pre.numpy(), level - 1, axis=1)[:, level - 1]
    return torch.from_numpy(-lowest / scale).clamp(min=0)


def layer_inactive_set(pre: Tensor, level: int) -> Tensor:
    """[m, d] boolean: the units with the lowest pre-activations, as many as the level says."""
    chosen = torch.zeros_like(pre, dtype=torch.bool)
    if level:
        lowest = pre.topk(level, dim=1, largest=False, sorted=False).indices
        chosen.scatter_(1, lowest, True)
    return chosen


def radii_of(pre: Sequence[Tensor], hyper: Hyperparameters) -> Tensor:
    """[m, K] radii from the pre-activations of the hidden layers, without checks."""
    scales = hyper.output_scales
    found = [
        layer_radius(h, level, hyper.row_norms[k] * scales[k])
        for k, (h, level) in enumerate(zip(pre, hyper.levels, strict=False))
    ]
    return torch.stack(found, dim=1) if found else pre[0].new_zeros(len(pre[0]), 0)


def radii(weights: Sequence[Tensor], x: Tensor, hyper: Hyperparameters) -> Tensor:
    r"""Sparse local radius of every hidden layer at every input.

    A radius above 0 says that at least s_k units of layer k are off, and how deeply: no relative
    change of the pre-activations below the radius switches one of them on.

    Parameters
    ----------
    weights : sequence of Tensor
        K + 1 weights, [d_k, d_{k-1}].
    x : Tensor
        [m, d_0] inputs.
    hyper : Hyperparameters
        Levels and normalisers. Perturbed weights are measured with the same normalisers.

    Returns
    -------
    Tensor
        [m, K] float64; infinite where the level is 0. At most 1 where the weights and inputs
        obey the bounds in `hyper` and the layers before have their units off.

    Raises
    ------
    TypeError, ValueError
        If shapes, types or levels do not fit.

    Notes
    -----
    :math:`r_k = \max\{0, s_k\text{-th largest entry of } -W_k x_{k-1} / (\xi_k \zeta_{k-1})\}`:
    Definition 8 of Muthukumar and Sulam (2023). Their Table 2 prints another entry,
    :math:`d_k - s_k`.

    Examples
    --------
    >>> import torch
    >>> W = torch.eye(3) - 0.5
    >>> hyper = Hyperparameters.of([W, torch.ones(1, 3)], [2], 0.1, input_norm=1.0)
    >>> round(float(radii([W, torch.ones(1, 3)], torch.eye(3), hyper)[0, 0]), 6)
    0.57735
    """
    chain = check_chain(weights)
    hyper.check_shapes([tuple(w.shape) for w in chain])
    return radii_of(pre_activations(chain, inputs_of(chain, x)), hyper)


def inactive_sets(
    weights: Sequence[Tensor], x: Tensor, hyper: Hyperparameters
) -> tuple[Tensor, ...]:
    r"""Which units are most strongly off, as many as the level of each layer says.

    Parameters
    ----------
    weights : sequence of Tensor
        K + 1 weights, [d_k, d_{k-1}].
    x : Tensor
        [m, d_0] inputs.
    hyper : Hyperparameters
        Its levels are used.

    Returns
    -------
    tuple of Tensor
        K boolean tensors [m, d_k], the sets :math:`I_k`, each row with s_k entries that are True.
        Those units are off where the radius is positive. Ties are broken arbitrarily.

    Raises
    ------
    TypeError, ValueError
        If shapes, types or levels do not fit.

    Notes
    -----
    Definition 8 of Muthukumar and Sulam (2023).

    Examples
    --------
    >>> import torch
    >>> W = torch.eye(3) - 0.5
    >>> hyper = Hyperparameters.of([W, torch.ones(1, 3)], [2], 0.1, input_norm=1.0)
    >>> inactive_sets([W, torch.ones(1, 3)], torch.eye(3), hyper)[0][0].tolist()
    [False, True, True]
    """
    chain = check_chain(weights)
    hyper.check_shapes([tuple(w.shape) for w in chain])
    pre = pre_activations(chain, inputs_of(chain, x))
    return tuple(layer_inactive_set(h, s) for h, s in zip(pre, hyper.levels, strict=False))
