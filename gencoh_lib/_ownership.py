"""Which rows of which node belong to which example.

A rule needs the rows of the gradient that flows into its node sorted by example. Two ways to know.

* It is *proved* from the graph, whatever the data (:mod:`gencoh_lib._axes`): so for ordinary MLPs,
  convolutional networks and transformers.
* Otherwise it is *probed*, for every graph anew, since wiring may depend on the data: the losses
  are weighted by random codes, and a row that belongs to example i alone scales by the code of i.
  A row that two examples share scales by neither; then the parameter goes the general way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from gencoh_lib._axes import example_strides
from gencoh_lib._convolution import Convolution
from gencoh_lib._norm_rules import ChannelNorm, LayerNorm
from gencoh_lib._rules import Copies, Elementwise, Embedding, Linear, Rule, Use, widened

_RULES: tuple[type[Rule], ...] = (
    Linear, Elementwise, Copies, Embedding, LayerNorm, ChannelNorm, Convolution,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Layout:
    """Sorts rows by example: row r belongs to ``(r // inside) % examples``, or by an index.

    The index is [m, T], -1 where an example has fewer than T rows.
    """

    examples: int
    inside: int = 1
    index: Tensor | None = None

    def __call__(self, rows: Tensor) -> Tensor:
        """[R, ...] to [m, T, ...]."""
        if self.index is None:
            split = rows.reshape(-1, self.examples, self.inside, *rows.shape[1:])
            return split[0] if len(split) == 1 else split.transpose(0, 1).flatten(1, 2)
        owned = (self.index >= 0).view(*self.index.shape, *(1,) * (rows.dim() - 1))
        return rows[self.index.clamp(min=0)] * owned


@dataclass(frozen=True, eq=False)
class Site:
    """A parameter whose norms a rule can give, and how its rows are sorted.

    ``fused``: whether the rule gives the summed gradient too.
    """

    name: str
    rule: Rule
    layout: Layout
    fused: bool


def sites(
    graph: Sequence[Any],
    losses: Tensor,
    named_parameters: Mapping[str, Tensor],
    byte_budget: int,
) -> list[Site]:
    """Every parameter that the graph uses once, by a rule, with rows that belong to one example."""
    if any(meta.is_nested_tensor for node in graph for meta in node._input_metadata):
        return []  # no shapes to reason with
    rules = {}
    for name, uses in _uses(graph, named_parameters).items():
        # a hook may change the gradient on its way into the parameter
        if len(uses) == 1 and not uses[0].parameter._backward_hooks:
            rule = _rule(uses[0], byte_budget)
            if rule is not None:
                rules[name] = rule
    if not rules:
        return []
    strides = example_strides(graph, losses)
    layouts = {rule: _proved(rule, strides, len(losses)) for rule in rules.values()}
    unproved = [rule for rule, layout in layouts.items() if layout is None]
    layouts |= zip(unproved, _probe(graph, losses, unproved), strict=True) if unproved else ()
    return [
        Site(name, rule, layout, rule.fuses(_applications(rule, layout)))
        for name, rule in rules.items()
        if (layout := layouts[rule]) is not None
    ]


def _proved(rule: Rule, strides: Mapping[Any, int], examples: int) -> Layout | None:
    """The layout of the rows, if each lies within one step of the examples."""
    stride, row = strides.get(rule.node), prod(rule.row)
    return None if stride is None or stride % row else Layout(examples, stride // row)


def _applications(rule: Rule, layout: Layout) -> int:
    """How many rows an example has, at most."""
    if layout.index is not None:
        return layout.index.shape[1]
    return rule.use.output.numel() // prod(rule.row) // layout.examples


def watched_backward(
    graph: Sequence[Any],
    losses: Tensor,
    asked: Sequence[Tensor],
    seed: Tensor,
    watch: Mapping[Any, Callable[[Tensor], None]],
    retain_graph: bool = True,
) -> tuple[Tensor | None, ...]:
    """Run one backward pass; ``watch[node]`` sees the gradient that flows into the node.

    Returns the gradients of the tensors asked for, and computes no others.
    """
    seen: set[Any] = set()

    def prehook(node: Any) -> Callable[[Sequence[Tensor | None]], None]:
        def look(gradients: Sequence[Tensor | None]) -> None:
            if gradients[0] is not None:
                seen.add(node)
                watch[node](gradients[0])

        return look

    edges = [GradientEdge(node, 0) for node in _idle(graph, watch.keys(), asked)]
    handles = [node.register_prehook(prehook(node)) for node in watch]
    with torch.autocast(losses.device.type, enabled=False):  # it would round the products
        try:
            inputs: list[Any] = [*asked, *edges]
            found = torch.autograd.grad(
                losses, inputs, seed, retain_graph=retain_graph, allow_unused=True
            )
        finally:
            for handle in handles:
                handle.remove()
        for edge, gradient in zip(edges, found[len(asked) :], strict=True):
            if gradient is not None and edge.node not in seen:
                watch[edge.node](gradient)
    return tuple(found[: len(asked)])


def _idle(graph: Sequence[Any], watched: Set[Any], asked: Iterable[Tensor]) -> list[Any]:
    """Those of the watched nodes that a backward pass would leave out, if not asked for themselves.

    A node runs only if a gradient is asked for that lies behind it.
    """
    wanted, runs, left_out = {id(parameter) for parameter in asked}, set(), []
    for node in reversed(graph):
        if hasattr(node, "variable"):
            continue
        children = [child for child, _ in node.next_functions if child is not None]
        if any(
            child in runs or id(getattr(child, "variable", None)) in wanted for child in children
        ):
            runs.add(node)
        elif node in watched:
            left_out.append(node)
            runs.add(node)
    return left_out


def _uses(graph: Iterable[Any], named_parameters: Mapping[str, Tensor]) -> dict[str, list[Use]]:
    """Every edge of the graph that leads to a parameter, directly or through a transpose."""
    names = {id(parameter): name for name, parameter in named_parameters.items()}
    uses: dict[str, list[Use]] = {}
    for node in graph:
        for slot, (child, _) in enumerate(node.next_functions):
            leaf, transposed = child, False
            if child is not None and child.name() == "TBackward0":
                leaf, transposed = child.next_functions[0][0], True
            parameter = getattr(leaf, "variable", None)
            name = names.get(id(parameter))
            # the transpose itself is no use; whoever consumes it is
            if name is not None and (transposed or node.name() != "TBackward0"):
                parameter = named_parameters[name]
                uses.setdefault(name, []).append(Use(node, slot, parameter, transposed))
    return uses


def _rule(use: Use, byte_budget: int) -> Rule | None:
    """The rule that covers a use; a private attribute that torch has dropped means none."""
    if use.node._input_metadata[0].dtype.is_complex:
        return None
    if 0 in use.output or not use.parameter.numel():  # no rows, or rows of nothing
        return None
    for rule in _RULES:
        try:
            if use.node.name() in rule.kinds and rule.fits(use):
                return rule(use, byte_budget)
        except AttributeError:
            return None
    return None


def _probe(graph: Sequence[Any], losses: Tensor, rules: Sequence[Rule]) -> list[Layout | None]:
    """The layout at every rule, or None where rows are shared.

    Three passes: with equal weights, and with each of two codes.
    """
    codes = _codes(len(losses))
    plain: dict[Rule, Tensor] = {}
    marks: dict[Rule, list[tuple[Tensor, Tensor]]] = {rule: [] for rule in rules}

    def keep(rule: Rule, rows: Tensor) -> None:
        plain[rule] = rows.clone()

    def compare(rule: Rule, rows: Tensor) -> None:
        if rule in plain:
            marks[rule].append(_ratios(plain[rule], rows))

    for weights, look in ((torch.ones(len(losses)), keep), *((code, compare) for code in codes)):
        by_node: dict[Any, list[Rule]] = {}
        for rule in rules:
            by_node.setdefault(rule.node, []).append(rule)
        watch = {node: _each(group, look) for node, group in by_node.items()}
        watched_backward(graph, losses, (), weights.to(losses.detach()), watch)
    return [
        _layout(plain[rule], marks[rule], codes) if len(marks[rule]) == len(codes) else None
        for rule in rules
    ]


def _each(group: Sequence[Rule], look: Callable[[Rule, Tensor], None]) -> Callable[[Tensor], None]:
    """Show every rule of a node its rows, [R, d]."""

    def see(gradient: Tensor) -> None:
        for rule in group:
            rows = rule.rows(gradient.detach())
            look(rule, rows.reshape(len(rows), -1))

    return see


def _codes(m: int) -> Tensor:
    """[2, m] weights of both signs: no two alike, and no mixture of some like another.

    Each code has a cell of its own, so that two are never close, and a random place in it, since
    on a lattice the mean of two codes is a third.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(n: int) -> Tensor:
        return torch.rand(n, generator=generator, dtype=torch.float64, device="cpu")

    cells = torch.stack([draw(m).argsort() for _ in range(2)])
    place = (cells + 0.25 + 0.5 * draw(2 * m).view(2, m)) / m
    return (0.5 + 1.5 * place) * (1 - 2 * (draw(2 * m).view(2, m) < 0.5).double())


def _ratios(plain: Tensor, coded: Tensor) -> tuple[Tensor, Tensor]:
    """How every row of [R, d] has scaled, and how far it is from having only scaled."""
    plain, coded = widened(plain), widened(coded)
    squared = plain.square().sum(1)
    ratio = (plain * coded).sum(1) / squared.clamp(min=torch.finfo(squared.dtype).tiny)
    return ratio, (coded - ratio[:, None] * plain).norm(dim=1)


def _layout(plain: Tensor, marks: Sequence[tuple[Tensor, Tensor]], codes: Tensor) -> Layout | None:
    """Whose the rows are, if each has scaled by the two codes of one example, to rounding."""
    if torch.finfo(plain.dtype).bits < 32:  # too coarse to tell
        return None
    m, count = codes.shape[1], len(plain)
    sizes = widened(plain).norm(dim=1)
    codes = codes.to(sizes)
    owner = _nearest(marks[0][0], codes[0])
    # rounding is relative to the row, or, where it nearly cancels, to the rows of its example
    rows = torch.zeros_like(codes[0]).index_add(0, owner, torch.ones_like(sizes))
    typical = torch.zeros_like(codes[0]).index_add(0, owner, sizes) / rows.clamp(min=1)
    slack = 256 * torch.finfo(plain.dtype).eps * (sizes + 0.1 * typical[owner])
    off = [
        (ratio - code[owner]).abs() * sizes + rest
        for (ratio, rest), code in zip(marks, codes, strict=True)
    ]
    if not bool(torch.stack([amount <= slack for amount in off]).all()):
        return None
    dead = sizes == 0
    if count % m == 0:
        position = torch.arange(count, device=owner.device)
        for inside in (count // m, 1):
            if bool(((owner == position // inside % m) | dead).all()):
                return Layout(m, inside)
    index = _index(owner, ~dead, m)
    # most of a very uneven index would be padding
    return Layout(m, index=index) if index.numel() <= 8 * count else None


def _nearest(values: Tensor, codes: Tensor) -> Tensor:
    """Position of the nearest code, for every value."""
    ordered, order = codes.sort()
    right = torch.searchsorted(ordered, values).clamp(max=len(codes) - 1)
    left = (right - 1).clamp(min=0)
    closer = (values - ordered[left]).abs() < (ordered[right] - values).abs()
    return order[torch.where(closer, left, right)]


def _index(owner: Tensor, alive: Tensor, m: int) -> Tensor:
    """[m, T] positions of the rows of each example, -1 where it has fewer than T."""
    rows = alive.nonzero().flatten()
    rows = rows[owner[rows].argsort(stable=True)]
    counts = torch.bincount(owner[rows], minlength=m)
    index = owner.new_full((m, max(1, int(counts.max()))), -1)
    place = torch.arange(len(rows), device=owner.device) - (counts.cumsum(0) - counts)[owner[rows]]
    index[owner[rows], place] = rows
    return index
