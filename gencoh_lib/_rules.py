"""One rule a node kind: the squared gradient norm of every example, from what autograd saved.

For a parameter that a single node of the graph consumes, the gradient of example i is made of two
things that pass by during one backward pass anyway: the gradient that flows into the node, and the
tensors that the node saved. A rule turns them into norms without ever holding m gradients.

For a linear layer this is Goodfellow's (2015) observation that the length of an outer product is
the product of the lengths. Where an example uses a weight at several positions, its gradients are
formed in chunks that fit the cache, and their sum is the gradient of the batch, so that nobody
else has to compute it (the idea of nanoGNS, Gray et al. 2024); or a Gram matrix over positions
replaces them.

A rule is bound to one use of one parameter. ``fits`` says whether it covers the use; ``row`` is the
shape that one application of the operation has in the gradient; ``norms`` gets the rows sorted by
example, [m, T, ...], and returns [m] squares.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from gencoh_lib._vectors import wide

BLOCK = 256
Arrange = Callable[[Tensor], Tensor]  # [R, ...] in the order of the graph to [m, T, ...]


@dataclass(frozen=True, eq=False)
class Use:
    """One place where a node consumes a parameter, perhaps transposed or in another dtype."""

    node: Any
    slot: int
    parameter: Tensor
    transposed: bool

    @property
    def output(self) -> torch.Size:
        """Shape of what the node computed."""
        return torch.Size(self.node._input_metadata[0].shape)


class Flow:
    """What flows into a node, [m, T, ...], and what several rules there want of it."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    @cached_property
    def total(self) -> Tensor:
        """[m, ...]: the sum over the applications of an example."""
        return total(self.rows)

    @cached_property
    def squares(self) -> Tensor:
        """[m] squared lengths of the total."""
        return squares(self.total)


