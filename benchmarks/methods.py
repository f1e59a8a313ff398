"""The ways to get every ||g_i||^2 of a batch, and ||mean g||^2 with them, behind one interface.

A method takes a :class:`~benchmarks.models.Problem`, prepares what it needs once, and returns a
function of no arguments that does the work of one training step. From what that returns,
coherence is ``mean_square / squares.mean()``. Each rival is used as its documentation says, and
gets the fastest accurate sum of squares there is for the gradients that it hands out.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.models import Problem, widened
from gencoh_lib._moments import moments

__all__ = ["METHODS", "Absent", "Found", "Method", "Run", "reference"]


class Found(NamedTuple):
    """What a run gives; None where the method does not measure it."""

    squares: Tensor | None  # [m]: ||g_i||^2
    mean_square: Tensor | None  # []: ||mean g||^2
    left_out: int = 0  # parameters that the method has no rule for, missing from `squares`


Run = Callable[[], Found]
Method = Callable[[Problem], Run]


class Absent(Exception):
    """A rival that is not installed."""


def rival(module: str) -> Any:
    """Import a rival's module, only now that it is asked for."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        raise Absent(f"{missing.name} is not installed") from missing


def row_squares(rows: Tensor) -> Tensor:
    """[m, ...] to [m] sums of squares.

    ``vector_norm`` makes no copy and is ten times faster than ``(r * r).sum(1)``, but adds up
    naively; over blocks of 1024 it is as fast, and right to 1e-7.
    """
    rows = widened(rows).flatten(1)
    whole = rows.shape[1] // 1024 * 1024
    blocks = rows[:, :whole].unflatten(1, (-1, 1024))
    squares: Tensor = torch.linalg.vector_norm(blocks, dim=2).square().sum(1)
    rest: Tensor = torch.linalg.vector_norm(rows[:, whole:], dim=1).square()
    return squares + rest


def squared_length(tensors: Iterable[Tensor | None]) -> Tensor:
    """Squared length of many tensors taken as one vector; None counts as zeros."""
    parts = [row_squares(t.detach().flatten()[None]) for t in tensors if t is not None]
    return torch.cat(parts).sum()


def gradient_square(model: nn.Module) -> Tensor:
    """||mean g||^2 from what a backward pass of the mean loss left in ``.grad``."""
    return squared_length(parameter.grad for parameter in model.parameters())


def plain(problem: Problem) -> Run:
    """Forward and backward of the mean loss: what all others are divided by."""

    def run() -> Found:
        _step(problem.model, problem)
        return Found(None, None)

    return run


def plain_and_length(problem: Problem) -> Run:
    """A plain step that also measures its gradient: the least that coherence can cost."""

    def run() -> Found:
        _step(problem.model, problem)
        return Found(None, gradient_square(problem.model))

    return run


def ours(problem: Problem) -> Run:
    """gencoh_lib: one walk over the autograd graph of the losses."""
    named = dict(problem.model.named_parameters())

    def run() -> Found:
        found = moments(problem.losses(), named, retain_graph=False)
        squares = torch.stack(list(found.squares.values())).sum(0)
        return Found(squares, squared_length(found.sums.values()) / len(squares) ** 2)

    return run


def loop(problem: Problem) -> Run:
    """One example after the other."""
    parameters = list(problem.model.parameters())

    def run() -> Found:
        squares, totals = [], [torch.zeros_like(p) for p in parameters]
        for i in range(len(problem.x)):
            gradients = torch.autograd.grad(problem.losses(i, i + 1).sum(), parameters)
            squares.append(squared_length(gradients))
            for total, gradient in zip(totals, gradients, strict=True):
                total += gradient
        return Found(torch.stack(squares), squared_length(totals) / len(squares) ** 2)

    return run


def vmap(problem: Problem) -> Run:
    """``torch.func``: the gradient of one example, vectorised over the batch."""
    parameters = {name: p.detach() for name, p in problem.model.named_parameters()}

    def loss(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        outputs = torch.func.functional_call(problem.model, values, (x[None],))
        return F.cross_entropy(widened(outputs), y[None])

    gradients = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))

    def run() -> Found:
        rows = gradients(parameters, problem.x, problem.y).values()
        squares = torch.stack([row_squares(row) for row in rows]).sum(0)
        return Found(squares, squared_length(row.mean(0) for row in rows))

    return run


def backpack(problem: Problem) -> Run:
    """BackPACK's BatchL2Grad; layers that it has no rule for are left out, and that is said."""
    library = rival("backpack")
    extension = rival("backpack.extensions").BatchL2Grad
    model, loss = library.extend(problem.model), library.extend(nn.CrossEntropyLoss())
    parameters = list(model.parameters())

    def run() -> Found:
        model.zero_grad(set_to_none=True)
        with library.backpack(extension()):
            loss(widened(model(problem.x)), problem.y).backward()
        norms = [p.batch_l2 for p in parameters if hasattr(p, "batch_l2")]
        squares = torch.stack(norms).sum(0) * len(problem.x) ** 2  # of losses[i] / m before
        return Found(squares, gradient_square(model), len(parameters) - len(norms))

    return run


def opacus_ghost(problem: Problem) -> Run:
    """Opacus' ghost clipping: norms without the gradients."""
    wrapper = rival("opacus.grad_sample").GradSampleModuleFastGradientClipping
    model = wrapper(problem.model)

    def run() -> Found:
        _step(model, problem)
        return Found(model.get_norm_sample().square(), gradient_square(model))

    return run


def opacus_grad_sample(problem: Problem) -> Run:
    """Opacus' GradSampleModule: every gradient, kept until it is squared."""
    model = rival("opacus.grad_sample").GradSampleModule(problem.model)
    parameters = list(model.parameters())

    def run() -> Found:
        _step(model, problem)
        squares = torch.stack([row_squares(p.grad_sample) for p in parameters]).sum(0)
        for parameter in parameters:
            parameter.grad_sample = None
        return Found(squares, gradient_square(model))

    return run


def _step(model: nn.Module, problem: Problem) -> None:
    """Fill ``.grad`` of the model, or of a rival's wrapper of it, from the mean loss."""
    model.zero_grad(set_to_none=True)
    F.cross_entropy(widened(model(problem.x)), problem.y).backward()


def reference(problem: Problem) -> Found:
    """The truth: a loop over the examples in float64. Uses up the problem's model."""
    return loop(problem.double())()


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "plain": plain,
        "plain+length": plain_and_length,
        "ours": ours,
        "loop": loop,
        "vmap": vmap,
        "BackPACK": backpack,
        "Opacus-ghost": opacus_ghost,
        "Opacus-grad-sample": opacus_grad_sample,
    }
)
