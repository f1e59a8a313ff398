"""Paths one by one, their number and their norms, behind :mod:`gencoh_lib.paths`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gencoh_lib._dataset import listing
from gencoh_lib._network_graph import (
    Network,
    Step,
    apply_weights,
    evaluate,
    layer_of,
    weights_of,
)
from gencoh_lib._path_kernel import check_outputs
from gencoh_lib._tracing import trace


@dataclass(frozen=True, eq=False, repr=False)
class PathNorms:
    r"""Norms of the path weights :math:`\bar w_k`, for each output k.

    Attributes
    ----------
    squared : Tensor
        [d_y] :math:`\lVert \bar w_k \rVert_2^2`, the sum over paths of squared products of weights.
    absolute : Tensor
        [d_y] :math:`\lVert \bar w_k \rVert_1`, the sum of their absolute values.
    paths : float
        Number of paths to one output (that with most), a float since it may exceed any integer
        that float64 holds exactly.
    frobenius_product : float
        Product over all layers of the squared Frobenius norm of the weight, biases left out. For
        a chain of Linear layers without biases it is at least the sum of ``squared``; rescaling a
        hidden unit changes it, and leaves the path norms as they are.

    Examples
    --------
    >>> from gencoh_lib import models, paths
    >>> net = models.mlp([2, 3, 1], bias=False, seed=0)
    >>> norms = paths.path_norms(net, torch.ones(1, 2))
    >>> norms.paths
    6.0
    """

    squared: Tensor
    absolute: Tensor
    paths: float
    frobenius_product: float

    def __repr__(self) -> str:
        """Return a small table."""
        return listing(
            f"path norms of {len(self.squared)} outputs",
            {
                "paths to an output": f"{self.paths:.6g}",
                "sum of squared 2-norms": f"{float(self.squared.sum()):.4g}",
                "sum of 1-norms": f"{float(self.absolute.sum()):.4g}",
                "product of squared Frobenius norms": f"{self.frobenius_product:.4g}",
            },
        )


@dataclass(frozen=True, eq=False, repr=False)
class PathFeatures:
    r"""All paths of a small network, written out: :math:`f_k(x) = z(x)^\top \bar w_k`.

    Attributes
    ----------
    z : Tensor
        [m, d_z] path features: the input at the start of the path where every gate on it is
        open, else 0; 1 or 0 for a path that starts at a bias.
    weights : Tensor
        [d_y, d_z] path weights.
    labels : tuple
        For each path the places that it passes before the output: ``("input[3]", "layer1[0]")``,
        or ``("layer1.bias", "layer1[0]")``.

    Examples
    --------
    >>> from gencoh_lib import models, paths
    >>> net = models.mlp([2, 3, 1], bias=False, seed=0)
    >>> paths.path_features(net, torch.ones(4, 2)).labels[1]
    ('input[1]', 'layer1[0]')
    """

    z: Tensor
    weights: Tensor
    labels: tuple[tuple[str, ...], ...]

    @property
    def active(self) -> Tensor:
        """Which paths carry something at which example, [m, d_z] boolean."""
        return self.z != 0

    def __repr__(self) -> str:
        """Return a small table of the paths."""
        (m, d), shown = self.z.shape, 8
        lines = [
            f"{d} paths of a network with {len(self.weights)} outputs, at {m} examples",
            f"  {'path':<44s} {'active at':>9s} {'weight':>10s}",
        ]
        for j in range(min(d, shown)):
            share = float(self.active[:, j].double().mean())
            name = " > ".join(self.labels[j])
            lines.append(f"  {name:<44s} {share:9.0%} {float(self.weights[0, j]):10.4g}")
        lines += [f"  ... and {d - shown} more"] if d > shown else []
        lines += ["  (weights are those to output 0)"] if len(self.weights) > 1 else []
        return "\n".join(lines)


def forward_linear(network: Network, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Output [d_y] at an input of ones, without gates and with changed weights.

    A pool lets through everything that it covers: each place in the window is a path of its own.
    """
    values: dict[str, Tensor] = {}
    for number, step in enumerate(network.steps):
        read = [values[name] for name in step.inputs]
        if step.kind == "input":
            h = torch.ones(1, *step.shape, dtype=torch.float64)
        elif step.kind in ("linear", "conv"):
            weight, bias = weights_of(step.layer, torch.float64)
            bias = None if bias is None else change(bias)
            h = apply_weights(step.layer, read[0], change(weight), bias)
        elif step.kind == "pool":
            assert step.windows is not None
            flat = read[0].flatten(2)
            padded = torch.cat([flat, flat.new_zeros(*flat.shape[:2], 1)], dim=2)
            h = padded[:, :, step.windows].sum(2).reshape(1, *step.shape)
        elif step.kind == "add":
            h = read[0] + read[1]
        else:
            h = read[0].reshape(1, *step.shape)
        values[step.name] = h
        for name in step.inputs:
            if network.last_use[name] == number:
                values.pop(name, None)
    return values[network.steps[-1].name][0]


