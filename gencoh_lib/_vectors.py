"""The gradients themselves, and all their inner products.

Their lengths and their sum can be had without ever forming them; what needs the vectors, such as
clipping, a median, or who agrees with whom, starts here. The route is the general one, exact for
any graph: row i of the Jacobian of the losses is the backward pass seeded with the i-th unit
vector, and several seeds go through at once. The public names are those of
:mod:`gencoh_lib.per_example`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from gencoh_lib._graph import (
    check_losses,
    check_parameters,
    explained,
    refuse_not_finite,
    refuse_what_hides,
    untouched,
    widest,
)

__all__ = ["backward", "every_gradient", "flat", "gradients", "gram", "wide"]

BYTE_BUDGET = 2**27
_TILE_BYTES = 2**22  # float64 copies that an inner product makes at a time stay in the cache


def gradients(
    losses: Tensor, named_parameters: Mapping[str, Tensor], *, chunk: int = 32
) -> Iterator[dict[str, Tensor]]:
    r"""Gradient of every example, a few examples at a time.

    Parameters
    ----------
    losses : Tensor
        [m] the loss of each example, with its graph, which is kept.
    named_parameters : mapping of str to Tensor
        The parameters to differentiate by; each must require a gradient.
    chunk : int
        c, the number of examples in one step; the last step may hold fewer. A step takes the
        memory of c gradients, and of c times the activations that are alive in a backward pass.

    Returns
    -------
    iterator of dict of str to Tensor
        For consecutive examples and for each name, [c, \*parameter shape] in the parameter's
        dtype, detached; zeros for a parameter that these losses do not use.

    Raises
    ------
    TypeError, ValueError
        At once, as :func:`~gencoh_lib.per_example.squared_norms`, or if ``chunk`` is not a
        positive whole number; while iterating, if a gradient is not finite.

    Notes
    -----
    .. math:: g_i = \partial\,\mathrm{losses}_i / \partial w = J^\top e_i

    Each step is one backward pass over the whole batch with c seeds, so that all m gradients cost
    about m passes: small batches are cheaper for the same number of examples.

    Examples
    --------
    >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> x = torch.tensor([[3.0, 4.0], [0.0, 2.0], [1.0, 1.0]])
    >>> [part["w"].tolist() for part in gradients(x @ w, {"w": w}, chunk=2)]
    [[[3.0, 4.0], [0.0, 2.0]], [[1.0, 1.0]]]
    """
    _checked(losses, named_parameters)
    if not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 1:
        raise ValueError(f"chunk must be a whole number of examples >= 1, got {chunk!r}")
    return _named(losses, named_parameters, chunk)


def gram(
    losses: Tensor, named_parameters: Mapping[str, Tensor], *, byte_budget: int = BYTE_BUDGET
) -> Tensor:
    r"""Inner products of the gradients of all pairs of examples.

    Parameters
    ----------
    losses : Tensor
        [m] the loss of each example, with its graph, which is kept.
    named_parameters : mapping of str to Tensor
        The parameters to differentiate by; those of one layer give the matrix of that layer, and
        the matrices of all layers add up to that of the model.
    byte_budget : int
        Bytes that the gradients in memory may take, beside the result; at least two examples are.

    Returns
    -------
    Tensor
        K, [m, m], symmetric, in float64 (float32 on a device without it).

    Raises
    ------
    TypeError, ValueError
        As :func:`~gencoh_lib.per_example.squared_norms`.

    Notes
    -----
    .. math:: K_{ij} = \langle g_i, g_j\rangle, \qquad
        \mathrm{tr} K = \sum_i\lVert g_i\rVert^2, \qquad
        \mathbf 1^\top K \mathbf 1 = \Bigl\lVert\sum_i g_i\Bigr\rVert^2

    Half of the budget holds a block of gradients while those of all later examples pass by. If
    all fit into it the cost is that of m gradients; with q blocks it is (q + 1)/2 times that.

    What can be read off K, with ``length = K.diagonal().sqrt()``:

    * m-coherence, ``K.sum() / K.trace()``;
    * *coherence by class*: the same quotient over the block of one class, ``K[y == c][:, y == c]``;
      and the help that class c gives to class d, ``K[y == c][:, y == d].mean()``;
    * *stiffness* (Fort et al. 2019): the mean over pairs i ≠ j of the sign or of the value of
      ``K / length / length[:, None]``, the cosine: whether a step for i helps j;
    * *effective rank* (Roy and Vetterli 2007): :math:`\exp H(p)` for the entropy H of the
      eigenvalues p of K divided by their sum: in how many directions, about, the gradients lie.

    Examples
    --------
    Two gradients of one direction and a third at right angles to both, so two directions in all:

    >>> w = torch.zeros(2, requires_grad=True)
    >>> x = torch.tensor([[3.0, 4.0], [3.0, 4.0], [-8.0, 6.0]])
    >>> K = gram(x @ w, {"w": w})
    >>> K.tolist()
    [[25.0, 25.0, 0.0], [25.0, 25.0, 0.0], [0.0, 0.0, 100.0]]
    >>> share = torch.linalg.eigvalsh(K).clamp(min=0) / K.trace()
    >>> round(float(torch.special.entr(share).sum().exp()), 4)  # shares 1/3 and 2/3
    1.8899
    """
    parameters = _checked(losses, named_parameters)
    m, half = len(losses), int(byte_budget) // 2
    one = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    block = max(1, half // max(1, one))
    step = _examples_within(losses, parameters, half)
    found = torch.zeros(m, m, dtype=wide(losses), device=losses.device)
    with untouched(losses, named_parameters):
        for start in range(0, m, block):
            stop = min(start + block, m)
            held = [p.new_empty(stop - start, p.numel(), requires_grad=False) for p in parameters]
            for first, chunk in _blocks(losses, parameters, min(step, stop - start), start, stop):
                for rows, part in zip(held, chunk, strict=True):
                    rows[first - start : first - start + len(part)] = flat(part)
            found[start:stop, start:stop] = _inner(held, held)
            for first, chunk in _blocks(losses, parameters, step, stop, m):
                later = [flat(part) for part in chunk]
                found[start:stop, first : first + len(later[0])] = _inner(held, later)
    refuse_not_finite(found.diagonal(), "the squared norms of the gradients")
    return found.triu() + found.triu(1).T


def flat(rows: Tensor) -> Tensor:
    """Flatten gradients [c, ...] to [c, n]: n is 1 for a scalar, 0 where there are no entries."""
    return rows[:, None].flatten(1)


def wide(like: Tensor) -> torch.dtype:
    """The dtype that squares are summed in: float64, where the device has it."""
    return torch.float32 if like.device.type == "mps" else torch.float64


def _examples_within(losses: Tensor, parameters: list[Tensor], byte_budget: int) -> int:
    """How many seeds a backward pass may carry; at least one.

    Every seed runs through the whole batch, so beside the parameters' gradients it holds a few
    gradients of the widest activation.
    """
    held = sum(parameter.numel() for parameter in parameters) + 3 * widest(losses)
    return max(1, int(byte_budget) // (held * losses.element_size()))


def _blocks(
    losses: Tensor, parameters: list[Tensor], step: int, start: int = 0, stop: int | None = None
) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    """Gradients of up to ``step`` consecutive examples, and the index of the first of them."""
    stop = len(losses) if stop is None else stop
    for first in range(start, stop, step):
        seeds = torch.zeros(min(step, stop - first), len(losses)).to(losses.detach())
        seeds[:, first:].fill_diagonal_(1)
        try:
            found = backward(losses, parameters, seeds, is_grads_batched=True)
        except RuntimeError:  # an operation that cannot be batched: one example after the other
            rows = [backward(losses, parameters, seed) for seed in seeds]
            found = tuple(torch.stack(row) for row in zip(*rows, strict=True))
        yield first, found


def every_gradient(
    losses: Tensor, parameters: list[Tensor], byte_budget: int
) -> Iterator[tuple[Tensor, ...]]:
    """Gradients of consecutive examples, each [c, *parameter shape], c as the budget allows."""
    step = _examples_within(losses, parameters, byte_budget)
    return (rows for _, rows in _blocks(losses, parameters, step))


def backward(
    losses: Tensor, parameters: list[Tensor], seed: Tensor, **options: bool
) -> tuple[Tensor, ...]:
    """torch.autograd.grad that keeps the graph, fills zeros, and explains its usual errors.

    Not under autocast, which would round what the passes multiply.
    """
    with explained(), torch.autocast(losses.device.type, enabled=False):
        found = torch.autograd.grad(
            losses, parameters, seed, retain_graph=True, allow_unused=True, **options
        )
    rows = seed.shape[:1] if options.get("is_grads_batched") else ()
    return tuple(
        parameter.new_zeros(*rows, *parameter.shape) if gradient is None else gradient.to_dense()
        for gradient, parameter in zip(found, parameters, strict=True)
    )


def _checked(losses: Tensor, named_parameters: Mapping[str, Tensor]) -> list[Tensor]:
    check_losses(losses)
    parameters = check_parameters(named_parameters)
    refuse_what_hides(losses, named_parameters)
    return parameters


def _named(
    losses: Tensor, named_parameters: Mapping[str, Tensor], chunk: int
) -> Iterator[dict[str, Tensor]]:
    lengths = torch.zeros(len(losses), dtype=wide(losses), device=losses.device)
    steps = _blocks(losses, list(named_parameters.values()), chunk)
    for _ in range(0, len(losses), chunk):
        with untouched(losses, named_parameters):  # not while the caller has the gradients
            first, found = next(steps)
        for name, part in zip(named_parameters, found, strict=True):
            own = lengths[first : first + len(part)]
            own[:] = torch.linalg.vector_norm(flat(part), dim=1, dtype=own.dtype)
            refuse_not_finite(lengths, f"the gradients by {name!r}")
        yield dict(zip(named_parameters, found, strict=True))


def _inner(left: list[Tensor], right: list[Tensor]) -> Tensor:
    """Sum over parameters of [a, n] times [n, b], in float64 and a few columns at a time."""
    dtype = wide(left[0])
    total = torch.zeros(len(left[0]), len(right[0]), dtype=dtype, device=left[0].device)
    columns = max(1, _TILE_BYTES // (8 * (len(left[0]) + len(right[0]))))
    for one, other in zip(left, right, strict=True):
        for a, b in zip(one.split(columns, 1), other.split(columns, 1), strict=True):
            total += a.to(dtype) @ b.to(dtype).T
    return total
