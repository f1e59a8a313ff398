"""Train small networks reproducibly, and look at them on the way.

:func:`train` is a plain loop.  Probes, functions of the model, are called on a schedule, and what
they return comes back as a :class:`History`.  On one machine and build of PyTorch two runs with
the same arguments are bit-equal, whatever the probes measure or draw, as long as they leave the
parameters and buffers of the model alone; across processors they agree to about three digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn

from gencoh_lib._evaluation import (
    Evaluate,
    Evaluation,
    Loss,
    checked,
    cross_entropy,
    evaluate,
    half_squared_error,
    outputs_of,
    set_modes,
)
from gencoh_lib._history import History
from gencoh_lib._whole import whole, wholes
from gencoh_lib.data import Dataset
from gencoh_lib.front_end import progress

__all__ = [
    "Evaluate",
    "Evaluation",
    "History",
    "cross_entropy",
    "evaluate",
    "half_squared_error",
    "log_steps",
    "train",
]

for _class in (Evaluate, Evaluation, History):
    _class.__module__ = __name__  # their public name, in tracebacks and in the API reference

Probe = Callable[[nn.Module], object]


def log_steps(steps: int, points: int) -> tuple[int, ...]:
    """Choose about `points` steps, logarithmically spaced, from 0 to `steps`.

    Parameters
    ----------
    steps : int
        Last step, at least 0.
    points : int
        How many to choose, at least 2; fewer come back where rounding makes two the same.

    Returns
    -------
    tuple of int
        Increasing steps, with 0 and `steps` among them.

    Raises
    ------
    TypeError
        If `steps` or `points` is not a whole number.
    ValueError
        If `steps` is negative or `points` is less than 2.

    Examples
    --------
    >>> log_steps(1000, 5)
    (0, 1, 10, 100, 1000)
    """
    steps, points = whole("steps", steps), whole("points", points)
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}")
    if points < 2:
        raise ValueError(f"points must be at least 2, got {points}: 0 and the last step")
    if steps == 0:
        return (0,)
    spaced = np.geomspace(1, steps, points - 1).round().astype(int).tolist()
    return tuple(sorted({0, *spaced, steps}))


def train(
    model: nn.Module,
    dataset: Dataset,
    *,
    steps: int,
    learning_rate: float | Callable[[int], float],
    batch_size: int | None = None,
    loss: Loss = cross_entropy,
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer] | None = None,
    probes: Mapping[str, Probe] | None = None,
    at: Iterable[int] | None = None,
    threads: int = 1,
    seed: int = 0,
    description: str = "training",
) -> History:
    """Minimise the mean loss over a data set by (stochastic) gradient descent.

    Everything but the parameters and buffers comes back as it was, also when an exception or a
    keyboard interrupt ends the run: number of threads, random state, train and eval modes, and
    ``.grad``.

    Parameters
    ----------
    model : torch.nn.Module
        Maps inputs [b, d] to outputs; trained in place, in train mode.  Parameters that do not
        require a gradient stay as they are.
    dataset : Dataset
        Training examples.
    steps : int
        Number of updates.
    learning_rate : float or callable
        Step size, finite and at least 0, or a function from the step, counted from 0, to it.
    batch_size : int, optional
        Examples a step, drawn without replacement until the data set is used up; the last batch
        of an epoch may be smaller.  By default every step sees all examples.
    loss : callable
        Maps outputs and targets to the losses of the examples, shape [b].
    optimizer : callable, optional
        Makes an optimizer from the list of parameters, such as ``torch.optim.Adam``; its own
        learning rate gives way to `learning_rate`.  By default plain SGD.  One with a method
        ``backward``, such as :class:`gencoh_lib.aggregation.Winsorized`, is handed the losses of
        the batch, shape [b], to fill ``.grad`` from, in place of the gradient of their mean.
    probes : mapping of str to callable, optional
        Functions of the model, called in eval mode with gradients enabled.  They should return
        numbers or copies, not the live parameters.  After each of them modes, gradient mode,
        number of threads and random state are put back, and what it leaves in ``.grad`` is not
        used.  Parameters, their ``requires_grad`` and buffers it must leave as they are.  By
        default ``{"train": Evaluate(dataset, loss)}``.
    at : iterable of int, optional
        Steps before whose update the probes are called, from 0 to `steps`; they are always
        called after the last update as well, as step `steps`.  By default ``log_steps(steps, 20)``.
    threads : int
        Threads of PyTorch during the run.  For small networks one is fastest, and the digits of
        a run depend on it.
    seed : int
        Seed of the batches, and of whatever the model draws, such as dropout.
    description : str
        Name for the progress bar and the history.

    Returns
    -------
    History
        What the probes returned.

    Raises
    ------
    FloatingPointError
        If the loss of a step, a parameter, or the loss in an :class:`Evaluation` that a probe
        returns becomes NaN or infinite; the message names the step.
    TypeError
        If `steps`, `batch_size`, `at`, `threads` or `seed` are not whole numbers.
    ValueError
        If an argument is out of range, no parameter requires a gradient, or `loss` does not
        return one number an example.

    Examples
    --------
    >>> from gencoh_lib import data, models
    >>> toy = data.coherence_toy(1.0)
    >>> line = models.mlp([6, 1], bias=False, initialisation="zeros", seed=0)
    >>> history = train(line, toy.train, steps=10, learning_rate=0.1, loss=half_squared_error)
    >>> float(round(history.series("train.loss")[-1], 6)), round(toy.train_loss(0.1, 10), 6)
    (0.034604, 0.034604)
    """
    steps, threads, seed = whole("steps", steps), whole("threads", threads), whole("seed", seed)
    probes = {"train": Evaluate(dataset, loss)} if probes is None else dict(probes)
    parameters = [p for p in model.parameters() if p.requires_grad]
    _check_arguments(parameters, dataset, steps, batch_size, probes, threads)
    when = {*(log_steps(steps, 20) if at is None else wholes("at", at)), steps}
    outside = sorted(step for step in when if not 0 <= step <= steps)
    if outside:
        raise ValueError(f"at must lie between 0 and steps = {steps}, got {outside}")

    def rate(step: int) -> float:
        value = learning_rate(step) if callable(learning_rate) else learning_rate
        if not 0 <= value < math.inf:  # NaN is not either
            raise ValueError(
                f"learning_rate must be finite and at least 0, got {value} at step {step}"
            )
        return value

    if not callable(learning_rate):
        rate(0)  # refused before anything has happened

    x, y = dataset.x.to(parameters[0].device), dataset.y.to(parameters[0].device)
    records: dict[str, list[object]] = {name: [] for name in probes}
    with _everything_restored(model, threads=threads, seed=seed) as devices:

        def diverged(what: str, step: int) -> FloatingPointError:
            return FloatingPointError(_diverged(what, step, rate(max(step - 1, 0))))

        def call_probes(step: int) -> None:
            if not all(bool(p.isfinite().all()) for p in parameters):
                raise diverged("a parameter is not finite", step)
            for name, probe in probes.items():
                model.eval()
                try:
                    with torch.random.fork_rng(devices), torch.enable_grad():
                        found = probe(model)
                except Exception as error:
                    error.add_note(f"in the probe {name!r}, at step {step} of {description}")
                    # The loop looks at the loss only after the probes, so divergence that has
                    # made this one fail is not known yet.
                    if step and not math.isfinite(evaluate(model, dataset, loss=loss).loss):
                        raise diverged("the loss is not finite", step) from error
                    raise
                if isinstance(found, Evaluation) and not math.isfinite(found.loss):
                    raise diverged(f"the loss of the probe {name!r} is {found.loss}", step)
                records[name].append(found)
                torch.set_num_threads(threads)
            model.train()

        updates = (optimizer or torch.optim.SGD)(parameters)
        batches = _batches(len(dataset), batch_size, seed)
        model.train()
        for step in progress(range(steps), total=steps, description=description):
            if step in when:
                call_probes(step)
            batch = next(batches)
            targets = y[batch]
            losses = checked(loss(outputs_of(model, x[batch]), targets), len(targets))
            mean = losses.mean()
            if not math.isfinite(mean.item()):
                raise diverged(f"the loss is {mean.item()}", step)
            updates.zero_grad()
            if hasattr(updates, "backward"):
                updates.backward(losses)
            else:
                mean.backward()
            for group in updates.param_groups:
                group["lr"] = rate(step)
            updates.step()
        call_probes(steps)
    return History(
        tuple(sorted(when)),
        MappingProxyType({name: tuple(values) for name, values in records.items()}),
        description,
    )


def _check_arguments(
    parameters: list[nn.Parameter],
    dataset: Dataset,
    steps: int,
    batch_size: int | None,
    probes: Mapping[str, Probe],
    threads: int,
) -> None:
    """Refuse before anything has happened what could only fail later, or mean nothing."""
    if not parameters:
        raise ValueError(
            "no parameter of the model requires a gradient, so there is nothing to train; call "
            "model.requires_grad_(True) or train another model"
        )
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}")
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    if batch_size is not None and not 1 <= whole("batch_size", batch_size) <= len(dataset):
        raise ValueError(
            f"batch_size must lie between 1 and the {len(dataset)} examples of "
            f"{dataset.name!r}, got {batch_size}; None takes all of them at every step"
        )
    dotted = [name for name in probes if not name or "." in name]
    if dotted:
        raise ValueError(
            f"the name of a probe must not be empty or hold a dot, which divides paths in "
            f"History.series; got {dotted}"
        )


@contextmanager
def _everything_restored(model: nn.Module, *, threads: int, seed: int) -> Iterator[list[int]]:
    """Set threads, seed and gradients for a run and put everything back; yield the CUDA devices."""
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    threads_before = torch.get_num_threads()
    devices = sorted({p.device.index for p in model.parameters() if p.is_cuda})
    try:
        torch.set_num_threads(threads)
        for parameter, _ in gradients:
            parameter.grad = None
        with torch.random.fork_rng(devices), torch.enable_grad():
            # Not torch.manual_seed, which would also seed devices that are not put back.
            torch.default_generator.manual_seed(seed)
            for device in devices:
                torch.cuda.default_generators[device].manual_seed(seed)
            yield devices
    finally:
        torch.set_num_threads(threads_before)
        set_modes(modes)
        for parameter, gradient in gradients:
            parameter.grad = gradient


def _batches(examples: int, batch_size: int | None, seed: int) -> Iterator[Tensor | slice]:
    """Yield positions for ever: everything, or shuffled epochs without replacement."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        if batch_size is None:
            yield slice(None)
        else:
            yield from torch.randperm(examples, generator=generator).split(batch_size)


def _diverged(what: str, step: int, rate: float) -> str:
    return (
        f"{what} at step {step}: training has diverged. Try a learning rate below {rate:g}, and "
        "look for NaN in the data. The model is left as it is at that step; build it anew"
    )