def count(network: Network) -> float:
    """Number of paths to the output that has most."""
    return float(forward_linear(network, torch.ones_like).max())


def norms(network: Network) -> PathNorms:
    """Path norms by two forward passes."""
    weights = [
        weights_of(s.layer, torch.float64)[0] for s in network.steps if s.kind in ("linear", "conv")
    ]
    return PathNorms(
        squared=forward_linear(network, torch.square),
        absolute=forward_linear(network, torch.abs),
        paths=count(network),
        frobenius_product=math.prod(float(w.square().sum()) for w in weights),
    )


@dataclass(frozen=True, eq=False)
class _Bundle:
    """All paths to one unit: features [m, n], weights [n], places."""

    z: Tensor
    w: Tensor
    labels: tuple[tuple[str, ...], ...]


def _join(bundles: list[_Bundle], m: int) -> _Bundle:
    if not bundles:  # a unit that sees nothing but padding
        nothing = torch.zeros(m, 0, dtype=torch.float64)
        return _Bundle(nothing, nothing.new_zeros(0), ())
    return _Bundle(
        torch.cat([b.z for b in bundles], dim=1),
        torch.cat([b.w for b in bundles]),
        tuple(label for b in bundles for label in b.labels),
    )


def enumerate_paths(network: Network, x: Tensor, gates: Mapping[str, Tensor]) -> PathFeatures:
    """List every path, unit by unit."""
    check_outputs(network)
    units: dict[str, list[_Bundle]] = {}
    for step in network.steps:
        units[step.name] = _bundles(step, [units[name] for name in step.inputs], x, gates)
    last = units[network.steps[-1].name]
    # A path to an output is named by where it was before; the outputs share the rest.
    labels = tuple(label[:-1] or label for label in last[0].labels)
    return PathFeatures(last[0].z, torch.stack([b.w for b in last]), labels)


def _bundles(
    step: Step, read: list[list[_Bundle]], x: Tensor, gates: Mapping[str, Tensor]
) -> list[_Bundle]:
    if step.kind == "input":
        flat = x.flatten(1)
        one = torch.ones(1, dtype=torch.float64)
        return [_Bundle(flat[:, j : j + 1], one, ((f"input[{j}]",),)) for j in range(flat.shape[1])]
    if step.kind == "add":
        return [_join([one, other], len(x)) for one, other in zip(*read, strict=True)]
    (before,) = read
    if step.kind == "reshape":
        return before
    if step.kind == "relu":
        gate = gates[step.name].flatten(1)
        return [_Bundle(b.z * gate[:, u : u + 1], b.w, b.labels) for u, b in enumerate(before)]
    if step.kind == "pool":
        return _through_pool(step, before, gates[step.name])
    return [_arriving(step, u, before, len(x)) for u in range(math.prod(step.shape))]


def _arriving(step: Step, unit: int, before: list[_Bundle], m: int) -> _Bundle:
    """Paths to one unit of a layer with weights: one family an edge, and one for the bias."""
    here = f"{step.name}[{unit}]"
    edges, bias = _edges_into(step, unit)
    found = [
        _Bundle(before[v].z, before[v].w * w, tuple((*label, here) for label in before[v].labels))
        for v, w in edges
    ]
    if bias is not None:
        start = torch.ones(m, 1, dtype=torch.float64)
        found.append(_Bundle(start, bias.reshape(1), ((f"{step.name}.bias", here),)))
    return _join(found, m)


