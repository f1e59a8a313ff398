"""Gradients of every example, from the vector of losses.

A batch of m examples gives m losses and, for one parameter w, m gradients
g_i = d losses[i] / d w. Training needs only their sum; coherence needs each one's length.
Everything here starts from the *vector* of losses (``reduction="none"``) and not from a wrapped
model, because the autograd graph of that vector knows every use of every parameter: functional
calls, tied weights, recurrent nets, layers that nobody has seen before.

The route taken is the general one and exact for any graph: row i of the Jacobian is the backward
pass seeded with the i-th unit vector, and seeds are batched within a byte budget. It costs m
backward passes over the batch, so small batches are cheaper for the same number of examples:
see :class:`gencoh_lib.coherence.Accumulator`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from gencoh_lib._graph import (
    FREED,
    check_direction,
    check_losses,
    check_parameters,
    refuse_not_finite,
    refuse_what_hides,
    widest,
)

__all__ = ["directional_derivatives", "squared_norms"]

BYTE_BUDGET = 2**27


def squared_norms(
    losses: Tensor, named_parameters: Mapping[str, Tensor], *, byte_budget: int = BYTE_BUDGET
) -> dict[str, Tensor]:
    r"""Squared norm of the gradient of every example, parameter by parameter.

    Parameters
    ----------
    losses : Tensor
        [m] the loss of each example, still attached to its graph
        (``F.cross_entropy(model(x), y, reduction="none")``). The graph is kept.
    named_parameters : mapping of str to Tensor
        The parameters to differentiate by, e.g. ``dict(model.named_parameters())``; each must
        require a gradient.
    byte_budget : int
        Bytes that the gradients in flight may take; at least one example is always done.

    Returns
    -------
    dict of str to Tensor
        For each name, [m] in float64 (float32 on a device without it):
        :math:`\lVert\partial\,\mathrm{losses}_i/\partial w\rVert^2`. A parameter that no loss
        uses has zeros.

    Raises
    ------
    TypeError, ValueError
        If ``losses`` is not a finite, one-dimensional vector with a graph; if no parameter is
        given, one is frozen, complex or given twice, or the graph reaches none of them; if a
        batch-norm layer normalised by the batch, so that no example has a gradient of its own;
        if parameters are hidden by reentrant checkpointing; if a gradient is not finite.

    Notes
    -----
    What is returned is the derivative of ``losses[i]``, exactly. Where a model mixes examples by
    hand, ``z - z.mean(0)``, that derivative depends on the rest of the batch; of all the ways to
    mix examples only batch norm is recognised, and inside ``torch.compile`` not even that.
    ``.grad`` of the parameters is neither read nor written; hooks on tensors fire as in any
    backward pass.

    Examples
    --------
    >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> x = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    >>> squared_norms(x @ w, {"w": w})["w"].tolist()
    [25.0, 4.0]
    """
    return moments(losses, named_parameters, byte_budget=byte_budget)[0]


def directional_derivatives(
    losses: Tensor,
    named_parameters: Mapping[str, Tensor],
    direction: Mapping[str, Tensor],
    *,
    byte_budget: int = BYTE_BUDGET,
) -> Tensor:
    r"""Rate at which every example's loss changes along one direction in parameter space.

    Parameters
    ----------
    losses, named_parameters, byte_budget
        As in :func:`squared_norms`.
    direction : mapping of str to Tensor
        For each name a tensor v of the parameter's shape.

    Returns
    -------
    Tensor
        [m]: :math:`\langle g_i, v\rangle`, the sum over all parameters.

    Raises
    ------
    TypeError, ValueError
        As :func:`squared_norms`; also if a direction is missing, not finite or of another shape.

    Notes
    -----
    The backward pass is linear in its seed u, :math:`u \mapsto J^\top u`; differentiating
    :math:`\langle J^\top u, v\rangle` by u gives :math:`J v` at the price of about three backward
    passes, whatever m. At a random u the product with the answers must give the value back. Where
    it does not, where an operation cannot be differentiated twice, or in half precision, each
    gradient is formed instead.

    Examples
    --------
    >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> x = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    >>> directional_derivatives(x @ w, {"w": w}, {"w": torch.tensor([1.0, -1.0])}).tolist()
    [-1.0, -2.0]
    """
    check_losses(losses)
    parameters = check_parameters(named_parameters)
    refuse_what_hides(losses, named_parameters)
    along = check_direction(named_parameters, direction)
    fast = _jacobian_vector_product(losses, parameters, along)
    if fast is not None:
        return fast
    parts = [
        torch.stack([(g * v).flatten(1).sum(1) for g, v in zip(gradients, along, strict=True)])
        for gradients in _gradients(losses, parameters, byte_budget)
    ]
    return torch.cat([part.sum(0) for part in parts])


def moments(
    losses: Tensor, named_parameters: Mapping[str, Tensor], *, byte_budget: int = BYTE_BUDGET
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Squared norms [m] of the gradients and their sum, by name, from the same sweep."""
    check_losses(losses)
    parameters = check_parameters(named_parameters)
    refuse_what_hides(losses, named_parameters)
    wide = torch.float32 if losses.device.type == "mps" else torch.float64
    norms: dict[str, list[Tensor]] = {name: [] for name in named_parameters}
    sums = {name: p.new_zeros(p.shape, dtype=wide) for name, p in named_parameters.items()}
    for gradients in _gradients(losses, parameters, byte_budget):
        for name, gradient in zip(named_parameters, gradients, strict=True):
            norm = torch.linalg.vector_norm(gradient.flatten(1), dim=1, dtype=wide)
            norms[name].append(norm.square())
            sums[name] += gradient.sum(0, dtype=wide)
    squares = {name: torch.cat(chunks) for name, chunks in norms.items()}
    for name, values in squares.items():
        refuse_not_finite(values, f"the gradients by {name!r}")
    return squares, {name: total.detach() for name, total in sums.items()}


