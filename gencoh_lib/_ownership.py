"""Which rows of which node belong to which example.

A rule needs the rows of the gradient that flows into its node sorted by example: the first T rows
may be example 0's, or every m-th one, or any order that slicing and stacking have made. It is not
deduced but *probed*: the losses are weighted by random codes, and a row that belongs to example i
alone must scale by the code of i. A row that two examples share scales by neither code, and then
the parameter goes the general way.

Probing takes three backward passes, so its outcome is kept for graphs of the same signature: same
nodes, shapes, wiring and constants, and the same contents of every index that could move rows.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gencoh_lib._convolution import Convolution
from gencoh_lib._graph import nodes
from gencoh_lib._rules import Copies, Elementwise, Embedding, Linear, Norm, Rule, Use, widened

_RULES: tuple[type[Rule], ...] = (Linear, Elementwise, Copies, Embedding, Norm, Convolution)
_KEPT = 64  # signatures
_layouts: OrderedDict[object, list[Layout | None]] = OrderedDict()

# These save whole numbers that pick entries within a row and never move a row.
_WITHIN_ROWS = ("NllLoss", "MaxPool", "Embedding", "MaskedFill", "Dropout", "Ctc")


@dataclass(frozen=True, eq=False)
class Layout:
    """Sorts rows by example: ``first`` [m, T], ``second`` [T, m], or by an index (-1: nobody's)."""

    examples: int
    order: str
    index: Tensor | None = None

    def __call__(self, rows: Tensor) -> Tensor:
        """[R, ...] to [m, T, ...]."""
        if self.order == "first":
            return rows.reshape(self.examples, -1, *rows.shape[1:])
        if self.order == "second":
            return rows.reshape(-1, self.examples, *rows.shape[1:]).transpose(0, 1)
        assert self.index is not None
        owned = (self.index >= 0).view(*self.index.shape, *(1,) * (rows.dim() - 1))
        return rows[self.index.clamp(min=0)] * owned


@dataclass(frozen=True, eq=False)
class Site:
    """A parameter whose norms a rule can give, and how its rows are sorted."""

    name: str
    rule: Rule
    layout: Layout

    @property
    def fused(self) -> bool:
        """Whether the rule gives the summed gradient too."""
        rows = self.rule.rows(torch.empty(self.rule.use.output, device="meta"))
        count = self.layout.index.numel() if self.layout.index is not None else len(rows)
        return self.rule.fuses(count // self.layout.examples)


def sites(losses: Tensor, named_parameters: Mapping[str, Tensor], byte_budget: int) -> list[Site]:
    """Every parameter that the graph uses once, by a rule, with rows that belong to one example."""
    rules = {}
    for name, uses in _uses(losses, named_parameters).items():
        # a hook may change the gradient on its way into the parameter
        if len(uses) == 1 and not uses[0].parameter._backward_hooks:
            rule = _rule(uses[0], byte_budget)
            if rule is not None:
                rules[name] = rule
    if not rules:
        return []
    signature = (tuple(rules), _signature(losses, named_parameters))
    found = _layouts.get(signature)
    if found is None:
        found = _probe(losses, list(rules.values()))
        # an index is that of this batch, and a silent row says nothing about the next
        if all(layout is None or layout.index is None for layout in found):
            _layouts[signature] = found
            while len(_layouts) > _KEPT:
                _layouts.popitem(last=False)
    return [
        Site(name, rule, layout)
        for (name, rule), layout in zip(rules.items(), found, strict=True)
        if layout is not None
    ]


def watched_backward(
    losses: Tensor,
    inputs: Sequence[Any],
    seed: Tensor,
    watch: Mapping[Any, Callable[[Tensor], None]],
) -> tuple[Tensor | None, ...]:
    """Run one backward pass; ``watch[node]`` sees the gradient that flows into the node."""

    def prehook(see: Callable[[Tensor], None]) -> Callable[[Sequence[Tensor | None]], None]:
        def look(gradients: Sequence[Tensor | None]) -> None:
            if gradients[0] is not None:
                see(gradients[0])

        return look

    handles = [node.register_prehook(prehook(see)) for node, see in watch.items()]
    try:
        return torch.autograd.grad(losses, inputs, seed, retain_graph=True, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()


def idle(losses: Tensor, watched: Set[Any], asked: Iterable[Tensor]) -> list[Any]:
    """Those of the watched nodes that a backward pass would leave out, if not asked for themselves.

    A node runs only if a gradient is asked for that lies behind it.
    """
    wanted, runs, left_out = {id(parameter) for parameter in asked}, set(), []
    inner = [node for node in nodes(losses) if not hasattr(node, "variable")]
    for node in sorted(inner, key=lambda node: node._sequence_nr()):  # earlier operations first
        children = [child for child, _ in node.next_functions if child is not None]
        if any(
            child in runs or id(getattr(child, "variable", None)) in wanted for child in children
        ):
            runs.add(node)
        elif node in watched:
            left_out.append(node)
            runs.add(node)
    return left_out


def _uses(losses: Tensor, named_parameters: Mapping[str, Tensor]) -> dict[str, list[Use]]:
    """Every edge of the graph that leads to a parameter, directly or through a transpose."""
    names = {id(parameter): name for name, parameter in named_parameters.items()}
    uses: dict[str, list[Use]] = {}
    for node in nodes(losses):
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
    for rule in _RULES:
        try:
            if use.node.name() in rule.kinds and rule.fits(use):
                return rule(use, byte_budget)
        except AttributeError:
            return None
    return None


def _probe(losses: Tensor, rules: Sequence[Rule]) -> list[Layout | None]:
    """The layout at every rule, or None where rows are shared."""
    m = len(losses)
    generator = torch.Generator().manual_seed(0)
    codes = 1 + torch.stack([torch.randperm(m, generator=generator) for _ in range(2)]) / m
    codes = codes.to(losses.detach())
    seen: dict[Rule, list[Tensor]] = {rule: [] for rule in rules}
    by_node: dict[Any, list[Rule]] = {}
    for rule in rules:
        by_node.setdefault(rule.node, []).append(rule)

    def watcher(group: list[Rule]) -> Callable[[Tensor], None]:
        def see(gradient: Tensor) -> None:
            for rule in group:
                rows = rule.rows(gradient.detach())
                seen[rule].append(rows.reshape(len(rows), -1).clone())

        return see

    watch = {node: watcher(group) for node, group in by_node.items()}
    parameters = [rule.use.parameter for rule in rules]
    for seed in (torch.ones_like(codes[0]), *codes):
        watched_backward(losses, parameters, seed, watch)
    return [_layout(rows, codes) for rows in seen.values()]


def _layout(rows: list[Tensor], codes: Tensor) -> Layout | None:
    """From the rows [R, d] under equal weights and under two codes [2, m]."""
    if len(rows) < 3:
        return None
    m, device = codes.shape[1], codes.device
    accurate = torch.finfo(rows[0].dtype).bits >= 32
    wide = [widened(r) for r in rows]
    sizes = wide[0].norm(dim=1)
    rounding = max(2e-4, 8 * torch.finfo(rows[0].dtype).eps)
    slack = rounding * (sizes + 1e-3 * sizes.mean())

    def scales(owner: Tensor) -> Tensor:
        """[R] whether each row scales by its owner's code, both times."""
        fits = torch.ones(len(owner), dtype=torch.bool, device=device)
        for seen, code in zip(wide[1:], codes.to(wide[0]), strict=True):
            fits &= (seen - code[owner][:, None] * wide[0]).norm(dim=1) <= slack
        return fits

    count = len(sizes)
    if count % m == 0:
        each = torch.arange(m, device=device)
        if bool(scales(each.repeat_interleave(count // m)).all()):
            return Layout(m, "first")
        if bool(scales(each.repeat(count // m)).all()):
            return Layout(m, "second")
    if not accurate:
        return None
    ratio = (wide[1] * wide[0]).sum(1) / sizes.square().clamp(min=torch.finfo(sizes.dtype).tiny)
    owner = _nearest(ratio, codes[0].to(ratio))
    alive = sizes > 0
    if not bool((scales(owner) | ~alive).all()):
        return None
    return Layout(m, "index", _index(owner, alive, m))


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


def _signature(losses: Tensor, named_parameters: Mapping[str, Tensor]) -> object:
    """What decides where rows go: nodes, shapes, wiring, constants, and contents of indices."""
    names = {id(parameter): name for name, parameter in named_parameters.items()}
    order = list(nodes(losses))
    number = {node: i for i, node in enumerate(order)}
    described = []
    for node in order:
        shapes = tuple(tuple(meta.shape) for meta in node._input_metadata)
        edges = tuple((number.get(child), slot) for child, slot in node.next_functions)
        parameter = names.get(id(getattr(node, "variable", None)))
        described.append((node.name(), shapes, edges, parameter, _constants(node)))
    return (losses.dtype, losses.device, tuple(described))


_attributes: dict[str, tuple[str, ...]] = {}


def _constants(node: Any) -> tuple[object, ...]:
    """Saved numbers of a node, and a digest of every saved index that may move rows."""
    kind = node.name()
    if kind not in _attributes:
        saved = [name for name in dir(node) if name.startswith("_saved_")]
        _attributes[kind] = tuple(name for name in saved if not _is_data(node, name, kind))
    values = []
    for name in _attributes[kind]:
        value = getattr(node, name)
        if isinstance(value, Tensor):
            value = hashlib.sha1(value.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
        elif isinstance(value, list | tuple):
            value = tuple(_plain(item) for item in value)
        values.append(_plain(value))
    return tuple(values)


def _plain(value: object) -> object:
    if isinstance(value, Tensor):
        return hashlib.sha1(value.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
    return value if isinstance(value, str | int | float | bool | tuple | None) else repr(value)


def _is_data(node: Any, name: str, kind: str) -> bool:
    """Whether an attribute holds activations, or whole numbers that stay within a row."""
    value = getattr(node, name)
    if isinstance(value, list | tuple) and any(isinstance(item, Tensor) for item in value):
        return all(not isinstance(i, Tensor) or i.is_floating_point() for i in value)
    if not isinstance(value, Tensor):
        return False
    return value.is_floating_point() or value.is_complex() or kind.startswith(_WITHIN_ROWS)
