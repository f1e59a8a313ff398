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
from gencoh_lib._graph import leaf_of
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
        if leaf_of(node) is not None:
            continue
        children = [child for child, _ in node.next_functions if child is not None]
        if any(child in runs or id(leaf_of(child)) in wanted for child in children):
            runs.add(node)
        elif node in watched:
            left_out.append(node)
            runs.add(node)
    return left_out


def _uses(graph: Iterable[Any], named_parameters: Mapping[str, Tensor]) -> dict[str, list[Use]]:
    """Every edge of the graph that leads to a parameter, directly, transposed or in another dtype.

    A transpose or a copy, as autocast makes, is no use itself; whoever consumes it is.
    """
    names = {id(parameter): name for name, parameter in named_parameters.items()}
    uses: dict[str, list[Use]] = {}
    for node in graph:
        if node.name() in _PASSED_ON and id(leaf_of(_behind(node)[0])) in names:
            continue
        for slot, (child, _) in enumerate(node.next_functions):
            leaf, transposed = _behind(child)
            name = names.get(id(leaf_of(leaf)))
            if name is not None:
                uses.setdefault(name, []).append(
                    Use(node, slot, named_parameters[name], transposed)
                )
    return uses


_PASSED_ON = {"TBackward0", "ToCopyBackward0"}


def _behind(node: Any) -> tuple[Any, bool]:
    """What a chain of transposes and copies starts from, and whether it is transposed."""
    transposed = False
    while node is not None and (kind := node.name()) in _PASSED_ON:
        transposed ^= kind == "TBackward0"
        node = node.next_functions[0][0]
    return node, transposed


def _rule(use: Use, byte_budget: int) -> Rule | None:
    """The rule that covers a use; a private attribute that torch has dropped means none."""
    output = use.node._input_metadata[0]
    if output.dtype.is_complex or output.device != use.parameter.device:
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

    Three passes: with equal weights, and with each of the two codes.
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
    """[2, m] weights of both signs, one code to tell whose a row is and one to be sure of it.

    * No two of the first are alike, and no mixture of some is like another. Each has a cell of its
      own, so that two are never close, and a random place in it, since on a lattice the mean of two
      is a third. Rows scale by it to rounding, which hides a little of another example.
    * The second are powers of two. They scale a row to the last digit, so that nothing hides.
    """
    generator = torch.Generator().manual_seed(0)

    def draw() -> Tensor:
        return torch.rand(m, generator=generator, dtype=torch.float64, device="cpu")

    telling = 0.5 + 1.5 * (draw().argsort() + 0.25 + 0.5 * draw()) / m
    exact = (16 * draw()).floor().exp2()
    return torch.stack([telling, exact]) * torch.stack([draw() - 0.5, draw() - 0.5]).sign()


def _ratios(plain: Tensor, coded: Tensor) -> tuple[Tensor, Tensor]:
    """How the largest entry of every row of [R, d] has scaled, and how far off the others are."""
    at = plain.abs().argmax(1, keepdim=True)
    largest, scaled = (widened(rows.gather(1, at)) for rows in (plain, coded))
    ratio = torch.where(largest == 0, largest, scaled / largest)
    return ratio[:, 0], widened((coded - ratio.to(coded) * plain).abs().amax(1))


def _layout(plain: Tensor, marks: Sequence[tuple[Tensor, Tensor]], codes: Tensor) -> Layout | None:
    """Whose the rows are, if each has scaled by the two codes of one example."""
    if torch.finfo(plain.dtype).bits < 32:  # too coarse to tell
        return None
    m, count = codes.shape[1], len(plain)
    sizes = widened(plain.abs().amax(1))
    codes = codes.to(sizes)
    owner = _nearest(marks[0][0], codes[0])
    # rounding is relative to the row, or, where it nearly cancels, to the rows of its example;
    # there is none by powers of two, up to what differs from one backward pass to the next
    rows = torch.zeros_like(codes[0]).index_add(0, owner, torch.ones_like(sizes))
    typical = torch.zeros_like(codes[0]).index_add(0, owner, sizes) / rows.clamp(min=1)
    eps = torch.finfo(plain.dtype).eps
    slacks = 256 * eps * (sizes + 0.1 * typical[owner]), 2 * eps * sizes * codes[1, owner].abs()
    for (ratio, rest), code, slack in zip(marks, codes, slacks, strict=True):
        if not bool(((ratio - code[owner]).abs() * sizes + rest <= slack).all()):
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