class Rule:
    """A rule bound to a use; ``sum`` holds the summed gradient after ``norms`` if ``fuses``."""

    kinds: ClassVar[tuple[str, ...]]

    def __init__(self, use: Use, byte_budget: int) -> None:
        self.use, self.node, self.byte_budget = use, use.node, byte_budget
        self.sum: Tensor | None = None

    @classmethod
    def fits(cls, use: Use) -> bool:
        """Whether this rule covers the use."""
        raise NotImplementedError

    @property
    def row(self) -> tuple[int, ...]:
        """Shape of what flows into one application."""
        return tuple(self.use.output[1:])

    def rows(self, t: Tensor) -> Tensor:
        r"""[R, \*row] of a tensor that has the shape of the output."""
        return t.reshape(-1, *self.row)

    def fuses(self, applications: int) -> bool:
        """Whether ``norms`` gives the sum too, with so many applications an example."""
        return False

    def norms(self, flow: Flow, arrange: Arrange) -> Tensor:
        """What flows into the node, by example, to [m]."""
        raise NotImplementedError

    def squares_of(self, gradients: Tensor) -> Tensor:
        r"""Squares of gradients [m, \*parameter shape] at hand; keeps their sum."""
        self.sum = gradients.sum(0)
        return squares(gradients)

    def summed_squares(self, examples: int, size: int, form: Callable[[slice], Tensor]) -> Tensor:
        """Squares [m] of gradients [c, ...] formed chunk by chunk; keeps their sum.

        ``size`` is what forming one takes, in bytes.
        """
        step = max(1, self.byte_budget // max(1, size))
        parts, running = [], None
        for start in range(0, examples, step):
            chunk = form(slice(start, min(start + step, examples)))
            parts.append(squares(chunk))
            # half precision would lose what is added one by one
            dtype = torch.promote_types(chunk.dtype, torch.float32)
            added = chunk.sum(0, dtype=dtype) if len(chunk) > 1 else chunk[0].to(dtype)
            running = added if running is None else running.add_(added)
        self.sum = running
        return torch.cat(parts)


def squares(t: Tensor) -> Tensor:
    """[m, ...] to [m] sums of squares, squared and added in float64.

    vector_norm makes no temporary, but adds up naively in float32: hence blocks.
    """
    t = t.reshape(len(t), -1)
    whole = t.shape[1] // BLOCK * BLOCK
    if t.dtype == torch.float64 or whole <= BLOCK:
        return _lengths(t).square()
    squared = _lengths(t[:, :whole].unflatten(1, (-1, BLOCK))).square().sum(1)
    return squared + _lengths(t[:, whole:]).square() if whole < t.shape[1] else squared


def _lengths(t: Tensor) -> Tensor:
    """Lengths along the last dimension, widened; float32 would lose squares below 1e-38."""
    if t.device.type == "cpu" and t.dtype != torch.float64:
        lengths: Tensor = torch.linalg.vector_norm(t, dim=-1, dtype=torch.float32)
        least, most = lengths.aminmax()
        if float(least) > 1e-15 and float(most) < torch.inf:
            return lengths.double()
    # elsewhere a look at the numbers would wait for the device
    exact: Tensor = torch.linalg.vector_norm(t, dim=-1, dtype=wide(t))
    return exact


def widened(t: Tensor) -> Tensor:
    """In float64, where the device has it."""
    return t.to(wide(t))


def squares_by_pairs(
    left: Tensor, right: Tensor, products: Callable[[Tensor], Tensor], byte_budget: int
) -> Tensor:
    r"""Squares of :math:`\sum_t b_t u_t^\top`: sums of :math:`(u_t\cdot u_{t'})(b_t\cdot b_{t'})`.

    ``products`` makes the [c, T, T] inner products of the u from some rows of ``left``;
    ``right`` [m, T, p] holds the b. In float32 the rounding scatters by about its epsilon times
    the squares of the single terms, so an example whose terms cancel is done again in float64.
    """

    def squared(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        u, b = products(left), right @ right.mT
        single = torch.linalg.vecdot(u.diagonal(0, 1, 2), b.diagonal(0, 1, 2))
        return torch.linalg.vecdot(u.flatten(1), b.flatten(1)), single

    dtype = torch.promote_types(left.dtype, torch.float32)
    step = max(1, byte_budget // (left[0].numel() + 2 * right.shape[1] ** 2) // 4)
    parts = []
    for start in range(0, len(left), step):
        few, flowing = left[start : start + step].to(dtype), right[start : start + step].to(dtype)
        found, single = squared(few, flowing)
        found = found.to(wide(found))
        unsure = ~((found >= single / 2) & (single > 1e-30) & found.isfinite())
        if dtype == torch.float32 and bool(unsure.any()):
            found[unsure] = squared(widened(few[unsure]), widened(flowing[unsure]))[0]
        parts.append(found.clamp(min=0))
    return torch.cat(parts)


def total(t: Tensor) -> Tensor:
    """[m, T, ...] to [m, ...]: the sum over the applications of an example."""
    return t[:, 0] if t.shape[1] == 1 else t.sum(1)


class Linear(Rule):
    r"""``x @ W.T`` and ``x @ W``: :math:`g = \sum_t b_t a_t^\top`, a row x, b what flows in.

    One application: :math:`|g|^2 = |b|^2 |a|^2`. Few: :math:`\sum_{t,t'} (a_t\cdot a_{t'})
    (b_t\cdot b_{t'})`. Many: g itself.
    """

    kinds = ("AddmmBackward0", "MmBackward0")

    @classmethod
    def fits(cls, use: Use) -> bool:
        if use.node.name() == "MmBackward0":
            return use.slot == 1 and use.node._saved_self.layout == torch.strided
        return (
            use.slot == 2
            and use.node._saved_alpha == 1
            and use.node._saved_mat1.layout == torch.strided
        )

    def fuses(self, applications: int) -> bool:
        d, p = self.use.parameter.shape
        return applications > 1 and 2 * applications * (d + p) >= d * p

    def norms(self, flow: Flow, arrange: Arrange) -> Tensor:
        saved = self.node._saved_mat1 if self.node.name()[0] == "A" else self.node._saved_self
        a, b = arrange(saved), flow.rows
        m, t = a.shape[:2]
        if t == 1:
            return squares(a) * flow.squares
        if not self.fuses(t):
            return squares_by_pairs(a, b, lambda few: few @ few.mT, self.byte_budget)
        left, right = (b, a) if self.use.transposed else (a, b)
        size = left.shape[-1] * right.shape[-1] * a.element_size()
        return self.summed_squares(m, size, lambda part: left[part].mT @ right[part])


class Elementwise(Rule):
    r"""Shifted or scaled, in any broadcast shape: :math:`g = \sum_t b_t` or :math:`\sum_t a_t b_t`.

    A parameter of shape [channels, 1, 1] is summed over the positions of an application, too.
    """

    kinds = ("AddmmBackward0", "AddBackward0", "MulBackward0")

    @classmethod
    def fits(cls, use: Use) -> bool:
        if use.transposed or len(_core(use.parameter)) >= len(use.output):
            return False
        if use.node.name() == "AddmmBackward0":
            return use.slot == 0 and use.node._saved_beta == 1
        return use.node.name() == "MulBackward0" or use.slot == 0 or use.node._saved_alpha == 1

    @property
    def row(self) -> tuple[int, ...]:
        return tuple(self.use.output[len(self.use.output) - len(_core(self.use.parameter)) :])

    def fuses(self, applications: int) -> bool:
        return applications > 1

    def norms(self, flow: Flow, arrange: Arrange) -> Tensor:
        shape = self.use.parameter.shape
        spread = [
            dim
            for dim, (own, size) in enumerate(zip(_core(self.use.parameter), self.row, strict=True))
            if own != size
        ]
        if self.node.name() == "MulBackward0":
            other = self.node._saved_other if self.use.slot == 0 else self.node._saved_self
            gradients = total(flow.rows * arrange(self.rows(other.expand(self.use.output))))
        elif spread:
            gradients = flow.total
        else:
            self.sum = flow.total.sum(0).reshape(shape)
            return flow.squares
        if spread:
            gradients = gradients.sum([dim + 1 for dim in spread])
        return self.squares_of(gradients.reshape(len(gradients), *shape))


def _core(parameter: Tensor) -> torch.Size:
    """The shape without its leading ones, which broadcasting adds anyway."""
    shape = parameter.shape
    while shape and shape[0] == 1:
        shape = shape[1:]
    return shape


class Copies(Rule):
    """A parameter repeated or expanded along a leading dimension: each copy an application."""

    kinds = ("RepeatBackward0", "ExpandBackward0")

    @classmethod
    def fits(cls, use: Use) -> bool:
        out, shape = use.output, use.parameter.shape
        if use.transposed or not len(shape):
            return False
        if use.node.name() == "RepeatBackward0":
            repeats = tuple(use.node._saved_repeats)
            return len(repeats) == len(shape) and all(r == 1 for r in repeats[1:])
        if len(out) > len(shape):
            return out[len(out) - len(shape) :] == shape
        return shape[0] == 1 and out[1:] == shape[1:]

    @property
    def row(self) -> tuple[int, ...]:
        return tuple(self.use.parameter.shape)

    def norms(self, flow: Flow, arrange: Arrange) -> Tensor:
        return flow.squares


class Embedding(Rule):
    """Rows of a table: what flows in is added up by key, and the padding row gets nothing."""

    kinds = ("EmbeddingBackward0",)

    @classmethod
    def fits(cls, use: Use) -> bool:
        return not use.transposed and not use.node._saved_scale_grad_by_freq

    @property
    def row(self) -> tuple[int, ...]:
        return tuple(self.use.output[-1:])

    def norms(self, flow: Flow, arrange: Arrange) -> Tensor:
        gradient, keys = flow.rows, arrange(self.node._saved_indices.reshape(-1))
        padding = self.node._saved_padding_idx
        if padding >= 0:
            gradient = gradient * (keys != padding)[..., None]
        # sorted by key, the rows of one key are neighbours and get one number
        order = keys.argsort(1)
        keys = keys.gather(1, order)
        group = F.pad(keys[:, 1:] != keys[:, :-1], (1, 0)).cumsum(1)[..., None]
        ordered = gradient.gather(1, order[..., None].expand_as(gradient))
        added = torch.zeros_like(ordered).scatter_add_(1, group.expand_as(ordered), ordered)
        return squares(added)
