"""Which rows of which node belong to which example.

A rule needs the rows of the gradient that flows into its node sorted by example. Two ways to know.

* *Straight* graphs: every operation, from the parameters to the losses, keeps the first dimension
  apart. Then the rows are in the order of the losses, whatever the data. Ordinary MLPs and CNNs
  are straight, and the graph proves it.
* Otherwise it is *probed*, for every graph anew, since wiring may depend on the data: the losses
  are weighted by random codes, and a row that belongs to example i alone scales by the code of i.
  A row that two examples share scales by neither; then the parameter goes the general way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from gencoh_lib._convolution import Convolution
from gencoh_lib._graph import nodes
from gencoh_lib._rules import Copies, Elementwise, Embedding, Linear, Norm, Rule, Use, widened

_RULES: tuple[type[Rule], ...] = (Linear, Elementwise, Copies, Embedding, Norm, Convolution)

_POINTWISE = frozenset(
    f"{name}Backward0"
    for name in (
        "Relu", "Tanh", "Sigmoid", "Gelu", "Elu", "LeakyRelu", "Silu", "Softplus", "Hardtanh",
        "Clone", "NativeDropout", "Exp", "Log", "Neg", "Abs", "Pow", "Sqrt", "Cos", "Sin",
    )
)  # fmt: skip
_PAIRWISE = frozenset(f"{name}Backward0" for name in ("Add", "Sub", "Mul", "Div"))
_POOLING = ("MaxPool2DWithIndices", "AvgPool2D", "AdaptiveAvgPool2D", "MkldnnAdaptiveAvgPool2D")


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
    m = len(losses)
    if straight(losses):
        found: list[Layout | None] = [Layout(m, "first")] * len(rules)
    else:
        found = _probe(losses, list(rules.values()))
    return [
        Site(name, rule, layout)
        for (name, rule), layout in zip(rules.items(), found, strict=True)
        if layout is not None
    ]


def straight(losses: Tensor) -> bool:
    """Whether the graph alone proves that row i of everything belongs to loss i.

    Every node must map blocks of rows to the same blocks, whatever the numbers in it are.
    """
    m = len(losses)
    return all(
        hasattr(node, "variable") or node.name() == "TBackward0" or _keeps_rows(node, m)
        for node in nodes(losses)
    )


def _keeps_rows(node: Any, m: int) -> bool:
    kind, shape = node.name(), node._input_metadata[0].shape
    if not len(shape) or shape[0] % m:
        return False
    children = [child for child, _ in node.next_functions]
    weights = {slot for slot, c in enumerate(children) if c is not None and _is_weight(c)}
    try:
        if kind in ("AddmmBackward0", "MmBackward0"):
            last = len(children) - 1  # the matrix on the right; on the left go the rows
            bias = {0} if last == 2 else set()
            return weights <= {last} | bias and (children[last] is None or last in weights)
        if kind == "ConvolutionBackward0":
            return weights <= {1, 2} and (children[1] is None or 1 in weights)
        if kind == "EmbeddingBackward0":
            return weights == {0}
        if kind in ("NativeGroupNormBackward0", "NativeBatchNormBackward0"):
            return weights <= {1, 2} and not getattr(node, "_saved_training", False)
        if kind == "NativeLayerNormBackward0":
            return weights <= {1, 2} and len(node._saved_normalized_shape) < len(shape)
        if kind in _PAIRWISE:
            return all(
                child is None
                or (slot in weights and _spreads(child, shape))
                or (slot not in weights and _shape_of(node, slot) == tuple(shape))
                for slot, child in enumerate(children)
            )
        if weights:
            return False
        if kind in _POINTWISE:
            return True
        if kind in ("ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0"):
            return bool(node._saved_self_sym_sizes[0] % m == 0)
        if kind in ("LogSoftmaxBackward0", "SoftmaxBackward0", "SelectBackward0", "SliceBackward0"):
            return _axis(node._saved_dim, len(shape) + (kind[:6] == "Select")) != 0
        if kind in ("MeanBackward1", "SumBackward1"):
            rank = len(node._saved_self_sym_sizes)
            axes = [_axis(axis, rank) for axis in node._saved_dim]
            return bool(axes) and 0 not in axes
        if kind == "NllLossBackward0":
            return int(node._saved_reduction) == 0
        return kind.startswith(_POOLING) and len(shape) == 4
    except AttributeError:
        return False


def _is_weight(node: Any) -> bool:
    """Whether a node is a leaf, or the transpose of one."""
    if node.name() == "TBackward0":
        node = node.next_functions[0][0]
    return hasattr(node, "variable")


def _spreads(node: Any, shape: Sequence[int]) -> bool:
    """Whether a parameter is spread over the first dimension by an elementwise operation."""
    own = getattr(getattr(node, "variable", None), "shape", shape)
    return len(own) < len(shape)


def _shape_of(node: Any, slot: int) -> tuple[int, ...]:
    child, output = node.next_functions[slot]
    return tuple(child._input_metadata[output].shape)


def _axis(axis: int, rank: int) -> int:
    """Normalise a dimension, which autograd keeps without its sign."""
    return (axis - 2**64 if axis >= 2**63 else axis) % rank


def watched_backward(
    losses: Tensor,
    asked: Sequence[Tensor],
    seed: Tensor,
    watch: Mapping[Any, Callable[[Tensor], None]],
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

    edges = [GradientEdge(node, 0) for node in _idle(losses, watch.keys(), asked)]
    handles = [node.register_prehook(prehook(node)) for node in watch]
    try:
        inputs: list[Any] = [*asked, *edges]
        found = torch.autograd.grad(losses, inputs, seed, retain_graph=True, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    for edge, gradient in zip(edges, found[len(asked) :], strict=True):
        if gradient is not None and edge.node not in seen:
            watch[edge.node](gradient)
    return tuple(found[: len(asked)])


def _idle(losses: Tensor, watched: Set[Any], asked: Iterable[Tensor]) -> list[Any]:
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
    if use.node._input_metadata[0].dtype.is_complex:
        return None
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
    # two codes, of both signs and far apart, so that no mixture of some looks like another
    codes = torch.rand(2, m, generator=generator, dtype=torch.float64).mul_(1.5).add_(0.5)
    codes *= torch.randint(0, 2, (2, m), generator=generator) * 2 - 1
    codes = codes.to(losses.detach())
    plain, first = _rows(losses, rules, torch.ones_like(codes[0])), _rows(losses, rules, codes[0])
    layouts = {rule: _ordered(plain[rule], first[rule], codes[0]) for rule in plain}
    odd = [rule for rule, layout in layouts.items() if layout is None]
    if odd and torch.finfo(losses.dtype).bits >= 32:
        second = _rows(losses, odd, codes[1])
        for rule in odd:
            layouts[rule] = _indexed([plain[rule], first[rule], second[rule]], codes)
    return [layouts.get(rule) for rule in rules]


def _rows(losses: Tensor, rules: Sequence[Rule], seed: Tensor) -> dict[Rule, Tensor]:
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

    watched_backward(losses, (), seed, {node: watcher(group) for node, group in by_node.items()})
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
        return Layout(m, "first")
    if bool(_scales(plain, coded, code.repeat(count // m)).all()):
        return Layout(m, "second")
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
    return Layout(codes.shape[1], "index", _index(owner, alive, codes.shape[1]))


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
