"""Networks of ReLUs as lists of weights, behind :mod:`gencoh_lib.sparsity`.

The module is only read, and everything is in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from gencoh_lib._network_graph import UnsupportedLayerError
from gencoh_lib._sparse_norms import matrix_of

_RELU = (F.relu, torch.relu, "relu")
_FLATTEN = (torch.flatten, "flatten")
_ALLOWED = "bias-free Linear layers with ReLU between them, and Flatten before the first"


def weight_matrices(model: nn.Module) -> tuple[Tensor, ...]:
    """Read the weights of a chain of Linear layers without biases and ReLUs.

    Parameters
    ----------
    model : torch.nn.Module
        Linear, ReLU, Linear, ..., Linear; Flatten may come first, Identity and Dropout in eval
        mode anywhere. Only read; run once, on a probe of two inputs.

    Returns
    -------
    tuple of Tensor
        K + 1 float64 copies on the CPU, [d_k, d_{k-1}] for k = 1, ..., K + 1.

    Raises
    ------
    TypeError
        If `model` is no module.
    gencoh_lib.paths.UnsupportedLayerError
        If it is not such a chain; the message names the layer, the reason and the remedy.

    Notes
    -----
    The network class of Muthukumar and Sulam (2023), section 2.

    Examples
    --------
    >>> from gencoh_lib import models
    >>> [tuple(w.shape) for w in weight_matrices(models.mlp([4, 8, 3], bias=False, seed=0))]
    [(8, 4), (3, 8)]
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    root = nn.Sequential(model) if type(model) is nn.Linear else model
    try:
        graph = fx.Tracer().trace(root)
    except Exception as error:
        raise UnsupportedLayerError(
            f"torch.fx cannot trace {type(model).__name__}: {error}. Allowed are {_ALLOWED}"
        ) from error
    weights = _chain(root, graph)
    _check_probe(model, weights)
    return weights


def _chain(root: nn.Module, graph: fx.Graph) -> tuple[Tensor, ...]:
    """Weights of the Linear layers, each node having been found to read the one before only."""
    modules = dict(root.named_modules())
    weights: list[Tensor] = []
    before: fx.Node | None = None
    last = "input"
    for node in graph.nodes:
        if node.op == "placeholder":
            if before is not None:
                raise UnsupportedLayerError(f"the model takes a second input {node.name!r}")
            before = node
            continue
        if node.op == "output":
            if node.args[0] is not before or last != "linear":
                raise UnsupportedLayerError(
                    f"the output must be that of the last Linear layer, not of {last}; "
                    f"allowed are {_ALLOWED}"
                )
            break
        layer = modules[str(node.target)] if node.op == "call_module" else None
        called = (
            f"operation {node.name!r}" if layer is None
            else f"layer {str(node.target)!r} ({type(layer).__name__})"
        )  # fmt: skip
        if node.op == "get_attr":
            raise UnsupportedLayerError(
                f"parameter or buffer {node.target!r} is used outside a layer; allowed are "
                f"{_ALLOWED}"
            )
        if node.all_input_nodes != [before]:
            raise UnsupportedLayerError(
                f"{called} does not read just what comes before it; the bound is for a chain "
                "without skip connections"
            )
        kind = _kind(node, layer, called)
        if kind == "linear":
            weights.append(_weight(layer, called, last))
        if kind == "relu" and last == "input":
            raise UnsupportedLayerError(f"{called} comes before every Linear layer; leave it out")
        last = last if kind == "same" else kind
        before = node
    return tuple(weights)


def _kind(node: fx.Node, layer: nn.Module | None, called: str) -> str:
    """Classify a node as linear, relu or same, or refuse it."""
    if type(layer) is nn.Linear:  # not a parametrized one, whose weight may change when read
        return "linear"
    if type(layer) is nn.ReLU or node.target in _RELU:
        return "relu"
    if type(layer) is nn.Dropout and layer.training:
        raise UnsupportedLayerError(f"{called} drops units at random; call model.eval() first")
    if type(layer) in (nn.Flatten, nn.Identity, nn.Dropout) or node.target in _FLATTEN:
        return "same"
    raise UnsupportedLayerError(f"{called} is not covered; allowed are {_ALLOWED}")


