"""What the autograd graph behind a vector of losses tells, and what it must be refused for.

Used by :mod:`gencoh_lib.per_example`. The graph is read and never changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.nn.modules.batchnorm import _BatchNorm

FREED = (
    "the graph behind losses has been freed: measure before losses.mean().backward(), "
    "or call backward(retain_graph=True)"
)
COMPILED = (
    "the losses come from torch.compile, whose backward pass runs only once: measure the model "
    "that was compiled (compiled._orig_mod), or set torch._functorch.config.donated_buffer = False "
    "before the losses are computed"
)
_REMEDY = 'ask for one loss an example, e.g. F.cross_entropy(model(x), y, reduction="none")'


@contextmanager
def explained() -> Iterator[None]:
    """Say what the usual errors of autograd mean here."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if "second time" in text or "been freed" in text:
            raise ValueError(FREED) from error
        if "donated buffers" in text:
            raise ValueError(COMPILED) from error
        if "inplace operation" in text:
            raise ValueError(
                "parameters or inputs were changed in place after losses were computed, e.g. by "
                "optimizer.step(): compute the losses anew"
            ) from error
        raise


@contextmanager
def untouched(losses: Tensor, named_parameters: Mapping[str, Tensor]) -> Iterator[None]:
    """Put every ``.grad`` out of reach and back, whatever happens in between.

    A backward pass written by hand may itself call ``backward()`` on parameters that the graph
    does not show. It fills their ``.grad``, which tells.
    """
    leaves = {name: p for name, p in named_parameters.items() if p.is_leaf}
    kept = {name: p.grad for name, p in leaves.items()}
    for parameter in leaves.values():
        parameter.grad = None
    try:
        yield
        hidden = [name for name, p in leaves.items() if p.grad is not None]
    finally:
        for name, parameter in leaves.items():
            parameter.grad = kept[name]
    if hidden:
        custom: list[Any] = [n for n in nodes(losses) if isinstance(n, BackwardCFunction)]
        by = sorted({node.name() for node in custom})
        raise ValueError(
            f"parameters {', '.join(map(repr, hidden))} are hidden from the graph: a backward pass "
            f"written by hand (of {', '.join(by) or 'a hook'}) calls backward() on them by itself. "
            "Measure without it, e.g. with checkpoint(..., use_reentrant=False) in its place"
        )


def nodes(losses: Tensor) -> list[Any]:
    """Every node of the graph behind ``losses``, once, each before those it leads to."""
    order: list[Any] = []
    root: Any = losses.grad_fn
    seen = {root}
    stack = [(root, iter(root.next_functions))]
    while stack:
        node, edges = stack[-1]
        for child, _ in edges:
            if child is not None and child not in seen:
                seen.add(child)
                stack.append((child, iter(child.next_functions)))
                break
        else:
            order.append(node)
            stack.pop()
    return order[::-1]


def leaf_of(node: Any) -> Tensor | None:
    """The leaf whose gradient a node collects; None where it is any other node."""
    # by its kind, since somebody's own node may have an attribute of the same name
    return node.variable if type(node).__name__ == "AccumulateGrad" else None


def reached(graph: Iterable[Any], named_parameters: Mapping[str, Tensor]) -> set[str]:
    """Names of the parameters that the graph leads to."""
    graph = set(graph)
    leaves = {id(leaf) for node in graph if (leaf := leaf_of(node)) is not None}
    return {n for n, p in named_parameters.items() if id(p) in leaves or p.grad_fn in graph}


def widest(losses: Tensor) -> int:
    """Number of entries of the largest gradient that flows between two nodes."""
    sizes = (
        torch.Size(meta.shape).numel()
        for node in nodes(losses)
        for meta in node._input_metadata
        if not meta.is_nested_tensor
    )
    return max(sizes, default=0)


def check_losses(losses: Tensor) -> None:
    """Refuse anything but a finite [m] vector of losses with a graph behind it."""
    if not isinstance(losses, Tensor):
        raise TypeError(f"losses must be a torch.Tensor, got {type(losses).__name__}; {_REMEDY}")
    if losses.dim() != 1 or not len(losses):
        shape = tuple(losses.shape)
        raise ValueError(f"losses must be a vector [m] with m >= 1, got shape {shape}; {_REMEDY}")
    if not losses.dtype.is_floating_point:
        raise TypeError(f"losses must be floating point, got {losses.dtype}; {_REMEDY}")
    if losses.grad_fn is None:
        raise ValueError(
            "losses have no graph: they are a leaf or do not require a gradient. Compute them "
            "from the model outside torch.no_grad() and inference_mode(), and do not detach() them"
        )
    refuse_not_finite(losses.detach(), "losses")


def refuse_not_finite(values: Tensor, what: str) -> None:
    """Refuse a [m] tensor with NaN or infinite entries, and name the first example."""
    finite = torch.isfinite(values)
    if not bool(finite.all()):
        bad = (~finite).nonzero().flatten().tolist()
        raise ValueError(
            f"{what} hold NaN or infinity at {len(bad)} of {len(values)} examples (the first at "
            f"index {bad[0]}): look at these inputs, or at a learning rate that is too large"
        )


