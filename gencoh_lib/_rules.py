"""One rule a node kind: the squared gradient norm of every example, from what autograd saved.

For a parameter that a single node of the graph consumes, the gradient of example i is made of two
things that pass by during one backward pass anyway: the gradient that flows into the node, and the
tensors that the node saved. A rule turns them into norms without ever holding m gradients.

For a linear layer this is Goodfellow's (2015) observation that the length of an outer product is
the product of the lengths. Where an example uses a weight at several positions, its gradients are
formed in chunks that fit the cache, and their sum is the gradient of the batch, so that nobody
else has to compute it (the idea of nanoGNS); or a Gram matrix over positions replaces them.

A rule is bound to one use of one parameter. ``fits`` says whether it covers the use; ``rows``
reshapes the incoming gradient to [R, ...], one row an independent application of the operation;
``norms`` gets those rows sorted by example, [m, T, ...], and returns [m] squares.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

Arrange = Callable[[Tensor], Tensor]  # [R, ...] in the order of the graph to [m, T, ...]


@dataclass(frozen=True, eq=False)
class Use:
    """One place where a node consumes a parameter, perhaps transposed."""

    node: Any
    slot: int
    parameter: Tensor
    transposed: bool

    @property
    def output(self) -> torch.Size:
        """Shape of what the node computed."""
        return torch.Size(self.node._input_metadata[0].shape)


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

    def rows(self, gradient: Tensor) -> Tensor:
        """[R, ...]: one row an application."""
        return gradient

    def fuses(self, applications: int) -> bool:
        """Whether ``norms`` forms the gradients anyway, with so many applications an example."""
        return False

    def norms(self, gradient: Tensor, arrange: Arrange) -> Tensor:
        """[m, T, ...] to [m]."""
        raise NotImplementedError

    def summed_squares(
        self, examples: int, entries: int, form: Callable[[slice], Tensor], size: int
    ) -> Tensor:
        """Squares [m] of gradients [c, ...] formed chunk by chunk; keeps their sum."""
        step = max(1, self.byte_budget // max(1, entries * size))
        parts, running = [], None
        for start in range(0, examples, step):
            chunk = form(slice(start, min(start + step, examples)))
            parts.append(squares(chunk))
            added = chunk.sum(0)
            running = added if running is None else running.add_(added)
        self.sum = running
        return torch.cat(parts)


def squares(t: Tensor) -> Tensor:
    """[m, ...] to [m] sums of squares, squared and added in float64.

    vector_norm makes no temporary, but adds up naively in float32: hence blocks of 1024.
    """
    t = t.reshape(len(t), -1)
    whole = t.shape[1] // 1024 * 1024
    if t.dtype == torch.float64 or whole <= 1024:
        lengths = _lengths(t)[:, None]
    else:
        lengths = _lengths(t[:, :whole].unflatten(1, (-1, 1024)))
        if whole < t.shape[1]:
            lengths = torch.cat([lengths, _lengths(t[:, whole:])[:, None]], 1)
    return lengths.square().sum(1)


def _lengths(t: Tensor) -> Tensor:
    """Lengths along the last dimension, widened; float32 would lose squares below 1e-38."""
    narrow = torch.promote_types(t.dtype, torch.float32)
    lengths: Tensor = torch.linalg.vector_norm(t, dim=-1, dtype=narrow)
    if bool((lengths.isfinite() & (lengths > 1e-15)).all()):
        return widened(lengths)
    exact: Tensor = torch.linalg.vector_norm(t, dim=-1, dtype=widened(lengths).dtype)
    return exact


def widened(t: Tensor) -> Tensor:
    """In float64, where the device has it."""
    return t.to(torch.float32 if t.device.type == "mps" else torch.float64)


def gram_norms(inputs: Tensor, flowing: Tensor) -> Tensor:
    """[m] inner products of two stacks of Gram matrices."""
    products: Tensor = torch.linalg.vecdot(inputs.flatten(1), flowing.flatten(1))
    return products.clamp_(min=0)


def gram(t: Tensor) -> Tensor:
    """[m, T, d] to [m, T, T] inner products, widened, since what is made of them may cancel."""
    wide = widened(t)
    return wide @ wide.mT


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
        d, p = self._shape
        return applications > 1 and 4 * applications * (d + p) >= d * p

    @property
    def _shape(self) -> tuple[int, int]:
        shape = self.use.parameter.shape
        return (shape[1], shape[0]) if self.use.transposed else (shape[0], shape[1])

    def norms(self, gradient: Tensor, arrange: Arrange) -> Tensor:
        saved = self.node._saved_mat1 if self.node.name()[0] == "A" else self.node._saved_self
        a, b = arrange(saved), gradient
        m, t = a.shape[:2]
        if t == 1:
            return squares(a) * squares(b)
        if not self.fuses(t):
            return gram_norms(gram(a), gram(b))
        left, right = (b, a) if self.use.transposed else (a, b)
        entries = left.shape[-1] * right.shape[-1]
        return self.summed_squares(
            m, entries, lambda part: left[part].mT @ right[part], a.element_size()
        )


class Elementwise(Rule):
    r"""Trailing dimensions, shifted or scaled: :math:`g = \sum_t b_t` or :math:`\sum_t a_t b_t`."""

    kinds = ("AddmmBackward0", "AddBackward0", "MulBackward0")

    @classmethod
    def fits(cls, use: Use) -> bool:
        out, shape = use.output, use.parameter.shape
        if use.transposed or not len(shape) < len(out) or out[len(out) - len(shape) :] != shape:
            return False
        if use.node.name() == "AddmmBackward0":
            return use.slot == 0 and use.node._saved_beta == 1
        return use.node.name() == "MulBackward0" or use.slot == 0 or use.node._saved_alpha == 1

    def rows(self, gradient: Tensor) -> Tensor:
        return gradient.reshape(-1, *self.use.parameter.shape)

    def norms(self, gradient: Tensor, arrange: Arrange) -> Tensor:
        if self.node.name() == "MulBackward0":
            other = self.node._saved_other if self.use.slot == 0 else self.node._saved_self
            gradient = gradient * arrange(self.rows(other.expand(self.use.output)))
        return squares(total(gradient))


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

    def rows(self, gradient: Tensor) -> Tensor:
        return gradient.reshape(-1, *self.use.parameter.shape)

    def norms(self, gradient: Tensor, arrange: Arrange) -> Tensor:
        return squares(total(gradient))


class Embedding(Rule):
    """Rows of a table: what flows in is added up by key, and the padding row gets nothing."""

    kinds = ("EmbeddingBackward0",)

    @classmethod
    def fits(cls, use: Use) -> bool:
        return not use.transposed and not use.node._saved_scale_grad_by_freq

    def rows(self, gradient: Tensor) -> Tensor:
        return gradient.reshape(-1, gradient.shape[-1])

    def norms(self, gradient: Tensor, arrange: Arrange) -> Tensor:
        keys = arrange(self.node._saved_indices.reshape(-1))
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


class Norm(Rule):
    """LayerNorm, GroupNorm, and BatchNorm in eval: scale of the normalised input, and shift."""

    kinds = ("NativeLayerNormBackward0", "NativeGroupNormBackward0", "NativeBatchNormBackward0")

    @classmethod
    def fits(cls, use: Use) -> bool:
        if use.transposed or use.slot not in (1, 2):
            return False
        return "BatchNorm" not in use.node.name() or not use.node._saved_training

    def rows(self, gradient: Tensor) -> Tensor:
        if self.node.name() == "NativeLayerNormBackward0":
            return gradient.reshape(-1, *self.use.parameter.shape)
        return gradient.reshape(*gradient.shape[:2], -1)  # [n, channels, positions]

    def norms(self, gradient: Tensor, arrange: Arrange) -> Tensor:
        if self.use.slot == 1:
            gradient = gradient * arrange(self.rows(self._normalised()))
        if self.node.name() != "NativeLayerNormBackward0":
            gradient = gradient.sum(-1)
        return squares(total(gradient))

    def _normalised(self) -> Tensor:
        node = self.node
        x: Tensor = node._saved_input
        if node.name() == "NativeLayerNormBackward0":
            centred: Tensor = x - node._saved_result1
            scaled: Tensor = centred * node._saved_result2
            return scaled
        if node.name() == "NativeGroupNormBackward0":
            return F.group_norm(x, node._saved_group, eps=node._saved_eps)
        mean, variance = node._saved_running_mean, node._saved_running_var
        return F.batch_norm(x, mean, variance, eps=node._saved_eps)
