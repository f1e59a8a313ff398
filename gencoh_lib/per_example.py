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

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

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
        given, one is frozen, or the graph reaches none of them; if a batch-norm layer normalises
        by the batch, so that no example has a gradient of its own.

    Notes
    -----
    ``.grad`` of the parameters is neither read nor written.

    Examples
    --------
    >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> x = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    >>> squared_norms(x @ w, {"w": w})["w"].tolist()
    [25.0, 4.0]
    """
    check_losses(losses)
    parameters = check_parameters(named_parameters)
    refuse_batch_statistics(losses, named_parameters)
    chunks: list[list[Tensor]] = [[] for _ in parameters]
    for gradients in _gradients(losses, parameters, byte_budget):
        for chunk, gradient in zip(chunks, gradients, strict=True):
            flat = gradient.flatten(1)
            chunk.append(torch.linalg.vector_norm(flat, dim=1, dtype=_wide(flat)).square())
    return {name: torch.cat(c) for name, c in zip(named_parameters, chunks, strict=True)}


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
        As :func:`squared_norms`; also if a direction is missing or has another shape.

    Notes
    -----
    The backward pass is linear in its seed u, :math:`u \mapsto J^\top u`; differentiating
    :math:`\langle J^\top u, v\rangle` by u gives :math:`J v` at the price of about three backward
    passes, whatever m. The value at u = 1 must equal the sum of the answers. Where it does not,
    or where an operation cannot be differentiated twice, each gradient is formed instead.

    Examples
    --------
    >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> x = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    >>> directional_derivatives(x @ w, {"w": w}, {"w": torch.tensor([1.0, -1.0])}).tolist()
    [-1.0, -2.0]
    """
    check_losses(losses)
    parameters = check_parameters(named_parameters)
    refuse_batch_statistics(losses, named_parameters)
    along = _check_direction(named_parameters, direction)
    fast = _jacobian_vector_product(losses, parameters, along)
    if fast is not None:
        return fast
    parts = [
        torch.stack([(g * v).flatten(1).sum(1) for g, v in zip(gradients, along, strict=True)])
        for gradients in _gradients(losses, parameters, byte_budget)
    ]
    return torch.cat([part.sum(0) for part in parts])