def _weight(layer: nn.Module | None, called: str, last: str) -> Tensor:
    assert isinstance(layer, nn.Linear)
    if layer.bias is not None:
        raise UnsupportedLayerError(
            f"{called} has a bias, which the theorem does not cover; build it with bias=False, "
            "or append a constant 1 to every input and let the weights of the first layer read it"
        )
    if last == "linear":
        raise UnsupportedLayerError(
            f"{called} follows a Linear layer without a ReLU between; multiply the two into one"
        )
    return matrix_of(layer.weight, f"weight of {called}").clone()


@torch.no_grad()
def _check_probe(model: nn.Module, weights: Sequence[Tensor]) -> None:
    """Compare with the model's own output: hooks and the like act on it unseen."""
    columns = weights[0].shape[1]
    probe = torch.linspace(-1, 1, 2 * columns, dtype=torch.float64).reshape(2, columns)
    expected = outputs_of(weights, probe)
    parameter = next(model.parameters())
    own = model(probe.to(parameter)).to("cpu", torch.float64)
    allowed = 1e4 * torch.finfo(parameter.dtype).eps * (1 + float(expected.abs().max()))
    worst = float((own - expected).abs().max()) if own.shape == expected.shape else math.inf
    if not worst <= allowed:
        raise UnsupportedLayerError(
            f"the model's output differs from that of its weights by {worst:.2g}: something acts "
            "on it that its graph does not show, such as a hook; remove it"
        )


def check_chain(weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return weights in float64, each having been found to read the outputs of the one before."""
    found = tuple(matrix_of(w, f"weights[{k}]") for k, w in enumerate(weights))
    if not found:
        raise ValueError("weights is empty; a network has at least one weight")
    for k, (w, after) in enumerate(pairwise(found)):
        if len(w) != after.shape[1]:
            raise ValueError(
                f"weights[{k + 1}] reads {after.shape[1]} units, weights[{k}] has {len(w)} outputs"
            )
    return found


def inputs_of(weights: Sequence[Tensor], x: Tensor) -> Tensor:
    """Return inputs as [m, d_0] float64 on the CPU, checked against the first weight."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2 or not len(x):
        found = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x must be a floating-point tensor [m, d_0] with m >= 1, got {found}")
    rows = x.detach().to("cpu", torch.float64).flatten(1)
    if rows.shape[1] != weights[0].shape[1]:
        raise ValueError(
            f"x has {rows.shape[1]} numbers an example, the first weight reads "
            f"{weights[0].shape[1]}"
        )
    if not bool(rows.isfinite().all()):
        raise ValueError("x holds NaN or infinity")
    return rows


def pre_activations(weights: Sequence[Tensor], x: Tensor) -> tuple[Tensor, ...]:
    """[m, d_k] of W_k x_{k-1} for k = 1, ..., K + 1, without checks; the last are the outputs."""
    found = [x @ weights[0].T]
    for w in weights[1:]:
        found.append(found[-1].relu() @ w.T)
    return tuple(found)


def outputs_of(weights: Sequence[Tensor], x: Tensor) -> Tensor:
    """[m, C] outputs, without checks."""
    return pre_activations(weights, x)[-1]


def activations(weights: Sequence[Tensor], x: Tensor) -> tuple[Tensor, ...]:
    r"""Inputs, activations of every hidden layer, and outputs.

    Parameters
    ----------
    weights : sequence of Tensor
        K + 1 weights, [d_k, d_{k-1}].
    x : Tensor
        [m, d_0] inputs.

    Returns
    -------
    tuple of Tensor
        K + 2 float64 tensors [m, d_k]: :math:`x_0`, :math:`x_k = \max(0, W_k x_{k-1})` for
        k = 1, ..., K, and :math:`h(x_0) = W_{K+1} x_K`.

    Raises
    ------
    TypeError, ValueError
        If shapes or types do not fit.

    Examples
    --------
    >>> import torch
    >>> first, second = torch.tensor([[1.0, 0.0], [0.0, -1.0]]), torch.tensor([[1.0, 1.0]])
    >>> [values.tolist() for values in activations([first, second], torch.ones(1, 2))]
    [[[1.0, 1.0]], [[1.0, 0.0]], [[1.0]]]
    """
    chain = check_chain(weights)
    rows = inputs_of(chain, x)
    *hidden, outputs = pre_activations(chain, rows)
    return (rows, *(h.relu() for h in hidden), outputs)
