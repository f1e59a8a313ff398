r"""The generalisation gap, exactly: networks of ReLUs as sums over paths.

With its gates held fixed a network of ReLUs and maxima is linear in products of weights along
paths, :math:`f_k(x) = z(x)^\top \bar w_k`. Under squared loss the gap of *one* trained network on
*one* sample is then an identity in three things, for any distribution and any sample: the norm of
:math:`\bar w`, the spectrum of a matrix G that compares the sample with the population in path
space, and the cosines between them. :func:`gap_decomposition` computes all of it.

Covered is every module that ``torch.fx`` traces into Linear, Conv1d, Conv2d, ReLU, MaxPool1d,
MaxPool2d, Flatten, Unflatten and sums, with biases and skip connections; everything else is
refused by the name of the layer. The module is only read, and everything is computed in float64.

Source: Kawaguchi, Kaelbling and Bengio (2019, arXiv:1710.05468v5). Biases, maxima and sums of
branches, the path kernel and the finite population are the course's.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from gencoh_lib._darc import WithDARC1, darc1, ramp_loss, squared_error
from gencoh_lib._gap import GapDecomposition, gap_decomposition
from gencoh_lib._network_graph import UnsupportedLayerError, evaluate
from gencoh_lib._paradox import LargeSolution, large_solution, memorise
from gencoh_lib._path_constants import PathConstants, path_constants
from gencoh_lib._path_kernel import kernel
from gencoh_lib._path_sums import PathFeatures, PathNorms, path_features, path_norms
from gencoh_lib._tracing import trace
from gencoh_lib._two_phase import TwoPhase, TwoPhaseRun, two_phase_training

__all__ = [
    "GapDecomposition",
    "LargeSolution",
    "PathConstants",
    "PathFeatures",
    "PathNorms",
    "TwoPhase",
    "TwoPhaseRun",
    "UnsupportedLayerError",
    "WithDARC1",
    "darc1",
    "gap_decomposition",
    "gates",
    "large_solution",
    "memorise",
    "path_constants",
    "path_features",
    "path_kernel",
    "path_norms",
    "ramp_loss",
    "squared_error",
    "two_phase_training",
]

for _object in (
    GapDecomposition, LargeSolution, PathConstants, PathFeatures, PathNorms, TwoPhase, TwoPhaseRun,
    UnsupportedLayerError, WithDARC1, darc1, gap_decomposition, large_solution, memorise,
    path_constants, path_features, path_norms, ramp_loss, squared_error, two_phase_training,
):  # fmt: skip
    _object.__module__ = __name__  # their public name, in tracebacks and in the API reference


def gates(model: nn.Module, x: Tensor) -> Mapping[str, Tensor]:
    """Which units are on, at each example.

    Parameters
    ----------
    model : torch.nn.Module
        A network that this module covers; only read.
    x : Tensor
        [m, ...] inputs.

    Returns
    -------
    mapping of str to Tensor
        By name of the layer: [m, units] boolean for a ReLU, where a pre-activation of exactly 0
        counts as off; for a maximum, [m, channels, positions] which place in the window is it.

    Raises
    ------
    UnsupportedLayerError
        If a layer is not covered.

    Examples
    --------
    >>> from gencoh_lib import models
    >>> net = models.mlp([2, 3, 1], seed=0)
    >>> gates(net, torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))["act1"].sum(1).tolist()
    [1, 2]
    """
    return MappingProxyType(evaluate(trace(model, x), x)[1])


def path_kernel(model: nn.Module, x: Tensor, other: Tensor | None = None) -> Tensor:
    r"""Inner products of path features, without listing paths.

    Parameters
    ----------
    model : torch.nn.Module
        A network that this module covers; only read.
    x : Tensor
        [n, ...] inputs.
    other : Tensor, optional
        [n', ...] other inputs; by default the same.

    Returns
    -------
    Tensor
        [n, n'] :math:`K(x, x') = z(x)^\top z(x')`, float64.

    Raises
    ------
    UnsupportedLayerError
        If a layer is not covered, or the outputs do not see the same paths.

    Notes
    -----
    For fully connected layers without biases
    :math:`K(x, x') = x^\top x' \prod_l \dot\sigma^{[l]}(x)^\top \dot\sigma^{[l]}(x')`; in general
    a dynamic programme over the graph that keeps a matrix only until its last use. Derived in the
    course.

    Examples
    --------
    >>> from gencoh_lib import models
    >>> net = models.mlp([4, 6, 5, 3], bias=False, seed=0)
    >>> x = torch.linspace(-1, 1, 8).reshape(2, 4)
    >>> z = path_features(net, x).z
    >>> bool(torch.allclose(path_kernel(net, x), z @ z.T))
    True
    """
    network = trace(model, x)
    _, open_gates = evaluate(network, x)
    rows = x.detach().to("cpu", torch.float64)
    if other is None:
        return kernel(network, rows, open_gates)
    if other.shape[1:] != x.shape[1:]:
        raise ValueError(f"other has shape {tuple(other.shape)}, x {tuple(x.shape)}: rows differ")
    _, other_gates = evaluate(network, other)
    return kernel(network, rows, open_gates, other.detach().to("cpu", torch.float64), other_gates)
