"""A network as a graph of steps that paths can be followed through, behind :mod:`gencoh_lib.paths`.

A step is linear in its weights, a gate (ReLU, max-pooling), a reshape or a sum; :mod:`_tracing`
makes them from a module, and here they are evaluated, in the module's own type or in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

Kind = Literal["input", "linear", "conv", "relu", "pool", "reshape", "add"]


class UnsupportedLayerError(ValueError):
    """A layer that a sum over paths does not describe; the message names it and the remedy.

    Examples
    --------
    >>> from gencoh_lib import paths
    >>> try:
    ...     paths.path_norms(nn.Sequential(nn.Linear(2, 2), nn.Tanh()), torch.ones(1, 2))
    ... except paths.UnsupportedLayerError as error:
    ...     print(str(error).partition(";")[0])
    layer '1' (Tanh) is not covered
    """


@dataclass(frozen=True, eq=False)
class Step:
    """One node: its kind, the names of the steps that it reads, and its layer if it has one.

    ``shape`` is that of its units, without the examples, and ``before`` that of what it reads. A
    pool also has its ``windows``, the positions that each window covers: [window size, positions
    out], -1 for padding; a convolution likewise its ``edges``: [kernel size, positions out].
    """

    name: str
    kind: Kind
    inputs: tuple[str, ...]
    layer: nn.Module | None = None
    shape: tuple[int, ...] = ()
    before: tuple[int, ...] = ()
    windows: Tensor | None = None
    edges: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Network:
    """Steps in topological order, the last one being the output.

    ``gate_layers`` are the layers of a second network that decides the gates, by step; without
    it the network gates itself.
    """

    steps: tuple[Step, ...]
    model: nn.Module
    gate_layers: Mapping[str, nn.Module] | None = None
    last_use: Mapping[str, int] = field(default_factory=dict)

    @property
    def outputs(self) -> int:
        """Number of outputs, d_y."""
        return self.steps[-1].shape[0]


class GatedModule(nn.Module):
    """A module whose gates another network decides, so that it has to say its graph itself."""

    def network(self, x: Tensor) -> Network:
        """Graph for inputs like x, with the layers that decide the gates."""
        raise NotImplementedError


def layer_of(step: Step) -> nn.Linear | nn.Conv1d | nn.Conv2d:
    """Return the layer of a step that has weights."""
    assert isinstance(step.layer, nn.Linear | nn.Conv1d | nn.Conv2d)
    return step.layer


def weights_of(
    layer: nn.Module | None, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a layer as they are, or copied to the CPU in another type."""
    assert isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d)
    if dtype is None:
        return layer.weight, layer.bias
    bias = None if layer.bias is None else layer.bias.detach().to("cpu", dtype)
    return layer.weight.detach().to("cpu", dtype), bias


def check_weights(layer: nn.Module, called: str) -> None:
    """Refuse a layer whose weights cannot be read as fixed real numbers."""
    own = [*layer.parameters(), *layer.buffers()]
    if any(nn.parameter.is_lazy(tensor) for tensor in own):
        raise UnsupportedLayerError(f"{called} has no weights yet; call the model once before")
    # Reading such a weight takes a step of a power iteration, so it would change the model.
    if layer.training and is_parametrized(layer) and list(layer.buffers()):
        raise UnsupportedLayerError(
            f"{called} has weights that may change when they are read, by a parametrisation in "
            "training mode; call model.eval() first"
        )
    for tensor in weights_of(layer):
        if tensor is None:
            continue
        if tensor.is_meta or not tensor.is_floating_point():
            found = "on the meta device" if tensor.is_meta else f"of type {tensor.dtype}"
            raise UnsupportedLayerError(f"{called} has weights {found}; paths need real numbers")
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{called} has weights that are NaN or infinite")


