"""Where the examples are in every tensor behind the losses, proved from the graph alone.

Loss i belongs to example i. Going back from the losses, most operations keep examples apart: they
work along other dimensions than the one that the examples lie along, and only move that dimension
about. So each gradient that flows through such a graph is laid out in the same simple way: in
row-major order, entry f belongs to example ``(f // stride) % m``, with one number ``stride`` a
tensor. A view does not change it; a permutation, a sum or a matrix product does so in a way that
its shapes tell. For heads of attention, say, [m, T, heads * d] becomes [m * heads, T, d].

What an operation mixes, or what we do not know, is left out, together with all that comes after.
Nothing here looks at a number in a tensor, so what is proved holds for any data.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from torch import Tensor

__all__ = ["example_strides"]


class Way(NamedTuple):
    """One way through a node: the examples lie along ``dim`` of what it computed from ``slot``."""

    node: Any
    dim: int
    rank: int  # of what it computed
    slot: int
    child_rank: int  # of what it computed it from

    def axis(self, value: int, rank: int | None = None) -> int:
        """Normalise a dimension, which autograd keeps as an unsigned number."""
        return (value - 2**64 if value >= 2**63 else value) % (rank or self.rank)


Passage = Callable[[Way], int | None]  # the dimension of the child that the examples lie along


def example_strides(graph: Sequence[Any], losses: Tensor) -> dict[Any, int]:
    """Stride of the examples in the gradient that flows into each node, where it is proved.

    ``graph`` lists the nodes, each before those it leads to. Entry f of the flattened gradient of
    a node's first output depends on loss ``(f // stride) % m`` alone.
    """
    m = len(losses)
    if m == 1:  # then everything is the one example's
        return {node: math.prod(node._input_metadata[0].shape) or 1 for node in graph}
    found: dict[tuple[Any, int], int | None] = {(losses.grad_fn, losses.output_nr): 1}
    for node in graph:
        children = node.next_functions
        if not children:  # a leaf
            continue
        ways = [
            _through(node, children, tuple(meta.shape), found[node, output], m)
            for output, meta in enumerate(node._input_metadata)
            if (node, output) in found
        ]
        for slot, edge in enumerate(children):
            stride = ways[0][slot]
            if any(way[slot] != stride for way in ways):
                stride = None
            if edge[0] is not None and found.setdefault(edge, stride) != stride:
                found[edge] = None  # two uses that lie differently
    return {
        node: stride
        for (node, output), stride in found.items()
        if stride is not None and not output
    }


def _through(
    node: Any,
    children: Sequence[tuple[Any, int]],
    shape: Sequence[int],
    stride: int | None,
    m: int,
) -> list[int | None]:
    """Strides in what flows on to each child."""
    unknown: list[int | None] = [None] * len(children)
    passage = None if stride is None else _passage(node.name())
    if stride is None or passage is None:
        return unknown
    if passage is _keeps_order:
        return [stride] * len(children)
    place = _place(shape, stride, m)
    if place is None:
        return unknown
    dim, inside = place
    strides = unknown.copy()
    for slot, (child, output) in enumerate(children):
        if child is None:
            continue
        sizes = child._input_metadata[output].shape
        try:
            to = passage(Way(node, dim, len(shape), slot, len(sizes)))
        except AttributeError:  # a private attribute that this torch does not have
            return unknown
        if to is not None and 0 <= to < len(sizes) and sizes[to] == shape[dim]:
            strides[slot] = inside * math.prod(sizes[to + 1 :]) or None
    return strides


@cache
def _passage(name: str) -> Passage | None:
    """What is known of a node kind; autograd numbers the variants of an operation."""
    operation, built_in = re.subn(r"Backward\d+$", "", name)
    if not built_in:  # somebody's own function may bear any name
        return None
    families = (passage for start, passage in _FAMILIES.items() if operation.startswith(start))
    return _PASSAGES.get(operation) or next(families, None)


def _place(shape: Sequence[int], stride: int, m: int) -> tuple[int, int] | None:
    """Find the dimension that holds the examples, and how many of its steps each takes.

    Of [T, m * heads, d] with stride ``heads * d`` it is the second one, and each takes ``heads``.
    There is at most one, since it takes up a factor m of the size.
    """
    after = 1
    for dim in range(len(shape) - 1, -1, -1):
        if stride % after == 0 and (after * shape[dim]) % (stride * m) == 0:
            return dim, stride // after
        after *= shape[dim]
    return None


# --- what the operations do, each a map from dimension to dimension ---


def _keeps_order(way: Way) -> int | None:
    """Views and copies keep the row-major order, so the stride; the dimension is not asked for."""
    return None


def _elementwise(way: Way) -> int:
    """Dimensions match from the last one on; what is spread over the examples has none left."""
    return way.dim - way.rank + way.child_rank


def _along(attribute: str) -> Passage:
    """Work along one dimension only."""

    def passage(way: Way) -> int | None:
        along = way.axis(getattr(way.node, attribute))
        return None if along == way.dim else way.dim

    return passage


def _slices(way: Way) -> int:
    """Of the examples only a slice of them all will do, and sizes are compared anyway."""
    return way.dim


def _unfolds(way: Way) -> int | None:
    """Sliding windows over one dimension; the steps within a window come last."""
    along = way.axis(way.node._saved_dimension, way.child_rank)
    return None if along == way.dim else way.dim


def _along_some(way: Way) -> int | None:
    """Flip or roll; rolling along no dimension in particular mixes everything."""
    dims = [way.axis(dim) for dim in way.node._saved_dims]
    return None if way.dim in dims or not dims else way.dim


def _removes_one(way: Way) -> int:
    """Select or unbind: a dimension is gone."""
    return way.dim + (way.dim >= way.axis(way.node._saved_dim, way.rank + 1))


def _adds_one(way: Way) -> int | None:
    """Stack: there is a new dimension."""
    new = way.axis(way.node._saved_dim)
    return None if new == way.dim else way.dim - (way.dim > new)


def _reduces(way: Way) -> int | None:
    """Sum, mean and the like along some dimensions."""
    if way.rank == way.child_rank:
        return way.dim
    dims = way.node._saved_dim
    gone = {way.axis(d, way.child_rank) for d in (dims if isinstance(dims, tuple) else (dims,))}
    kept = [dim for dim in range(way.child_rank) if dim not in gone]
    return kept[way.dim] if len(kept) == way.rank else None


def _permutes(way: Way) -> int:
    return way.axis(way.node._saved_dims[way.dim])


def _transposes(way: Way) -> int:
    one, other = way.axis(way.node._saved_dim0), way.axis(way.node._saved_dim1)
    return {one: other, other: one}.get(way.dim, way.dim)


def _multiplies(way: Way) -> int | None:
    """Matrix products, batched or not, with or without something added first."""
    side = way.slot - (len(way.node.next_functions) - 2)
    if side < 0:
        return _elementwise(way)
    summed = way.rank - 1 - side  # where this factor has the index that the product sums over
    return None if way.dim == summed else way.dim


def _leading(count: int) -> Passage:
    """Treat everything along the first few dimensions alike, and apart; weights are shared."""
    return lambda way: way.dim if way.slot == 0 and way.dim < count else None


def _spatial(way: Way) -> int | None:
    """Pooling, padding and resizing of the trailing dimensions, counted in the name."""
    count = re.search(r"(\d)D", way.node.name())
    return way.dim if count and way.dim < way.rank - int(count[1]) else None


def _pads(way: Way) -> int | None:
    return way.dim if way.dim < way.rank - len(way.node._saved_pad) // 2 else None


def _layer_norm(way: Way) -> int | None:
    leading = way.rank - len(way.node._saved_normalized_shape)
    return way.dim if way.slot == 0 and way.dim < leading else None


def _batch_norm(way: Way) -> int | None:
    """Apart along channels always, and along all else where running statistics are used."""
    if way.slot:
        return 0 if way.dim == 1 else None
    return way.dim if way.dim == 1 or not way.node._saved_training else None


def _attends(way: Way) -> int | None:
    """Fused attention over [..., T, d]: query, key and value."""
    return way.dim if way.slot < 3 and way.dim < way.rank - 2 else None


def _picks_class(way: Way) -> int | None:
    """Negative log-likelihood, one a target: the classes come second."""
    if way.node._saved_reduction != 0:
        return None
    return way.dim + (way.dim > 0)


def _compares(way: Way) -> int | None:
    """Elementwise losses, as long as they are not reduced."""
    return _elementwise(way) if way.node._saved_reduction == 0 else None


def _table(rows: Mapping[str, Passage]) -> dict[str, Passage]:
    """One entry an operation; each key holds several, in the words of autograd."""
    return {name: passage for names, passage in rows.items() for name in names.split()}


_PASSAGES = _table(
    {
        """Relu Elu Celu Gelu Silu Mish LeakyRelu PreluKernel Hardtanh Hardswish Hardsigmoid
        Hardshrink Softshrink Softplus Threshold Sigmoid LogSigmoid Tanh Erf Exp Expm1 Log Log1P
        Sqrt Rsqrt Reciprocal Pow Abs Neg Sin Cos Clamp ClampMin ClampMax NativeDropout MaskedFill
        Where Add Sub Rsub Mul Div Maximum Minimum Addcmul Addcdiv Lerp
        Expand Repeat""": _elementwise,
        "View UnsafeView ReshapeAlias Unsqueeze Squeeze Alias Clone ToCopy": _keeps_order,
        "MseLoss L1Loss SmoothL1Loss HuberLoss": _compares,
        "BinaryCrossEntropy BinaryCrossEntropyWithLogits": _compares,
        "NllLoss NllLoss2D": _picks_class,
        "Softmax SafeSoftmax LogSoftmax Cumsum Glu": _along("_saved_dim"),
        "Cat Split SplitWithSizes Gather IndexSelect": _along("_saved_dim"),
        "Slice": _slices,
        "Unfold": _unfolds,
        "Flip Roll": _along_some,
        "Sum Mean Logsumexp Amax Amin Max Min Var LinalgVectorNorm": _reduces,
        "Select Unbind": _removes_one,
        "Stack": _adds_one,
        "Permute": _permutes,
        "Transpose": _transposes,
        "T": lambda way: 1 - way.dim,
        "Mm Addmm Bmm Baddbmm": _multiplies,
        "Convolution NativeGroupNorm PixelShuffle PixelUnshuffle ChannelShuffle": _leading(1),
        "NativeLayerNorm": _layer_norm,
        "NativeBatchNorm CudnnBatchNorm": _batch_norm,
        "ConstantPadNd": _pads,
    }
)

# by how the name begins, since there is one for each number of dimensions, or each device
_FAMILIES = _table(
    {
        "MaxPool AvgPool AdaptiveAvgPool AdaptiveMaxPool MkldnnAdaptiveAvgPool": _spatial,
        "ReflectionPad ReplicationPad Upsample": _spatial,
        "ScaledDotProduct": _attends,
    }
)
