r"""Gradient coherence: how much do the gradients of different examples agree?

For the per-example gradients :math:`g_1, \dots, g_m` at one point in parameter space, with
:math:`S = \sum_i g_i` and :math:`Q = \sum_i \lVert g_i\rVert^2`,

* ``alpha``, :math:`\lVert S\rVert^2 / (m Q)`, lies in [0, 1]: the loss decrease of one shared
  gradient step, divided by what it would be if every example could take its own step;
* ``m_coherence``, :math:`\lVert S\rVert^2 / Q`, lies in [0, m]: how many examples of the sample,
  itself included, a step along the gradient of one of them helps on average;
* ``alpha_corrected``, :math:`(\lVert S\rVert^2 / Q - 1) / (m - 1)`, leaves out the help that an
  example gives to itself; its numerator is unbiased, so that samples of different sizes can be
  compared.

Definitions: Chatterjee and Zielinski (2022) and Chatterjee and Zielinski (2020), where the second
quantity is called m-coherence. Estimators and intervals are derived in the course.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from gencoh_lib._accumulator import Accumulator
from gencoh_lib._coherence import (
    Block,
    Coherence,
    from_gradients,
    of_examples,
    of_minibatches,
)
from gencoh_lib._evaluation import checked, set_modes
from gencoh_lib.data import Dataset
from gencoh_lib.training import cross_entropy

__all__ = [
    "Accumulator",
    "Block",
    "Coherence",
    "Probe",
    "from_gradients",
    "measure",
    "of_examples",
    "of_minibatches",
]

for _object in (Accumulator, Block, Coherence, from_gradients, of_examples, of_minibatches):
    _object.__module__ = __name__  # their public name, in tracebacks and in the API reference


def measure(
    losses: Tensor,
    model: nn.Module,
    *,
    interval: bool = True,
    confidence: float = 0.95,
    accumulate_grad: bool = False,
    retain_graph: bool = True,
) -> Coherence:
    r"""Coherence of a model's per-example gradients on one batch.

    Parameters
    ----------
    losses : Tensor
        [m] loss of each example, with its graph:
        ``F.cross_entropy(model(x), y, reduction="none")``.
    model : Module
        The model behind the losses; its parameters that require a gradient are measured.
    interval : bool
        Whether to compute the jackknife interval, which costs about three backward passes more.
    confidence : float
        Nominal coverage of the jackknife interval, strictly between 0 and 1.
    accumulate_grad : bool
        Whether to add the gradient of the mean loss to each ``.grad``, so that the measurement
        is also the backward pass of a training step.
    retain_graph : bool
        Whether the graph is kept, so that ``losses.mean().backward()`` may follow. Without it,
        and without the interval, the measurement takes no more memory than a training step.

    Returns
    -------
    Coherence

    Raises
    ------
    TypeError, ValueError
        If the model has no parameters or only frozen ones; if ``losses`` is not a finite vector
        with a graph that reaches the model; if batch norm normalised by the batch, reentrant
        checkpointing hides parameters, or a gradient is not finite.

    Notes
    -----
    .. math:: \alpha = \frac{\lVert \sum_i g_i \rVert^2}{m \sum_i \lVert g_i \rVert^2}

    Chatterjee and Zielinski (2022). The model's ``.grad`` (unless asked for), modes and buffers
    stay as they are.

    Examples
    --------
    >>> model = nn.Linear(2, 1, bias=False)
    >>> result = measure(model(torch.eye(2)).squeeze(1), model)  # two orthogonal gradients
    >>> result.m_coherence
    1.0
    """
    accumulator = Accumulator(model, confidence=confidence)
    accumulator.update(losses, retain_graph=retain_graph or interval)
    if interval:
        accumulator.revisit(losses)
    if accumulate_grad:
        accumulator.add_mean_gradient()
    return accumulator.result()


@dataclass(frozen=True)
class Probe:
    """A probe for :func:`gencoh_lib.training.train` that measures coherence on a fixed sample.

    Parameters
    ----------
    dataset : Dataset
        The sample; the same one at every call, so that the curve is that of one function.
    loss : callable
        (outputs, targets) to the [b] losses of the examples.
    batch_size : int
        Examples measured at a time; the result does not depend on it, the time does.
    interval : bool
        Whether to make the second sweep that the jackknife interval needs.
    confidence : float
        Nominal coverage of that interval.

    Examples
    --------
    >>> from gencoh_lib import data, models
    >>> from gencoh_lib.training import half_squared_error
    >>> probe = Probe(data.coherence_toy(1.0).train, half_squared_error)
    >>> round(probe(models.mlp([6, 1], bias=False, initialisation="zeros", seed=0)).m_coherence, 6)
    2.5
    """

    dataset: Dataset
    loss: Callable[[Tensor, Tensor], Tensor] = field(default=cross_entropy, repr=False)
    batch_size: int = 32
    interval: bool = False
    confidence: float = 0.95

    def __call__(self, model: nn.Module) -> Coherence:
        """Measure ``model`` in eval mode; it comes back in the modes in which it was."""
        accumulator = Accumulator(model, confidence=self.confidence)
        modes = [(module, module.training) for module in model.modules()]
        try:
            model.eval()
            for losses in self._losses(model):
                accumulator.update(losses)
            for losses in self._losses(model) if self.interval else ():
                accumulator.revisit(losses)
        finally:
            set_modes(modes)
        return accumulator.result()

    def _losses(self, model: nn.Module) -> Iterator[Tensor]:
        device = next(model.parameters()).device
        size = self.batch_size
        with torch.enable_grad():
            for x, y in zip(self.dataset.x.split(size), self.dataset.y.split(size), strict=True):
                targets = y.to(device)
                yield checked(self.loss(model(x.to(device)), targets), len(targets))


if __name__ == "__main__":
    # The command imports this module under its own name: the classes of the copy that runs as
    # __main__ would be others than those that a user's code imports, so they are never used.
    from gencoh_lib._command import main

    raise SystemExit(main())
