"""How much of a network is stably active at an input, behind :mod:`gencoh_lib.sparsity`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gencoh_lib._sparse_network import inputs_of
from gencoh_lib._sparsity_network import Depths, Network, Norm, growths
from gencoh_lib._sparsity_prior import chain_of
from gencoh_lib._sparsity_sample import check_norm, of_all_layers


@dataclass(frozen=True, eq=False, repr=False)
class ActivityRatio:
    r"""Share of the weights between units that are not stably off.

    Attributes
    ----------
    per_example : Tensor
        [m] :math:`\kappa(x, \varepsilon)`, from above 0 to 1.
    levels : Tensor
        [m, K] largest levels of each example, :math:`s^*(x, \varepsilon)`.

    Examples
    --------
    >>> import torch
    >>> effective_activity([torch.eye(4) - 0.5, torch.ones(2, 4)], torch.eye(4), 0.06)
    activity ratio: mean 0.25, from 0.25 to 0.25 at 4 examples
    """

    per_example: Tensor
    levels: Tensor

    @property
    def mean(self) -> float:
        """Mean over the examples."""
        return float(self.per_example.mean())

    def __repr__(self) -> str:
        """Return one line."""
        low, high = float(self.per_example.min()), float(self.per_example.max())
        return (
            f"activity ratio: mean {self.mean:.3g}, from {low:.3g} to {high:.3g} at "
            f"{len(self.per_example)} examples"
        )


def effective_activity(
    weights: nn.Module | Sequence[Tensor],
    x: Tensor,
    perturbations: Sequence[float] | float,
    *,
    input_norm: float = 1.0,
    norm: Norm = "babel",
) -> ActivityRatio:
    r"""How much of a network is not stably off, at every input by itself.

    Parameters
    ----------
    weights : torch.nn.Module or sequence of Tensor
        A network or its K + 1 weights, [d_k, d_{k-1}].
    x : Tensor
        [m, ...] inputs.
    perturbations : sequence of float or float
        K + 1 relative perturbations, or one for all layers; 0 asks for radii above 0.
    input_norm : float
        Bound on the 2-norm of every input.
    norm : str
        See :func:`theorem_13`. With three hidden layers and more the Babel function of the second
        one is needed at every level that occurs in the first, which takes minutes from widths of
        some hundreds on; ``"spectral"`` does without.

    Returns
    -------
    ActivityRatio
        With, layer by layer, the largest level of this example for which
        :math:`r_k \ge 3\gamma_k`.

    Raises
    ------
    TypeError, ValueError
        If shapes or numbers do not fit.

    Notes
    -----
    .. math:: \kappa(x, \varepsilon) = \frac{\sum_{k=1}^{K+1} (d_k - s_k)(d_{k-1} - s_{k-1})}
        {\sum_{k=1}^{K+1} d_k d_{k-1}}, \qquad s_0 = s_{K+1} = 0

    Muthukumar and Sulam (2023), p. 12; the range of the sum is not printed there. For one hidden
    layer it is :math:`(d_1 - s_1)/d_1`.

    Examples
    --------
    >>> import torch
    >>> W = torch.eye(4) - 0.5
    >>> effective_activity([W, W, torch.ones(2, 4)], torch.eye(4), 1e-3).mean
    0.175
    """
    chain = chain_of(weights)
    check_norm(norm)
    eps = of_all_layers(perturbations, len(chain))
    if not all(0 <= value < math.inf for value in eps):
        raise ValueError(f"perturbations must be finite and not negative, got {eps}")
    network, depths = Network(chain), Depths(chain, inputs_of(chain, x))
    levels = _own_levels(network, depths, growths(eps), input_norm, norm)
    columns = np.hstack([np.zeros_like(levels[:, :1]), levels])
    rows = np.hstack([levels, np.zeros_like(levels[:, :1])])
    sizes = np.array(network.shapes)
    kept = ((sizes[:, 0] - rows) * (sizes[:, 1] - columns)).sum(1)
    ratio = kept / (sizes[:, 0] * sizes[:, 1]).sum()
    return ActivityRatio(torch.from_numpy(ratio), torch.from_numpy(levels))


def _own_levels(
    network: Network, depths: Depths, growth: Sequence[float], input_norm: float, norm: Norm
) -> NDArray[np.int64]:
    """[m, K] levels of every example, by its own norms."""
    examples = len(depths.outputs)
    levels = np.zeros((examples, network.hidden), dtype=np.int64)
    zeta = np.full(examples, float(input_norm))
    into = np.zeros(examples, dtype=np.int64)
    for k in range(network.hidden):
        xi = network.norms[k].row_norms.numpy()[into]
        out = np.minimum(depths.count(k, 3 * growth[k], xi * zeta), network.shapes[k][0] - 1)
        levels[:, k] = out
        if k + 1 < network.hidden:
            pairs, place = np.unique(np.stack([out, into]), axis=1, return_inverse=True)
            eta = np.array([network.babel(k, int(s), int(t), norm, None) for s, t in pairs.T])
            zeta *= xi * np.sqrt(1 + eta[place.ravel()])
        into = out
    return levels
