"""Inner products of path features without path features, behind :mod:`gencoh_lib.paths`.

A path feature of x is the input at the start of the path, times 1 if every gate on it is open.
Write K_u(x, x') for the sum of products of path features over the paths that end at unit u. Then

* at an input, K_j = x_j x'_j;
* a layer with weights adds up what its edges come from: K_u = sum_v K_v, plus 1 for a bias (a path
  from a constant input);
* a gate multiplies: K_u = g_u(x) g_u(x') K_v;
* a sum of two branches adds: their paths are different ones.

All units of a channel's neighbours see the same paths, so that a step needs one matrix a position
rather than one a unit: a :class:`Term` is such a matrix with the gates still to be applied. For a
fully connected network the recursion is the product over layers of Gram matrices of gates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gencoh_lib._network_graph import (
    Network,
    Step,
    UnsupportedLayerError,
    layer_of,
)

_NUMBERS = 2**24  # of float64 that one block of the kernel may take, 128 MiB


@dataclass(frozen=True, eq=False)
class Term:
    """K_u(a, b) = base[p, a, b] left[a, c, p] right[b, c, p] for the unit u = (c, p).

    Gates that are None are open for every unit; ``channels`` counts c.
    """

    base: Tensor
    channels: int
    left: Tensor | None = None
    right: Tensor | None = None

    def gated(self, left: Tensor, right: Tensor) -> Term:
        """Multiply the gates [a, units] and [b, units] of a step onto those of the term."""
        shape = (self.channels, len(self.base))
        left, right = left.reshape(-1, *shape), right.reshape(-1, *shape)
        if self.left is not None and self.right is not None:
            left, right = left * self.left, right * self.right
        return Term(self.base, self.channels, left, right)

    def through(self, window: Tensor, open_left: Tensor, open_right: Tensor) -> Term:
        """Keep the positions ``window`` [p'], and multiply gates [a, c, p'] onto what they have."""
        left, right = open_left.double(), open_right.double()
        if self.left is not None and self.right is not None:
            left, right = left * self.left[:, :, window], right * self.right[:, :, window]
        return Term(self.base[window], self.channels, left, right)

    def over_channels(self, channels: slice = slice(None)) -> Tensor:
        """Sum of K_u over (some of) the channels, [p, a, b]."""
        if self.left is None or self.right is None:
            return self.base * len(range(self.channels)[channels])
        left, right = self.left[:, channels], self.right[:, channels]
        return self.base * torch.bmm(left.permute(2, 0, 1), right.permute(2, 1, 0))

    def split(self, channels: int) -> list[Term]:
        """Arrange the same units as [channels, rest]."""
        positions = len(self.base)
        if channels == self.channels:
            return [self]
        rest = self.channels * positions // channels
        gates = [
            None if g is None else g.reshape(len(g), channels, rest)
            for g in (self.left, self.right)
        ]
        if positions == 1:
            return [Term(self.base.expand(rest, -1, -1), channels, *gates)]
        units = self.base.repeat(self.channels, 1, 1)  # one matrix a unit, in the order of units
        a, b = self.base.shape[1:]
        left, right = (
            torch.ones(n, channels, rest, dtype=torch.float64) if g is None else g
            for n, g in zip((a, b), gates, strict=True)
        )
        chosen = torch.eye(channels, dtype=torch.float64)[:, :, None]
        return [
            Term(units[c * rest : (c + 1) * rest], channels, left * chosen[c], right * chosen[c])
            for c in range(channels)
        ]


def outputs_share_paths(network: Network) -> bool:
    """Whether every output sees the same path features, so that only path weights differ."""
    steps = {step.name: step for step in network.steps}

    def shared(step: Step) -> bool:
        if step.kind == "add":
            return all(shared(steps[name]) for name in step.inputs)
        if step.kind == "reshape":
            return shared(steps[step.inputs[0]])
        if step.kind == "conv":
            layer = layer_of(step)
            return bool(getattr(layer, "groups", 1) == 1) and step.shape[0] == _size(step.shape)
        return step.kind == "linear"

    return network.outputs == 1 or shared(network.steps[-1])


def check_outputs(network: Network) -> None:
    """Refuse a network whose outputs see different paths."""
    if not outputs_share_paths(network):
        raise UnsupportedLayerError(
            f"the {network.outputs} outputs, from {network.steps[-1].name!r}, do not see the same "
            "path features; end the network with a Linear layer, or measure one output at a time"
        )


def kernel(
    network: Network,
    x: Tensor,
    gates: Mapping[str, Tensor],
    other: Tensor | None = None,
    other_gates: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """K(x_a, x'_b), [n, n'] float64, in blocks of rows; without ``other`` of x with itself."""
    check_outputs(network)
    symmetric = other is None or other_gates is None
    right, right_gates = (
        (x, gates) if other is None or other_gates is None else (other, other_gates)
    )
    rows = max(1, _NUMBERS // (len(right) * _matrices(network)))
    result = x.new_zeros(len(x), len(right))
    for start in range(0, len(x), rows):
        block = slice(start, start + rows)
        columns = slice(0, start + rows) if symmetric else slice(None)
        part = _block(
            network,
            (x[block], right[columns]),
            (
                {k: g[block] for k, g in gates.items()},
                {k: g[columns] for k, g in right_gates.items()},
            ),
        )
        result[block, columns] = part
        if symmetric:
            result[columns, block] = part.T
    return result


def _matrices(network: Network) -> int:
    """How many matrices the largest step holds at once, about."""
    return max(
        2 * (_size(s.shape[1:]) or 1) * (1 if s.windows is None else len(s.windows))
        for s in network.steps
        if s.kind != "input"
    )


def _block(
    network: Network,
    x: tuple[Tensor, Tensor],
    gates: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
) -> Tensor:
    terms: dict[str, list[Term]] = {}
    for number, step in enumerate(network.steps):
        read = [terms[name] for name in step.inputs]
        terms[step.name] = _after(step, read, x, gates)
        for name in step.inputs:
            if network.last_use[name] == number:
                terms.pop(name, None)
    last = terms[network.steps[-1].name]
    if network.outputs == 1:
        return torch.stack([term.over_channels().sum(0) for term in last]).sum(0)
    return torch.stack([term.base[0] for term in last]).sum(0)


def _after(
    step: Step,
    read: list[list[Term]],
    x: tuple[Tensor, Tensor],
    gates: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
) -> list[Term]:
    a, b = len(x[0]), len(x[1])
    if step.kind == "input":
        ones = torch.ones(1, a, b, dtype=torch.float64)
        units = _size(step.shape)
        return [Term(ones, units, x[0].reshape(a, units, 1), x[1].reshape(b, units, 1))]
    if step.kind == "add":
        return [*read[0], *read[1]]
    (before,) = read
    if step.kind == "reshape":
        return before
    if step.kind == "linear":
        total = torch.stack([term.over_channels().sum(0) for term in before]).sum(0)
        return [Term(_with_bias(step, total[None]), step.shape[0])]
    if step.kind == "relu":
        left, right = (g[step.name].double() for g in gates)
        return [term.gated(left, right) for term in before]
    if step.kind == "pool":
        return [new for term in before for new in _pooled(step, term, gates)]
    return _convolved(step, before)


def _with_bias(step: Step, base: Tensor) -> Tensor:
    return base if layer_of(step).bias is None else base + 1


def _convolved(step: Step, before: list[Term]) -> list[Term]:
    """One term for each group of channels: a channel out sees the channels in of its group."""
    layer = layer_of(step)
    groups = int(getattr(layer, "groups", 1))
    into = int(layer.in_channels)  # type: ignore[arg-type]
    before = [new for term in before for new in term.split(into)]
    assert step.edges is not None
    a, b = before[0].base.shape[1:]
    found = []
    for group in range(groups):
        channels = slice(group * into // groups, (group + 1) * into // groups)
        total = before[0].over_channels(channels)
        for term in before[1:]:
            total = total + term.over_channels(channels)
        base = _with_bias(step, _read_from(total, step.edges))
        term = Term(base, step.shape[0])
        if groups > 1:
            chosen = torch.zeros(step.shape[0], len(base), dtype=torch.float64)
            width = step.shape[0] // groups
            chosen[group * width : (group + 1) * width] = 1
            term = term.gated(chosen.expand(a, -1, -1), chosen.expand(b, -1, -1))
        found.append(term)
    return found


def _read_from(total: Tensor, edges: Tensor) -> Tensor:
    """Sum over what each position reads, [p', a, b]."""
    inside = edges >= 0
    places = torch.arange(edges.shape[1]).expand_as(edges)
    matrix = torch.sparse_coo_tensor(
        torch.stack([places[inside], edges[inside]]),
        torch.ones(int(inside.sum()), dtype=torch.float64),
        (edges.shape[1], len(total)),
        check_invariants=False,
    )
    found: Tensor = torch.sparse.mm(matrix, total.reshape(len(total), -1))
    return found.reshape(-1, *total.shape[1:])


def _pooled(
    step: Step, term: Term, gates: tuple[Mapping[str, Tensor], Mapping[str, Tensor]]
) -> list[Term]:
    """One term for each place in the window: the path goes through it where it is the maximum."""
    assert step.windows is not None
    left, right = (g[step.name] for g in gates)
    return [
        part.through(window, (left == place) & (window >= 0), (right == place) & (window >= 0))
        for part in term.split(step.shape[0])
        for place, window in enumerate(step.windows)
    ]


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for n in shape:
        size *= n
    return size