def check_parameters(named_parameters: Mapping[str, Tensor]) -> list[Tensor]:
    """Refuse what no gradient can be taken by; return the parameters as a list."""
    if not isinstance(named_parameters, Mapping):
        kind = type(named_parameters).__name__
        raise TypeError(
            "named_parameters must map names to parameters, e.g. dict(model.named_parameters()); "
            f"got {kind}"
        )
    if not named_parameters:
        raise ValueError("named_parameters is empty: there is nothing to differentiate by")
    names: dict[int, str] = {}
    for name, parameter in named_parameters.items():
        if not isinstance(parameter, Tensor):
            raise TypeError(f"parameter {name!r} is a {type(parameter).__name__}, not a Tensor")
        if not parameter.requires_grad:
            raise ValueError(
                f"parameter {name!r} is frozen (requires_grad is False): leave it out, or call "
                "requires_grad_(True) before the losses are computed"
            )
        if parameter.is_complex():
            raise TypeError(f"parameter {name!r} is complex; only real parameters are supported")
        if (first := names.setdefault(id(parameter), name)) != name:
            raise ValueError(
                f"parameters {first!r} and {name!r} are the same tensor and would count twice: "
                "give it once"
            )
    return list(named_parameters.values())


def check_direction(
    named_parameters: Mapping[str, Tensor], direction: Mapping[str, Tensor]
) -> list[Tensor]:
    """Refuse a direction that does not match the parameters; return it in their order."""
    along = []
    for name, parameter in named_parameters.items():
        if name not in direction:
            raise ValueError(f"direction has no entry for parameter {name!r}")
        step = direction[name]
        if not isinstance(step, Tensor) or step.shape != parameter.shape:
            got = tuple(step.shape) if isinstance(step, Tensor) else type(step).__name__
            want = tuple(parameter.shape)
            raise ValueError(f"direction[{name!r}] is {got}, its parameter has shape {want}")
        if not bool(torch.isfinite(step).all()):
            raise ValueError(f"direction[{name!r}] holds NaN or infinity")
        along.append(step.detach().to(parameter))
    return along


def refuse_what_hides(
    losses: Tensor,
    named_parameters: Mapping[str, Tensor],
    named_modules: Iterable[tuple[str, nn.Module]] = (),
    graph: Sequence[Any] | None = None,
) -> None:
    """Refuse graphs in which one example has no gradient of its own, or parameters are hidden.

    * Batch norm by the statistics of the batch: the loss of one example depends on all others.
      The graph tells, whatever mode the model is in by now; only a compiled graph does not, and
      there the modules have to.
    * An embedding that divides its gradient by how often a row occurs in the whole batch.
    * Reentrant activation checkpointing: the parameters inside are not in the graph at all.
    * A graph that leads to none of the parameters, which then are those of another model.
    """
    modules = list(named_modules)
    graph = nodes(losses) if graph is None else graph
    owners = {id(parameter): name for name, parameter in named_parameters.items()}
    refuse_checkpoints(graph)
    by_batch = [
        name or "the model itself"
        for name, module in modules
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)
    ]
    for node in graph:
        kind = node.name()
        if kind.startswith("CompiledFunction") and by_batch:
            _refuse_batch_norm(by_batch)
        if "BatchNorm" in kind and _uses_the_batch(node):
            named = {name.rpartition(".")[0] for name in _inputs(node, owners)}
            _refuse_batch_norm(sorted(named) or by_batch)
        if "Embedding" in kind and getattr(node, "_saved_scale_grad_by_freq", False):
            where = ", ".join(map(repr, _inputs(node, owners))) or "that is not among those given"
            raise ValueError(
                f"the embedding with parameter {where} has scale_grad_by_freq=True: its gradient "
                "depends on how often a row occurs in the whole batch, so an example has none of "
                "its own. Set scale_grad_by_freq=False before computing the losses"
            )
    if not reached(graph, named_parameters):
        raise ValueError(
            "losses depend on none of the given parameters: they belong to another graph, e.g. to "
            "another copy of the model"
        )


def refuse_checkpoints(graph: Iterable[Any]) -> None:
    """Refuse reentrant activation checkpointing, whose parameters are not in the graph at all."""
    if any(node.name().startswith("CheckpointFunction") for node in graph):
        raise ValueError(
            "activation checkpointing with use_reentrant=True hides the parameters inside from "
            "the graph: use checkpoint(..., use_reentrant=False)"
        )


def _inputs(node: Any, owners: Mapping[int, str]) -> list[str]:
    """Names of the parameters that a node takes as they are."""
    inputs = (id(leaf_of(child)) for child, _ in node.next_functions)
    return [owners[key] for key in inputs if key in owners]


def _uses_the_batch(node: Any) -> bool:
    """Whether a batch-norm node normalised by statistics that several examples share."""
    with explained():
        if not getattr(node, "_saved_training", True):
            return False
    # InstanceNorm is batch norm over one "example" that holds the channels of the whole batch.
    # It repeats its weight, where batch norm takes the parameter itself. (The shape is that of
    # the gradient: reading the saved input could run a checkpointed forward pass again.)
    shape = node._input_metadata[0].shape
    weight = node.next_functions[1][0] if len(node.next_functions) > 1 else None
    return shape[0] != 1 or leaf_of(weight) is not None


def _refuse_batch_norm(layers: list[str]) -> None:
    where = ", ".join(map(repr, layers)) or "(whose parameters are not among those given)"
    raise ValueError(
        f"batch-norm layer {where} normalised by the statistics of the batch, so the gradient of "
        "one example is not defined by that example alone. Call model.eval() before computing the "
        "losses; a layer without running statistics needs a GroupNorm in its place"
    )


def trainable(model: nn.Module) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Refuse a model with nothing to measure; return its parameters, and which are frozen."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, got {type(model).__name__}; the losses come first"
        )
    named = dict(model.named_parameters())
    if not named:
        raise ValueError(f"the model ({type(model).__name__}) has no parameters to measure")
    parameters: dict[str, Tensor] = {name: p for name, p in named.items() if p.requires_grad}
    if not parameters:
        raise ValueError(
            f"all {len(named)} parameters of the model are frozen (requires_grad is False): "
            "unfreeze those that are to be measured, before the losses are computed"
        )
    return parameters, tuple(name for name in named if name not in parameters)
