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
from gencoh_lib._rules import (
    ChannelNorm,
    Copies,
    Elementwise,
    Embedding,
    LayerNorm,
    Linear,
    Rule,
    Use,
    widened,
)

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
    for rule in _RULES:
        try:
            if use.node.name() in rule.kinds and rule.fits(use):
                return rule(use, byte_budget)
        except AttributeError:
            return None
    return None


def _probe(graph: Sequence[Any], losses: Tensor, rules: Sequence[Rule]) -> list[Layout | None]:
    """The layout at every rule, or None where rows are shared."""
    m = len(losses)
    generator = torch.Generator().manual_seed(0)
    # two codes, of both signs and far apart, so that no mixture of some looks like another
    codes = torch.rand(2, m, generator=generator, dtype=torch.float64).mul_(1.5).add_(0.5)
    codes *= torch.randint(0, 2, (2, m), generator=generator) * 2 - 1
    codes = codes.to(losses.detach())
    plain, first = (
        _rows(graph, losses, rules, seed) for seed in (torch.ones_like(codes[0]), codes[0])
    )
    layouts = {rule: _ordered(plain[rule], first[rule], codes[0]) for rule in plain}
    odd = [rule for rule, layout in layouts.items() if layout is None]
    if odd and torch.finfo(losses.dtype).bits >= 32:
        second = _rows(graph, losses, odd, codes[1])
        for rule in odd:
            layouts[rule] = _indexed([plain[rule], first[rule], second[rule]], codes)
    return [layouts.get(rule) for rule in rules]


def _rows(
    graph: Sequence[Any], losses: Tensor, rules: Sequence[Rule], seed: Tensor
) -> dict[Rule, Tensor]:
    """[R, d] rows that flow into every rule's node, for losses weighted by ``seed``."""
    seen: dict[Rule, Tensor] = {}
    by_node: dict[Any, list[Rule]] = {}
    for rule in rules:
        by_node.setdefault(rule.node, []).append(rule)

    def watcher(group: list[Rule]) -> Callable[[Tensor], None]:
        def see(gradient: Tensor) -> None:
            for rule in group:
                rows = rule.rows(gradient.detach())
                seen[rule] = rows.reshape(len(rows), -1).clone()

        return see

    watch = {node: watcher(group) for node, group in by_node.items()}
    watched_backward(graph, losses, (), seed, watch)
    return seen


def _scales(plain: Tensor, coded: Tensor, factors: Tensor) -> Tensor:
    """[R] whether every row of [R, d] has scaled by its factor, to rounding."""
    accurate = torch.finfo(plain.dtype).bits >= 32
    eps = torch.finfo(plain.dtype).eps
    plain, coded = widened(plain), widened(coded)
    sizes = plain.norm(dim=1)
    slack = (256 if accurate else 8) * eps * (sizes + 0.1 * sizes.mean())
    fits: Tensor = (coded - factors.to(plain)[:, None] * plain).norm(dim=1) <= slack
    return fits


def _ordered(plain: Tensor, coded: Tensor, code: Tensor) -> Layout | None:
    """Rows in the order of the examples, or of their applications."""
    m, count = len(code), len(plain)
    if count % m:
        return None
    if bool(_scales(plain, coded, code.repeat_interleave(count // m)).all()):
        return Layout(m, count // m)
    if bool(_scales(plain, coded, code.repeat(count // m)).all()):
        return Layout(m)
    return None


def _indexed(rows: list[Tensor], codes: Tensor) -> Layout | None:
    """Rows in any order, from [R, d] under equal weights and under two codes [2, m]."""
    wide = [widened(r) for r in rows]
    alive = torch.stack([seen.norm(dim=1) for seen in wide]).amax(0) > 0
    squared = wide[0].square().sum(1).clamp(min=torch.finfo(wide[0].dtype).tiny)
    owner = _nearest((wide[1] * wide[0]).sum(1) / squared, codes[0].to(squared))
    owned = _scales(rows[0], rows[1], codes[0][owner]) & _scales(rows[0], rows[2], codes[1][owner])
    if not bool((owned | ~alive).all()):
        return None
    return Layout(codes.shape[1], index=_index(owner, alive, codes.shape[1]))


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
