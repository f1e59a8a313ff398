"""Squared norms of all gradients and their sum, in one sweep.

Behind :mod:`gencoh_lib.per_example`: which parameter takes which route, the backward pass in which
the rules look on, and the general route for all others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointError

from gencoh_lib._graph import (
    check_losses,
    check_parameters,
    explained,
    nodes,
    reached,
    refuse_not_finite,
    refuse_what_hides,
    untouched,
)
from gencoh_lib._ownership import Site, sites, watched_backward
from gencoh_lib._rules import Flow
from gencoh_lib._vectors import BYTE_BUDGET, every_gradient, flat, wide

CACHE_BYTES = 2**21  # what a rule forms at a time should stay in the cache


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
    with explained(), untouched(losses, named_parameters):
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


def add_mean_gradient(
    named_parameters: Mapping[str, Tensor],
    sums: Mapping[str, Tensor],
    routes: Mapping[str, str],
    examples: int,
) -> None:
    """Add the mean gradient to ``.grad``, as a backward pass of the mean loss would."""
    means = {
        name: (sums[name] / examples).to(parameter)
        for name, parameter in named_parameters.items()
        if routes[name] != "unused"  # a backward pass leaves these alone
    }
    for name, mean in means.items():
        if not bool(torch.isfinite(mean).all()):
            raise ValueError(
                f"the sum of the gradients by {name!r} overflows {mean.dtype}: scale the losses "
                "down, or call losses.mean().backward() yourself"
            )
    for name, mean in means.items():
        parameter = named_parameters[name]
        if parameter.grad is None:
            parameter.grad = mean
        elif parameter.grad.layout != torch.strided:
            parameter.grad = parameter.grad.to_dense().add_(mean)
        else:
            parameter.grad += mean


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
    for rows in every_gradient(losses, list(named_parameters.values()), byte_budget):
        for name, gradient in zip(named_parameters, rows, strict=True):
            norm = torch.linalg.vector_norm(flat(gradient), dim=1, dtype=dtype)
            norms[name].append(norm.square())
            sums[name] += gradient.sum(0, dtype=dtype)
    squares = {name: torch.cat(chunks) for name, chunks in norms.items()}
    return squares, {name: total.detach() for name, total in sums.items()}