def summed_gradient(losses: Tensor, named_parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradient of ``losses.sum()``, parameter by parameter, zeros where a parameter is unused."""
    parameters = check_parameters(named_parameters)
    gradients = _grad(losses, parameters, torch.ones_like(losses))
    return dict(zip(named_parameters, gradients, strict=True))


def check_losses(losses: Tensor) -> None:
    """Refuse anything but a finite [m] vector of losses with a graph behind it."""
    remedy = 'ask for one loss an example, e.g. F.cross_entropy(model(x), y, reduction="none")'
    if not isinstance(losses, Tensor):
        raise TypeError(f"losses must be a torch.Tensor, got {type(losses).__name__}; {remedy}")
    if losses.dim() != 1 or not len(losses):
        shape = tuple(losses.shape)
        raise ValueError(f"losses must be a vector [m] with m >= 1, got shape {shape}; {remedy}")
    if not losses.dtype.is_floating_point:
        raise TypeError(f"losses must be floating point, got {losses.dtype}; {remedy}")
    if losses.grad_fn is None:
        raise ValueError(
            "losses have no graph: they do not require a gradient. Compute them from the model "
            "outside torch.no_grad() and inference_mode(), and do not detach() them"
        )
    finite = torch.isfinite(losses.detach())
    if not bool(finite.all()):
        bad = (~finite).nonzero().flatten().tolist()
        raise ValueError(
            f"losses hold NaN or infinity at {len(bad)} of {len(losses)} examples (the first at "
            f"index {bad[0]}): look at these inputs, or at a learning rate that is too large"
        )


def check_parameters(named_parameters: Mapping[str, Tensor]) -> list[Tensor]:
    """The parameters as a list, each of them one that a gradient can be taken by."""
    if not isinstance(named_parameters, Mapping):
        kind = type(named_parameters).__name__
        raise TypeError(
            "named_parameters must map names to parameters, e.g. dict(model.named_parameters()); "
            f"got {kind}"
        )
    if not named_parameters:
        raise ValueError("named_parameters is empty: there is nothing to differentiate by")
    for name, parameter in named_parameters.items():
        if not isinstance(parameter, Tensor):
            raise TypeError(f"parameter {name!r} is a {type(parameter).__name__}, not a Tensor")
        if not parameter.requires_grad:
            raise ValueError(
                f"parameter {name!r} is frozen (requires_grad is False): leave it out, or call "
                "requires_grad_(True) before the losses are computed"
            )
    return list(named_parameters.values())


def refuse_batch_statistics(
    losses: Tensor,
    named_parameters: Mapping[str, Tensor],
    named_modules: Iterable[tuple[str, nn.Module]] = (),
) -> None:
    """Refuse a graph in which batch norm used the statistics of the batch.

    There the loss of one example depends on all the others, so "its" gradient is not defined by
    that example alone. The graph tells the truth, whatever mode the model is in by now.
    """
    names = {id(parameter): name for name, parameter in named_parameters.items()}
    for node in _nodes(losses):
        if "BatchNorm" not in node.name() or not getattr(node, "_saved_training", True):
            continue
        # InstanceNorm is computed as batch norm over one "example" that holds the whole batch
        if (seen := getattr(node, "_saved_input", None)) is not None and len(seen) == 1:
            continue
        inputs = (getattr(child, "variable", None) for child, _ in node.next_functions)
        layer = {names[id(p)].rpartition(".")[0] for p in inputs if id(p) in names} or {
            name
            for name, module in named_modules
            if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)
        }
        where = ", ".join(repr(name) for name in sorted(layer)) or "without trainable parameters"
        raise ValueError(
            f"batch-norm layer {where} normalised by the statistics of the batch, so the gradient "
            "of one example is not defined by that example alone. Call model.eval() before "
            "computing the losses (running statistics must be tracked), or use GroupNorm"
        )


def _check_direction(
    named_parameters: Mapping[str, Tensor], direction: Mapping[str, Tensor]
) -> list[Tensor]:
    along = []
    for name, parameter in named_parameters.items():
        if name not in direction:
            raise ValueError(f"direction has no entry for parameter {name!r}")
        if direction[name].shape != parameter.shape:
            got, want = tuple(direction[name].shape), tuple(parameter.shape)
            raise ValueError(f"direction[{name!r}] has shape {got}, its parameter {want}")
        along.append(direction[name].detach().to(parameter))
    return along


def _jacobian_vector_product(
    losses: Tensor, parameters: list[Tensor], along: list[Tensor]
) -> Tensor | None:
    """J v by differentiating the backward pass by its seed; None where that cannot be trusted."""
    with torch.enable_grad():
        seed = torch.ones_like(losses, requires_grad=True)
        try:
            gradients = _grad(losses, parameters, seed, create_graph=True)
            total = torch.stack(
                [(g * v).sum() for g, v in zip(gradients, along, strict=True)]
            ).sum()
            (answer,) = torch.autograd.grad(total, seed)
        except RuntimeError:  # some operation has no second derivative
            return None
    # a hand-written backward may cut the graph without a word; linearity in the seed tells
    slack = 1e3 * torch.finfo(losses.dtype).eps * float(answer.abs().sum())
    return answer if abs(float(answer.sum() - total.detach())) <= slack else None


def _gradients(
    losses: Tensor, parameters: list[Tensor], byte_budget: int
) -> Iterator[tuple[Tensor, ...]]:
    """Gradients of consecutive examples, each [c, *parameter shape], c as the budget allows."""
    examples, step = len(losses), max(1, int(byte_budget) // _bytes_per_seed(losses, parameters))
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
    """torch.autograd.grad that keeps the graph, fills zeros, and explains its two usual errors."""
    try:
        gradients = torch.autograd.grad(
            losses, parameters, seed, retain_graph=True, allow_unused=True, **options
        )
    except RuntimeError as error:
        if "second time" not in str(error):
            raise
        raise ValueError(
            "the graph behind losses has been freed: measure before losses.mean().backward(), "
            "or call backward(retain_graph=True)"
        ) from error
    if all(gradient is None for gradient in gradients):
        raise ValueError(
            "losses depend on none of the given parameters: they belong to another graph, e.g. to "
            "another copy of the model"
        )
    rows = seed.shape[:1] if options.get("is_grads_batched") else ()
    return tuple(
        parameter.new_zeros(*rows, *parameter.shape) if gradient is None else gradient
        for gradient, parameter in zip(gradients, parameters, strict=True)
    )


def _bytes_per_seed(losses: Tensor, parameters: list[Tensor]) -> int:
    """What one seed holds at its peak: all parameter gradients and a few activation gradients.

    Every seed runs through the whole batch, so the widest activation counts with all m rows.
    """
    widest = 0
    for node in _nodes(losses):
        for meta in getattr(node, "_input_metadata", ()):
            widest = max(widest, torch.Size(meta.shape).numel())
    held = sum(parameter.numel() for parameter in parameters) + 3 * widest
    return held * losses.element_size()


def _nodes(losses: Tensor) -> Iterator[Any]:
    """Every node of the autograd graph behind ``losses``, once."""
    stack: list[Any] = [losses.grad_fn]
    seen = set(stack)
    while stack:
        node = stack.pop()
        yield node
        for child, _ in node.next_functions:
            if child is not None and child not in seen:
                seen.add(child)
                stack.append(child)


def _wide(like: Tensor) -> torch.dtype:
    """The dtype that squares are summed in: float64, where the device has it."""
    return torch.float32 if like.device.type == "mps" else torch.float64
