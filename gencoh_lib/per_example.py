"""Gradients of every example, from the vector of losses.

A batch of m examples gives m losses and, for one parameter w, m gradients
g_i = d losses[i] / d w. Training needs only their sum; coherence needs each one's length.
Everything here starts from the *vector* of losses (``reduction="none"``) and not from a wrapped
model, because the autograd graph of that vector knows every use of every parameter: functional
calls, tied weights, recurrent nets, layers that nobody has seen before.

Two routes lead to the lengths, and each parameter takes the first that is safe for it.

* *By rule*: where one node of a known kind consumes the parameter, and every row that passes
  belongs to one example, the norms are read off during a single backward pass. On ordinary MLPs,
  convolutional networks and transformers, where the graph itself proves whose rows are whose, that
  is little more than a training step; elsewhere they have to be probed, which triples the price.
  After Goodfellow (2015); ``_rules`` has the formulas.
* *General*: row i of the Jacobian is the backward pass seeded with the i-th unit vector. It costs
  m backward passes, batched within a byte budget, and covers everything: weights that are tied,
  reused, made from others, or that examples share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointError

from gencoh_lib._graph import (
    check_direction,
    check_losses,
    check_parameters,
    explained,
    nodes,
    reached,
    refuse_not_finite,
    refuse_what_hides,
)
from gencoh_lib._ownership import Site, sites, watched_backward
from gencoh_lib._rules import Flow
from gencoh_lib._vectors import (
    BYTE_BUDGET,
    backward,
    blocks,
    examples_within,
    flat,
    gradients,
    gram,
    wide,
)

__all__ = ["directional_derivatives", "gradients", "gram", "squared_norms"]

for _function in (gradients, gram):
    _function.__module__ = __name__  # their public name, in tracebacks and in the API reference

CACHE_BYTES = 2**21  # what a rule forms at a time should stay in the cache


def squared_norms(
    losses: Tensor,
    named_parameters: Mapping[str, Tensor],
    *,
    accumulate_grad: bool = False,
    retain_graph: bool = True,
    byte_budget: int = BYTE_BUDGET,
) -> dict[str, Tensor]:
    r"""Squared norm of the gradient of every example, parameter by parameter.

    Parameters
    ----------
    losses : Tensor
        [m] the loss of each example, still attached to its graph
        (``F.cross_entropy(model(x), y, reduction="none")``).
    named_parameters : mapping of str to Tensor
        The parameters to differentiate by, e.g. ``dict(model.named_parameters())``; each must
        require a gradient.
    accumulate_grad : bool
        Whether to add the gradient of the *mean* loss to each ``.grad``, as
        ``losses.mean().backward()`` would: one backward pass then serves both.
    retain_graph : bool
        Whether the graph is kept for another backward pass. Without it the memory of the
        activations is given back on the way, as in a training step, unless a parameter takes the
        general route.
    byte_budget : int
        Bytes that gradients on the general route may take; one example is always done.

    Returns
    -------
    dict of str to Tensor
        For each name, [m] in float64 (float32 on a device without it):
        :math:`\lVert\partial\,\mathrm{losses}_i/\partial w\rVert^2`. A parameter that no loss
        uses has zeros.

    Raises
    ------
    TypeError, ValueError
        If ``losses`` is not a finite, one-dimensional vector with a graph; if no parameter is
        given, one is frozen, complex or given twice, or the graph reaches none of them; if a
        batch-norm layer normalised by the batch, so that no example has a gradient of its own;
        if parameters are hidden by reentrant checkpointing; if a gradient is not finite.

    Notes
    -----
    What is returned is the derivative of ``losses[i]``, exactly. Where a model mixes examples by
    hand, ``z - z.mean(0)``, that derivative depends on the rest of the batch; of all the ways to
    mix examples only batch norm is recognised, and inside ``torch.compile`` not even that.
    ``.grad`` is untouched unless asked for.

    Hooks fire as in any backward pass, but a graph does not say which it has. Those on a parameter
    are respected. One on a tensor in between, or on a node, that mixes examples (clipping by the
    norm of the batch) or changes what goes into a parameter (a hook on ``weight.t()``) is not seen
    and spoils the result: measure without it.

    Examples
    --------
    >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> x = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    >>> squared_norms(x @ w, {"w": w})["w"].tolist()
    [25.0, 4.0]
    """
    found = moments(losses, named_parameters, byte_budget=byte_budget, retain_graph=retain_graph)
    if accumulate_grad:
        add_mean_gradient(named_parameters, found.sums, found.routes, len(losses))
    return found.squares


def directional_derivatives(
    losses: Tensor,
    named_parameters: Mapping[str, Tensor],
    direction: Mapping[str, Tensor],
    *,
    byte_budget: int = BYTE_BUDGET,
) -> Tensor:
    r"""Rate at which every example's loss changes along one direction in parameter space.

    Parameters
    ----------
    losses, named_parameters, byte_budget
        As in :func:`squared_norms`.
    direction : mapping of str to Tensor
        For each name a tensor v of the parameter's shape.

    Returns
    -------
    Tensor
        [m]: :math:`\langle g_i, v\rangle`, the sum over all parameters.

    Raises
    ------
    TypeError, ValueError
        As :func:`squared_norms`; also if a direction is missing, not finite or of another shape.

    Notes
    -----
    The backward pass is linear in its seed u, :math:`u \mapsto J^\top u`; differentiating
    :math:`\langle J^\top u, v\rangle` by u gives :math:`J v` at the price of about three backward
    passes, whatever m. At a random u the product with the answers must give the value back. Where
    it does not, where an operation cannot be differentiated twice, or in half precision, each
    gradient is formed instead.

    Examples
    --------
    >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> x = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    >>> directional_derivatives(x @ w, {"w": w}, {"w": torch.tensor([1.0, -1.0])}).tolist()
    [-1.0, -2.0]
    """
    check_losses(losses)
    parameters = check_parameters(named_parameters)
    refuse_what_hides(losses, named_parameters)
    along = check_direction(named_parameters, direction)
    fast = _jacobian_vector_product(losses, parameters, along)
    if fast is not None:
        return fast
    parts = [
        torch.stack([flat(g * v).sum(1) for g, v in zip(rows, along, strict=True)])
        for rows in _general(losses, parameters, byte_budget)
    ]
    return torch.cat([part.sum(0) for part in parts])


def add_mean_gradient(
    named_parameters: Mapping[str, Tensor],
    sums: Mapping[str, Tensor],
    routes: Mapping[str, str],
    examples: int,
) -> None:
    """Add the mean gradient to ``.grad``, as a backward pass of the mean loss would."""
    for name, total in sums.items():
        if not bool(torch.isfinite(total).all()):
            raise ValueError(
                f"the sum of the gradients by {name!r} overflows {total.dtype}: scale the losses "
                "down, or call losses.mean().backward() yourself"
            )
    for name, parameter in named_parameters.items():
        if routes[name] == "unused":  # a backward pass leaves these alone
            continue
        gradient = (sums[name] / examples).to(parameter)
        if parameter.grad is None:
            parameter.grad = gradient
        elif parameter.grad.layout != torch.strided:
            parameter.grad = parameter.grad.to_dense().add_(gradient)
        else:
            parameter.grad += gradient


@dataclass(frozen=True)
class Moments:
    """What one sweep over the gradients gives.

    ``squares`` [m] and ``sums`` are by name; ``routes`` says how: "rule", "general", or "unused".
    """

    squares: dict[str, Tensor]
    sums: dict[str, Tensor]
    routes: dict[str, str]


def moments(
    losses: Tensor,
    named_parameters: Mapping[str, Tensor],
    *,
    byte_budget: int = BYTE_BUDGET,
    retain_graph: bool = True,
) -> Moments:
    """Squared norms [m] of the gradients and their sum, by name."""
    check_losses(losses)
    check_parameters(named_parameters)
    graph = nodes(losses)
    refuse_what_hides(losses, named_parameters, graph=graph)
    connected = reached(graph, named_parameters)
    with explained():
        found = sites(graph, losses, named_parameters, CACHE_BYTES)
        ruled = {site.name for site in found}
        slow = {n for n, p in named_parameters.items() if n in connected or not p.is_leaf} - ruled
        retain_graph = retain_graph or bool(slow)
        try:
            squares, sums = _by_rules(graph, losses, found, retain_graph)
        except CheckpointError as error:  # checkpointed tensors can be unpacked only once a pass
            if not retain_graph:
                raise ValueError(
                    "with activation checkpointing the gradients take several backward passes: "
                    "ask for retain_graph=True"
                ) from error
            squares, sums, slow = {}, {}, slow | ruled
    routes = dict.fromkeys(squares, "rule")
    if slow or not squares:
        rest = {n: p for n, p in named_parameters.items() if n in slow} or named_parameters
        more = _by_seeds(losses, rest, byte_budget)
        squares |= more[0]
        sums |= more[1]
        routes |= dict.fromkeys(more[0], "general")
    for name, parameter in named_parameters.items():
        if name not in squares:
            squares[name] = losses.new_zeros(len(losses), dtype=wide(losses))
            sums[name] = torch.zeros_like(parameter.detach())
            routes[name] = "unused"
    if not bool(torch.stack(list(squares.values())).sum().isfinite()):
        for name, values in squares.items():
            refuse_not_finite(values, f"the gradients by {name!r}")
    order = list(named_parameters)
    return Moments(
        {name: squares[name] for name in order},
        {name: sums[name] for name in order},
        {name: routes[name] for name in order},
    )


def _by_rules(
    graph: Sequence[Any], losses: Tensor, found: Sequence[Site], retain_graph: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """One backward pass, in which every parameter that has a rule is measured as it goes by."""
    if not found:
        return {}, {}
    squares: dict[str, Tensor] = {}
    by_node: dict[Any, list[Site]] = {}
    for site in found:
        by_node.setdefault(site.rule.node, []).append(site)

    def watcher(group: list[Site]) -> Callable[[Tensor], None]:
        @torch.no_grad()
        def see(gradient: Tensor) -> None:
            # rules of one node often want the same of it; rows of one shape have one layout
            flows: dict[tuple[int, ...], Flow] = {}
            for site in group:
                rows = site.layout(site.rule.rows(gradient.detach()))
                flow = flows.setdefault(tuple(rows.shape), Flow(rows))
                squares[site.name] = site.rule.norms(flow, site.layout).to(wide(losses))

        return see

    asked = {site.name: site.rule.use.parameter for site in found if not site.fused}
    watch = {node: watcher(group) for node, group in by_node.items()}
    ones = torch.ones_like(losses.detach())
    caught = watched_backward(graph, losses, list(asked.values()), ones, watch, retain_graph)
    sums = dict(zip(asked, caught, strict=True)) | {s.name: s.rule.sum for s in found if s.fused}
    for site in found:
        if site.name not in squares:  # nothing flows into the node: there is no gradient
            squares[site.name] = losses.new_zeros(len(losses), dtype=wide(losses))
    return squares, {
        site.name: torch.zeros_like(site.rule.use.parameter, requires_grad=False)
        if (total := sums[site.name]) is None
        else total.to_dense().detach()
        for site in found
    }


def _by_seeds(
    losses: Tensor, named_parameters: Mapping[str, Tensor], byte_budget: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The general route: every gradient is formed, in chunks, and squared and added up."""
    dtype = wide(losses)
    norms: dict[str, list[Tensor]] = {name: [] for name in named_parameters}
    sums = {name: p.new_zeros(p.shape, dtype=dtype) for name, p in named_parameters.items()}
    for rows in _general(losses, list(named_parameters.values()), byte_budget):
        for name, gradient in zip(named_parameters, rows, strict=True):
            norm = torch.linalg.vector_norm(flat(gradient), dim=1, dtype=dtype)
            norms[name].append(norm.square())
            sums[name] += gradient.sum(0, dtype=dtype)
    squares = {name: torch.cat(chunks) for name, chunks in norms.items()}
    return squares, {name: total.detach() for name, total in sums.items()}


