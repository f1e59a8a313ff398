"""Gradients of every example, from the vector of losses.

A batch of m examples gives m losses and, for one parameter w, m gradients
g_i = d losses[i] / d w. Training needs only their sum; coherence needs each one's length.
Everything here starts from the *vector* of losses (``reduction="none"``) and not from a wrapped
model, because the autograd graph of that vector knows every use of every parameter: functional
calls, tied weights, recurrent nets, layers that nobody has seen before.

Which function for what:

* :func:`squared_norms`, the m lengths, parameter by parameter, and with ``accumulate_grad`` the
  backward pass of a training step as well. Coherence needs no more, and
  :func:`gencoh_lib.coherence.measure` is made of it.
* :func:`directional_derivatives`, the m inner products with one given direction, at the price of
  about three backward passes.
* :func:`gram`, all inner products, and :func:`gradients`, the vectors themselves, at the price of
  about m backward passes: for small samples, or where nothing else will do.
* :mod:`gencoh_lib.estimators`, where even the lengths are too dear.

Two routes lead to the lengths, and each parameter takes the first that is safe for it.

* *By rule*: where one node of a known kind consumes the parameter, and every row that passes
  belongs to one example, the norms are read off during a single backward pass. On ordinary MLPs,
  convolutional networks and transformers, where the graph itself proves whose rows are whose, that
  is little more than a training step; elsewhere they have to be probed, and it is two to four times
  a training step. After Goodfellow (2015) and nanoGNS (Gray et al. 2024); ``_rules`` has the
  formulas.
* *General*: row i of the Jacobian is the backward pass seeded with the i-th unit vector. It costs
  m backward passes, batched within a byte budget, and covers everything: weights that are tied,
  reused, made from others, or that examples share, such as a table of positions that is looked up
  once for the whole batch. ``routes`` of a :class:`~gencoh_lib.coherence.Coherence` says what
  took it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gencoh_lib._graph import (
    check_direction,
    check_losses,
    check_parameters,
    refuse_what_hides,
    untouched,
)
from gencoh_lib._moments import add_mean_gradient, moments
from gencoh_lib._vectors import (
    BYTE_BUDGET,
    backward,
    every_gradient,
    flat,
    gradients,
    gram,
)

__all__ = ["directional_derivatives", "gradients", "gram", "squared_norms"]

for _function in (gradients, gram):
    _function.__module__ = __name__  # their public name, in tracebacks and in the API reference


def squared_norms(
    losses: Tensor,
    named_parameters: Mapping[str, Tensor],
    *,
    accumulate_grad: bool = False,
    retain_graph: bool = True,
    byte_budget: int = BYTE_BUDGET,
) -> dict[str, Tensor]:
    r"""Squared norm of the gradient of every example, parameter by parameter.

    Parameters
    ----------
    losses : Tensor
        [m] the loss of each example, still attached to its graph
        (``F.cross_entropy(model(x), y, reduction="none")``).
    named_parameters : mapping of str to Tensor
        The parameters to differentiate by, e.g. ``dict(model.named_parameters())``; each must
        require a gradient.
    accumulate_grad : bool
        Whether to add the gradient of the *mean* loss to each ``.grad``, as
        ``losses.mean().backward()`` would: one backward pass then serves both. Hooks that wait for
        that, as those of ``DistributedDataParallel`` do, are not called.
    retain_graph : bool
        Whether the graph is kept for another backward pass. Without it the memory of the
        activations is given back on the way, as in a training step, unless a parameter takes the
        general route.
    byte_budget : int
        Bytes that gradients on the general route may take; one example is always done.

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
        batch-norm layer normalised by the batch or an embedding counts over it
        (``scale_grad_by_freq``), so that no example has a gradient of its own; if parameters are
        hidden by reentrant checkpointing or by another backward pass that calls ``backward()``; if
        a gradient is not finite.

    Notes
    -----
    What is returned is the derivative of ``losses[i]``, exactly. Where a model mixes examples by
    hand, ``z - z.mean(0)``, that derivative depends on the rest of the batch; of all the ways to
    mix examples only batch norm is recognised, and inside ``torch.compile`` not even that.
    ``.grad`` is untouched unless asked for.

    Hooks fire as in any backward pass, but a graph does not say which it has. Those on a parameter
    are respected. One on a tensor in between, or on a node, that mixes examples (clipping by the
    norm of the batch) or changes what goes into a parameter (a hook on ``weight.t()``) is not seen
    and spoils the result: measure without it. Likewise ``retain_grad()`` on a tensor in between
    leaves the gradients of these passes in its ``.grad``.

    Examples
    --------
    >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> x = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    >>> squared_norms(x @ w, {"w": w})["w"].tolist()
    [25.0, 4.0]
    """
    found = moments(losses, named_parameters, byte_budget=byte_budget, retain_graph=retain_graph)
    if accumulate_grad:
        add_mean_gradient(named_parameters, found.sums, found.routes, len(losses))
    return found.squares


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
    with untouched(losses, named_parameters):
        fast = _jacobian_vector_product(losses, parameters, along)
        if fast is not None:
            return fast
        parts = [
            torch.stack([flat(g * v).sum(1) for g, v in zip(rows, along, strict=True)])
            for rows in every_gradient(losses, parameters, byte_budget)
        ]
    return torch.cat([part.sum(0) for part in parts])


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
            rows = backward(losses, parameters, seed, create_graph=True)
            parts = [(g * v).sum() for g, v in zip(rows, along, strict=True)]
            total = torch.stack(parts).sum()
            with torch.autocast(losses.device.type, enabled=False):
                (answer,) = torch.autograd.grad(total, seed)
        except RuntimeError:  # some operation has no second derivative
            return None
    # a hand-written backward may cut the graph without a word; linearity in the seed tells
    given_back = answer * seed.detach()
    slack = 1e3 * torch.finfo(losses.dtype).eps * float(given_back.abs().sum())
    return answer if abs(float(given_back.sum() - total.detach())) <= slack else None
