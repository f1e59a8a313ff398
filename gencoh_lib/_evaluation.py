"""Losses of single examples and evaluations, behind :mod:`gencoh_lib.training`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gencoh_lib._whole import whole
from gencoh_lib.data import Dataset

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each example, in nats: log-sum-exp of its outputs minus that of its class.

    Parameters
    ----------
    outputs : Tensor
        Logits, shape [m, classes].
    targets : Tensor
        Classes, shape [m], ``int64``.

    Returns
    -------
    Tensor
        Losses, shape [m], not averaged.

    Raises
    ------
    ValueError
        If the shapes are not those.

    Examples
    --------
    >>> from gencoh_lib.training import cross_entropy
    >>> cross_entropy(torch.zeros(2, 10), torch.tensor([3, 7]))
    tensor([2.3026, 2.3026])
    """
    if outputs.ndim != 2 or targets.shape != outputs.shape[:1]:
        raise ValueError(
            "cross_entropy needs outputs [m, classes] and targets [m], got "
            f"{tuple(outputs.shape)} and {tuple(targets.shape)}"
        )
    return F.cross_entropy(outputs, targets, reduction="none")


def half_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Half the squared error of each example, ½ (target - output)².

    Parameters
    ----------
    outputs : Tensor
        Predictions, shape [m] or [m, 1].
    targets : Tensor
        Real targets, shape [m].

    Returns
    -------
    Tensor
        Losses, shape [m], not averaged.

    Raises
    ------
    ValueError
        If the shapes are not those; they are never broadcast against each other.

    Examples
    --------
    >>> from gencoh_lib.training import half_squared_error
    >>> half_squared_error(torch.tensor([[0.0], [3.0]]), torch.tensor([1.0, 1.0]))
    tensor([0.5000, 2.0000])
    """
    flat = outputs.squeeze(1) if outputs.ndim == 2 and outputs.shape[1] == 1 else outputs
    if flat.ndim != 1 or flat.shape != targets.shape:
        raise ValueError(
            "half_squared_error needs outputs [m] or [m, 1] and targets [m], got "
            f"{tuple(outputs.shape)} and {tuple(targets.shape)}"
        )
    return (targets - flat).square() / 2


@dataclass(frozen=True)
class Evaluation:
    """How well a model does on a data set.

    Attributes
    ----------
    loss : float
        Mean loss over the examples.
    accuracy : float
        Share of examples whose largest output is their class; NaN for a regression.
    examples : int
        Number of examples.

    Examples
    --------
    >>> from gencoh_lib.training import Evaluation
    >>> print(Evaluation(loss=0.25, accuracy=0.9, examples=10))
    Evaluation on 10 examples
      loss      0.25
      accuracy  0.9
    """

    loss: float
    accuracy: float
    examples: int

    def __repr__(self) -> str:
        """Return a small table."""
        table = f"Evaluation on {self.examples} examples\n  loss      {self.loss:.4g}"
        if not math.isnan(self.accuracy):
            table += f"\n  accuracy  {self.accuracy:.4g}"
        return table


def evaluate(
    model: nn.Module, dataset: Dataset, *, loss: Loss = cross_entropy, batch_size: int = 4096
) -> Evaluation:
    """Measure mean loss and accuracy, with the model in eval mode.

    Parameters
    ----------
    model : torch.nn.Module
        Maps inputs [b, d] to outputs; it comes back in the modes in which it was.
    dataset : Dataset
        The examples.
    loss : callable
        Maps outputs and targets to the losses of the examples, shape [b].
    batch_size : int
        Examples that go through the model at a time, to bound the memory.

    Returns
    -------
    Evaluation
        Mean loss, accuracy and the number of examples.

    Raises
    ------
    TypeError
        If `batch_size` is not a whole number.
    ValueError
        If `batch_size` is not positive, or `loss` does not return one number an example.

    Examples
    --------
    >>> from gencoh_lib import data, models
    >>> from gencoh_lib.training import evaluate
    >>> untrained = models.mlp([64, 10], initialisation="zeros", seed=0)
    >>> round(evaluate(untrained, data.load("digits")).loss, 4)  # the logarithm of 10
    2.3026
    """
    if whole("batch_size", batch_size) < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    modes = [(module, module.training) for module in model.modules()]
    device = next(model.parameters(), torch.empty(0)).device
    total, right = 0.0, 0
    try:
        model.eval()
        with torch.no_grad():
            for x, y in zip(dataset.x.split(batch_size), dataset.y.split(batch_size), strict=True):
                targets = y.to(device)
                outputs = outputs_of(model, x.to(device))
                total += float(checked(loss(outputs, targets), len(y)).double().sum())
                if dataset.classes:
                    right += int((outputs.argmax(1) == targets).sum())
    finally:
        set_modes(modes)
    m = len(dataset)
    return Evaluation(total / m, right / m if dataset.classes else math.nan, m)


@dataclass(frozen=True)
class Evaluate:
    """A probe for :func:`train`: calls :func:`evaluate` on one data set.

    Attributes
    ----------
    dataset : Dataset
        The examples.
    loss : callable
        As for :func:`evaluate`.

    Examples
    --------
    >>> from gencoh_lib import data, models
    >>> from gencoh_lib.training import Evaluate, half_squared_error
    >>> probe = Evaluate(data.coherence_toy().test, half_squared_error)
    >>> probe(models.mlp([6, 1], initialisation="zeros", seed=0)).loss
    0.5
    """

    dataset: Dataset
    loss: Loss = field(default=cross_entropy, repr=False)

    def __call__(self, model: nn.Module) -> Evaluation:
        """Evaluate `model`."""
        return evaluate(model, self.dataset, loss=self.loss)


def outputs_of(model: nn.Module, x: Tensor) -> Tensor:
    """Call the model; where that fails and types differ, say so, for PyTorch hardly does."""
    try:
        outputs: Tensor = model(x)
    except RuntimeError as error:
        others = {str(parameter.dtype) for parameter in model.parameters()} - {str(x.dtype)}
        if others:
            error.add_note(
                f"the inputs are {x.dtype}, but the model has parameters of {', '.join(others)}; "
                f"model.to({x.dtype}) may do, or dtype={x.dtype} where it is built"
            )
        raise
    return outputs


def set_modes(modes: Iterable[tuple[nn.Module, bool]]) -> None:
    """Put modules back into the train and eval modes they were in."""
    for module, training in modes:
        module.training = training


def checked(losses: Tensor, examples: int) -> Tensor:
    """Return the losses if there is one for each example."""
    if losses.shape != (examples,):
        raise ValueError(
            f"loss must return one number an example, shape [{examples}], got "
            f"{tuple(losses.shape)}; with the losses of PyTorch pass reduction='none'"
        )
    return losses