def _general(
    losses: Tensor, parameters: list[Tensor], byte_budget: int
) -> Iterator[tuple[Tensor, ...]]:
    """Gradients of consecutive examples, each [c, *parameter shape], c as the budget allows."""
    step = examples_within(losses, parameters, byte_budget)
    return (rows for _, rows in blocks(losses, parameters, step))


def _jacobian_vector_product(
    losses: Tensor, parameters: list[Tensor], along: list[Tensor]
) -> Tensor | None:
    """J v by differentiating the backward pass by its seed; None where that cannot be trusted."""
    if torch.finfo(losses.dtype).bits < 32:
        return None
    generator = torch.Generator().manual_seed(0)
    with torch.enable_grad():
        seed = torch.rand(len(losses), generator=generator).to(losses.detach()).add_(0.5)
        seed.requires_grad_()
        try:
            rows = backward(losses, parameters, seed, create_graph=True)
            parts = [(g * v).sum() for g, v in zip(rows, along, strict=True)]
            total = torch.stack(parts).sum()
            with torch.autocast(losses.device.type, enabled=False):
                (answer,) = torch.autograd.grad(total, seed)
        except RuntimeError:  # some operation has no second derivative
            return None
    # a hand-written backward may cut the graph without a word; linearity in the seed tells
    given_back = answer * seed.detach()
    slack = 1e3 * torch.finfo(losses.dtype).eps * float(given_back.abs().sum())
    return answer if abs(float(given_back.sum() - total.detach())) <= slack else None
