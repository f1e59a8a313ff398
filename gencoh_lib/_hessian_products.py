"""Products of the Hessian and of the Gauss-Newton matrix with vectors.

A network with D parameters has D squared second derivatives, and nobody can hold them; their
products with vectors cost about as much as a gradient or two. The gradient is built once, with a
graph of its own, and every product is one more backward pass through that graph, which is kept.
The public names are those of :mod:`gencoh_lib.curvature`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from gencoh_lib._graph import check_parameters, explained, nodes, refuse_checkpoints
from gencoh_lib._operator import Operator

__all__ = ["gauss_newton", "hessian"]


def hessian(loss: Tensor, named_parameters: Mapping[str, Tensor]) -> Operator:
    r"""Matrix of the second derivatives of a loss.

    Parameters
    ----------
    loss : Tensor
        A single number with its graph, which is kept as long as the result is. Dropout masks and
        batch statistics are those of this graph.
    named_parameters : mapping of str to Tensor
        The parameters to differentiate by. Vectors hold them one after the other, flattened.

    Returns
    -------
    Operator
        In the parameters' dtype. Parameters that the loss does not use have rows of zeros.

    Raises
    ------
    TypeError, ValueError
        If the loss is not one finite number with a graph, a parameter is frozen, given twice, or
        of another dtype or device than the others, or an operation has no second derivative.

    Notes
    -----
    .. math:: Hv = \partial_w \langle \partial_w L(w),\, v \rangle

    (Pearlmutter 1994). The inner gradient is computed once.

    Examples
    --------
    >>> import torch
    >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> hessian(w[0] ** 2 * w[1], {"w": w})(torch.tensor([1.0, 0.0])).tolist()
    [4.0, 2.0]
    """
    parameters = _checked(loss, named_parameters)
    with _second_derivatives():
        gradient = _gradients([loss], parameters, None, create_graph=True)
    live = [i for i, part in enumerate(gradient) if part is not None and part.requires_grad]
    kept = [part for i in live if (part := gradient[i]) is not None]

    def product(rows: Tensor) -> Tensor:
        if not live:  # a loss that is linear in the parameters
            return torch.zeros_like(rows)
        parts = _split(rows, parameters)
        return _joined(_pulled(kept, parameters, [parts[i] for i in live]), rows, parameters)

    return _operator(product, parameters, "Hessian")


def gauss_newton(loss: Tensor, outputs: Tensor, named_parameters: Mapping[str, Tensor]) -> Operator:
    r"""Generalised Gauss-Newton matrix of a loss of the outputs of a network.

    Parameters
    ----------
    loss : Tensor
        A single number with its graph, which is kept as long as the result is.
    outputs : Tensor
        The outputs, in the graph of the loss: the tensor itself that the loss was computed from.
    named_parameters : mapping of str to Tensor
        As for :func:`hessian`.

    Returns
    -------
    Operator
        Positive semidefinite where the loss is convex in the outputs, as squared error and cross
        entropy are.

    Raises
    ------
    TypeError, ValueError
        As :func:`hessian`; or if the loss does not depend on ``outputs``, or these not on the
        parameters.

    Notes
    -----
    With the Jacobian J of the outputs by the parameters,

    .. math:: Gv = J^\top \bigl(\partial^2 L / \partial f^2\bigr) J v,
        \qquad H = G + \sum_k \frac{\partial L}{\partial f_k}\, \partial_w^2 f_k

    (Schraudolph 2002). Jv needs no forward differentiation: :math:`J^\top u` is linear in u, and
    its derivative by u in the direction of v is Jv.

    Examples
    --------
    >>> import torch
    >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> outputs = (w[0] * w[1]).reshape(1)
    >>> G = gauss_newton(outputs.square().sum() / 2, outputs, {"w": w})
    >>> G.dense().tolist()  # J = (2, 1)
    [[4.0, 2.0], [2.0, 1.0]]
    """
    parameters = _checked(loss, named_parameters)
    if not isinstance(outputs, Tensor) or outputs.grad_fn is None:
        raise ValueError("outputs must be the tensor, with its graph, that the loss came from")
    with _second_derivatives():
        (by_outputs,) = _gradients([loss], [outputs], None, create_graph=True)
        if by_outputs is None:
            raise ValueError(
                "the loss does not depend on outputs: give the tensor itself that it was computed "
                "from, not a copy or a second forward pass"
            )
        dual = torch.zeros_like(outputs, requires_grad=True)
        transposed = _gradients([outputs], parameters, [dual], create_graph=True)
    used = [i for i, part in enumerate(transposed) if part is not None and part.requires_grad]
    pulled = [part for i in used if (part := transposed[i]) is not None]
    if not used:
        raise ValueError("outputs depend on none of the given parameters")

    def product(rows: Tensor) -> Tensor:
        if not by_outputs.requires_grad:  # a loss that is linear in the outputs
            return torch.zeros_like(rows)
        parts = _split(rows, parameters)
        (forward,) = _pulled(pulled, [dual], [parts[i] for i in used])
        if forward is None:
            return torch.zeros_like(rows)
        (bent,) = _pulled([by_outputs], [outputs], [forward])
        if bent is None:
            return torch.zeros_like(rows)
        return _joined(_pulled([outputs], parameters, [bent]), rows, parameters)

    return _operator(product, parameters, "Gauss-Newton matrix")


def _checked(loss: Tensor, named_parameters: Mapping[str, Tensor]) -> list[Tensor]:
    if not isinstance(loss, Tensor):
        raise TypeError(f"loss must be a torch.Tensor, got {type(loss).__name__}")
    if loss.numel() != 1:
        shape = tuple(loss.shape)
        raise ValueError(f"loss must be one number, got shape {shape}: take its mean()")
    if loss.grad_fn is None:
        raise ValueError(
            "loss has no graph: it is a leaf or does not require a gradient. Compute it from the "
            "model outside torch.no_grad() and inference_mode(), and do not detach() it"
        )
    if not bool(torch.isfinite(loss.detach())):
        raise ValueError(f"loss is {float(loss.detach())}: there is no curvature to speak of")
    parameters = check_parameters(named_parameters)
    refuse_checkpoints(nodes(loss))
    kinds = {(parameter.dtype, parameter.device) for parameter in parameters}
    if len(kinds) > 1:
        raise ValueError(
            f"parameters of several dtypes or devices ({', '.join(sorted(map(str, kinds)))}) do "
            "not make one vector: give those of one kind"
        )
    return parameters


@contextmanager
def _second_derivatives() -> Iterator[None]:
    """Say what the errors of autograd mean where a gradient is to have a graph itself."""
    try:
        with explained(), torch.enable_grad():
            yield
    except (RuntimeError, NotImplementedError) as error:
        text = str(error)
        remedy = "compute the loss with operations that have one"
        if "scaled_dot_product" in text:
            remedy = (
                "compute the loss inside "
                "torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)"
            )
        elif "aot_autograd" in text or "torch.compile" in text:
            remedy = "use the model that was compiled (compiled._orig_mod)"
        elif "heckpoint" in text:
            remedy = "use checkpoint(..., use_reentrant=False), or none"
        elif "not implemented" not in text and "does not support" not in text:
            raise
        first = text.strip().splitlines()[0]
        raise ValueError(f"no second derivative: {first}. Remedy: {remedy}") from error


def _gradients(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    seeds: Sequence[Tensor] | None,
    *,
    create_graph: bool = False,
    is_grads_batched: bool = False,
) -> tuple[Tensor | None, ...]:
    """Differentiate with the graph kept, and None where nothing is reached."""
    return torch.autograd.grad(
        outputs,
        inputs,
        seeds,
        retain_graph=True,
        create_graph=create_graph,
        allow_unused=True,
        is_grads_batched=is_grads_batched,
    )


def _pulled(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], seeds: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """Pull k seeds [k, ...] back together; one after the other where they cannot be batched."""
    k = len(seeds[0])
    device = outputs[0].device.type
    with _second_derivatives(), torch.autocast(device, enabled=False):
        if k > 1:
            try:
                return _gradients(outputs, inputs, seeds, is_grads_batched=True)
            except RuntimeError:  # an operation without a batching rule
                pass
        single = [_gradients(outputs, inputs, [seed[i] for seed in seeds]) for i in range(k)]
    return tuple(
        None if parts[0] is None else torch.stack([part for part in parts if part is not None])
        for parts in zip(*single, strict=True)
    )


def _split(rows: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Cut vectors [k, D] into [k, *shape] for each parameter."""
    parts = rows.split([parameter.numel() for parameter in parameters], dim=1)
    return [
        part.reshape(len(rows), *parameter.shape)
        for part, parameter in zip(parts, parameters, strict=True)
    ]


def _joined(parts: Sequence[Tensor | None], rows: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Put the parts of each parameter together again, zeros where there are none."""
    return torch.cat(
        [
            rows.new_zeros(len(rows), parameter.numel())
            if part is None
            else part.detach().reshape(len(rows), -1)
            for part, parameter in zip(parts, parameters, strict=True)
        ],
        dim=1,
    )


def _operator(
    product: Callable[[Tensor], Tensor], parameters: Sequence[Tensor], name: str
) -> Operator:
    size = sum(parameter.numel() for parameter in parameters)
    return Operator(product, size, parameters[0].dtype, parameters[0].device, name)