def _edges_into(step: Step, unit: int) -> tuple[list[tuple[int, Tensor]], Tensor | None]:
    """Units that a unit reads, in order, with the weights; and its bias."""
    weight, bias = weights_of(step.layer, torch.float64)
    if step.kind == "linear":
        return list(enumerate(weight[unit])), None if bias is None else bias[unit]
    assert step.edges is not None
    size = math.prod(step.before[1:])
    channel, place = divmod(unit, math.prod(step.shape[1:]))
    per_group = weight.shape[1]
    first = channel * int(layer_of(step).groups) // step.shape[0] * per_group  # type: ignore[arg-type]
    kernel = weight[channel].flatten(1)
    edges = [
        ((first + c) * size + q, kernel[c, o])
        for c in range(per_group)
        for o, q in enumerate(step.edges[:, place].tolist())
        if q >= 0
    ]
    return edges, None if bias is None else bias[channel]


def _through_pool(step: Step, before: list[_Bundle], winner: Tensor) -> list[_Bundle]:
    assert step.windows is not None
    places = len(before) // step.shape[0]
    found = []
    for c in range(step.shape[0]):
        for p in range(step.windows.shape[1]):
            members = []
            for o, q in enumerate(step.windows[:, p].tolist()):
                if q >= 0:
                    b = before[c * places + q]
                    members.append(_Bundle(b.z * (winner[:, c, p] == o)[:, None], b.w, b.labels))
            found.append(_join(members, len(winner)))
    return found


def path_norms(model: nn.Module, x: Tensor) -> PathNorms:
    r"""Norms of the path weights by forward passes, without listing paths.

    Parameters
    ----------
    model : torch.nn.Module
        A network that :mod:`gencoh_lib.paths` covers; only read.
    x : Tensor
        [m, ...] inputs of the kind that the model takes; only the shape matters.

    Returns
    -------
    PathNorms

    Raises
    ------
    UnsupportedLayerError
        If a layer is not covered.

    Notes
    -----
    One pass with squared weights, inputs of ones and no gates gives the sum over paths of squared
    products; one with absolute weights the 1-norm (Kawaguchi, Kaelbling and Bengio 2019, v5,
    footnote 1, for the former). Biases count as weights from a constant input.

    Examples
    --------
    >>> from gencoh_lib import models
    >>> net = models.mlp([2, 3, 1], bias=False, seed=0)
    >>> first, second = (layer.weight.detach().double() for layer in (net.layer1, net.layer2))
    >>> by_hand = float((second**2 @ first**2).sum())
    >>> round(float(path_norms(net, torch.ones(1, 2)).squared[0]) / by_hand, 12)
    1.0
    """
    network = trace(model, x)
    evaluate(network, x[:1])
    return norms(network)


def path_features(model: nn.Module, x: Tensor, *, limit: int = 5000) -> PathFeatures:
    r"""List every path of a small network, with its features and weights.

    Parameters
    ----------
    model : torch.nn.Module
        A network that :mod:`gencoh_lib.paths` covers; only read.
    x : Tensor
        [m, ...] inputs.
    limit : int
        Most paths that may be listed.

    Returns
    -------
    PathFeatures

    Raises
    ------
    UnsupportedLayerError
        If a layer is not covered, or the outputs do not see the same paths.
    ValueError
        If there are more paths than `limit`.

    Notes
    -----
    .. math:: f_k(x) = \sum_j \bar w_{k,j}\, \bar\sigma_j(x)\, \bar x_j = z(x)^\top \bar w_k

    Kawaguchi, Kaelbling and Bengio (2019, v5, eq. 1), who write no biases. Here a bias is a weight
    from a constant input, parallel branches of a sum keep their paths apart, and of the paths into
    a maximum only the largest is open; these conventions are the course's.

    Examples
    --------
    >>> from gencoh_lib import models
    >>> net = models.mlp([4, 6, 5, 3], bias=False, seed=0, dtype=torch.float64)
    >>> x = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(2, 4)
    >>> listed = path_features(net, x)
    >>> listed.z.shape, bool(torch.allclose(listed.z @ listed.weights.T, net(x)))
    (torch.Size([2, 120]), True)
    """
    network = trace(model, x)
    number = count(network)
    if number > limit:
        raise ValueError(
            f"the network has {number:.6g} paths to an output, more than limit = {limit}; path "
            "space need not be listed: path_kernel() and path_norms() do without, or raise limit"
        )
    _, gates = evaluate(network, x)
    return enumerate_paths(network, x.detach().to("cpu", torch.float64), gates)