def _jacobian_vector_product(
    losses: Tensor, parameters: list[Tensor], along: list[Tensor]
) -> Tensor | None:
    """J v by differentiating the backward pass by its seed; None where that cannot be trusted."""
    if torch.finfo(losses.dtype).bits < 32:
        return None
    generator = torch.Generator().manual_seed(0)
    with torch.enable_grad():
        seed = torch.rand(len(losses), generator=generator).to(losses.detach()).add_(0.5)
        seed.requires_grad_()
        try:
            gradients = _grad(losses, parameters, seed, create_graph=True)
            parts = [(g * v).sum() for g, v in zip(gradients, along, strict=True)]
            total = torch.stack(parts).sum()
            (answer,) = torch.autograd.grad(total, seed)
        except RuntimeError:  # some operation has no second derivative
            return None
    # a hand-written backward may cut the graph without a word; linearity in the seed tells
    given_back = answer * seed.detach()
    slack = 1e3 * torch.finfo(losses.dtype).eps * float(given_back.abs().sum())
    return answer if abs(float(given_back.sum() - total.detach())) <= slack else None


def _gradients(
    losses: Tensor, parameters: list[Tensor], byte_budget: int
) -> Iterator[tuple[Tensor, ...]]:
    """Gradients of consecutive examples, each [c, *parameter shape], c as the budget allows.

    Every seed runs through the whole batch, so beside the parameters' gradients it holds a few
    gradients of the widest activation.
    """
    held = sum(parameter.numel() for parameter in parameters) + 3 * widest(losses)
    examples, step = len(losses), max(1, int(byte_budget) // (held * losses.element_size()))
    for start in range(0, examples, step):
        seeds = torch.zeros(min(step, examples - start), examples).to(losses.detach())
        seeds[:, start:].fill_diagonal_(1)
        try:
            yield _grad(losses, parameters, seeds, is_grads_batched=True)
        except RuntimeError:  # an operation that cannot be batched: one example after the other
            rows = [_grad(losses, parameters, seed) for seed in seeds]
            yield tuple(torch.stack(row) for row in zip(*rows, strict=True))


def _grad(
    losses: Tensor, parameters: list[Tensor], seed: Tensor, **options: bool
) -> tuple[Tensor, ...]:
    """torch.autograd.grad that keeps the graph, fills zeros, and explains its usual errors."""
    try:
        gradients = torch.autograd.grad(
            losses, parameters, seed, retain_graph=True, allow_unused=True, **options
        )
    except RuntimeError as error:
        if "second time" in str(error):
            raise ValueError(FREED) from error
        if "inplace operation" in str(error):
            raise ValueError(
                "parameters or inputs were changed in place after losses were computed, e.g. by "
                "optimizer.step(): compute the losses anew"
            ) from error
        raise
    if all(gradient is None for gradient in gradients):
        raise ValueError(
            "losses depend on none of the given parameters: they belong to another graph, e.g. to "
            "another copy of the model"
        )
    rows = seed.shape[:1] if options.get("is_grads_batched") else ()
    return tuple(
        parameter.new_zeros(*rows, *parameter.shape) if gradient is None else gradient.to_dense()
        for gradient, parameter in zip(gradients, parameters, strict=True)
    )