def apply_weights(
    layer: nn.Module | None, x: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """What a layer would return with other weights."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, bias)
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
    convolve: Any = F.conv1d if isinstance(layer, nn.Conv1d) else F.conv2d
    y: Tensor = convolve(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
    return y


def pooled(step: Step, h: Tensor) -> Tensor:
    """[m, channels, window size, positions out] of what each window of a pool covers."""
    assert step.windows is not None
    flat = h.flatten(2)
    padded = torch.cat([flat, flat.new_full((*flat.shape[:2], 1), -torch.inf)], dim=2)
    return padded[:, :, step.windows.to(h.device)]  # -1 is the last, so the padding


def run(
    network: Network,
    x: Tensor,
    *,
    dtype: torch.dtype | None = None,
    gates: Mapping[str, Tensor] | None = None,
    layers: Mapping[str, nn.Module] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Output [m, d_y] and the gates of every gating step.

    The gate of a ReLU is [m, units] boolean (exactly 0 counts as off); that of a pool holds the
    position of the maximum in each window, [m, channels, positions out]. Where ``gates`` are
    given they are used, whatever the pre-activations; where ``layers`` are, their weights.
    """
    values: dict[str, Tensor] = {}
    found: dict[str, Tensor] = {}
    for number, step in enumerate(network.steps):
        read = [values[name] for name in step.inputs]
        if step.kind == "input":
            h = x
        elif step.kind in ("linear", "conv"):
            layer = step.layer if layers is None else layers[step.name]
            h = apply_weights(layer, read[0], *weights_of(layer, dtype))
        elif step.kind == "relu":
            found[step.name] = read[0] > 0 if gates is None else gates[step.name]
            h = read[0] * found[step.name]
        elif step.kind == "pool":
            covered = pooled(step, read[0])
            winner = covered.argmax(2) if gates is None else gates[step.name]
            found[step.name] = winner
            h = covered.gather(2, winner.unsqueeze(2)).reshape(len(x), *step.shape)
        elif step.kind == "add":
            h = read[0] + read[1]
        else:
            h = read[0].reshape(len(x), *step.shape)
        values[step.name] = h
        for name in step.inputs:
            if network.last_use[name] == number:
                values.pop(name, None)
    return values[network.steps[-1].name], found


@torch.no_grad()
def evaluate(network: Network, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Outputs [m, d_y] and gates in float64 on the CPU; checked against the model's own output.

    The check catches whatever the graph does not show: hooks, aliases of tensors changed in place.
    """
    inputs = x.detach().to("cpu", torch.float64)
    gates = None
    if network.gate_layers is not None:
        _, gates = run(network, inputs, dtype=torch.float64, layers=network.gate_layers)
    outputs, gates = run(network, inputs, dtype=torch.float64, gates=gates)
    own, eps = _own_output(network.model, x)
    allowed = (1e4 if eps < 1e-6 else 64) * eps * (1 + float(outputs.abs().max()))
    worst = float((own - outputs).abs().max()) if own.shape == outputs.shape else torch.inf
    if not worst <= allowed:
        raise UnsupportedLayerError(
            f"the model's output differs from its sum over paths by {worst:.2g}: something acts on "
            "it that its graph does not show, such as a hook or a tensor changed in place"
        )
    return outputs, gates


def _own_output(model: nn.Module, x: Tensor) -> tuple[Tensor, float]:
    """What the model itself returns at a copy of x, in float64, and the precision it works in."""
    types = {p.dtype for p in model.parameters()} or {x.dtype}
    if len(types) > 1:
        raise UnsupportedLayerError(
            f"the model mixes {' and '.join(sorted(map(str, types)))}; give it one type, such as "
            "with model.double()"
        )
    parameter = next(model.parameters(), x)
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    own = model(x.detach().clone().to(parameter))  # a copy: a model may work in place
    changed = [(b, before) for b, before in buffers if not torch.equal(b, before)]
    for buffer, before in changed:
        buffer.copy_(before)
    if changed:
        raise UnsupportedLayerError(
            "the model changes its own buffers when it is called; call model.eval() first"
        )
    return own.to("cpu", torch.float64), torch.finfo(parameter.dtype).eps
