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

from gencoh_lib import per_example
from gencoh_lib._coherence import (
    Block,
    Coherence,
    check_confidence,
    from_gradients,
    of_examples,
    of_minibatches,
    summarise,
)
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

for _object in (Block, Coherence, from_gradients, of_examples, of_minibatches):
    _object.__module__ = __name__  # their public name, in tracebacks and in the API reference


def measure(losses: Tensor, model: nn.Module, *, confidence: float = 0.95) -> Coherence:
    r"""Coherence of a model's per-example gradients on one batch.

    Parameters
    ----------
    losses : Tensor
        [m] loss of each example, with its graph:
        ``F.cross_entropy(model(x), y, reduction="none")``. The graph is kept, so that
        ``losses.mean().backward()`` may follow.
    model : Module
        The model behind the losses; its parameters that require a gradient are measured.
    confidence : float
        Coverage of the jackknife interval, strictly between 0 and 1.

    Returns
    -------
    Coherence

    Raises
    ------
    TypeError, ValueError
        If the model has no parameters or only frozen ones; if ``losses`` is not a finite vector
        with a graph that reaches the model; if batch norm normalised by the batch.

    Notes
    -----
    .. math:: \alpha = \frac{\lVert \sum_i g_i \rVert^2}{m \sum_i \lVert g_i \rVert^2}

    Chatterjee and Zielinski (2022). The model's ``.grad``, mode and hooks stay as they are.

    Examples
    --------
    >>> model = nn.Linear(2, 1, bias=False)
    >>> result = measure(model(torch.eye(2)).squeeze(1), model)  # two orthogonal gradients
    >>> result.m_coherence
    1.0
    """
    accumulator = Accumulator(model, confidence=confidence)
    accumulator.update(losses)
    accumulator.revisit(losses)
    return accumulator.result()


class Accumulator:
    """Coherence over a stream of batches, in the memory of one gradient.

    Feed the losses of each batch to :meth:`update` and ask for :meth:`result`. For the jackknife
    interval, which needs the sum of *all* gradients first, go through the same batches once more
    with :meth:`revisit`.

    Parameters
    ----------
    model : Module
        Its parameters must stay as they are until the last batch.
    confidence : float
        Coverage of the jackknife interval.

    Examples
    --------
    >>> model = nn.Linear(2, 1, bias=False)
    >>> accumulator = Accumulator(model)
    >>> for row in torch.eye(2).split(1):
    ...     accumulator.update(model(row).squeeze(1))
    >>> accumulator.result().m_coherence
    1.0
    """

    def __init__(self, model: nn.Module, *, confidence: float = 0.95) -> None:
        check_confidence(confidence)
        named = dict(model.named_parameters())
        if not named:
            raise ValueError(f"the model ({type(model).__name__}) has no parameters to measure")
        self._parameters = {name: p for name, p in named.items() if p.requires_grad}
        if not self._parameters:
            raise ValueError(
                f"all {len(named)} parameters of the model are frozen (requires_grad is False): "
                "unfreeze those that are to be measured, before the losses are computed"
            )
        self._frozen = tuple(name for name in named if name not in self._parameters)
        self._modules = list(model.named_modules())
        self._confidence = confidence
        self._versions = self._current_versions()
        self._sums: dict[str, Tensor] = {}
        self._squares: dict[str, list[Tensor]] = {name: [] for name in self._parameters}
        self._inner: list[Tensor] = []

    def update(self, losses: Tensor) -> None:
        """Add one batch's [b] losses; raises as :func:`measure`, and then adds nothing."""
        self._check_unchanged()
        if self._inner:
            raise ValueError("update() after revisit(): all batches must be added first")
        self._check(losses)
        squares = per_example.squared_norms(losses, self._parameters)
        for name, gradient in per_example.summed_gradient(losses, self._parameters).items():
            wide = gradient.to(squares[name].dtype)
            self._sums[name] = self._sums[name] + wide if name in self._sums else wide
            self._squares[name].append(squares[name])

    def revisit(self, losses: Tensor) -> None:
        """Go through the batches again, in the same order, for the jackknife interval."""
        self._check_unchanged()
        sizes = [len(chunk) for chunk in next(iter(self._squares.values()))]
        visit = len(self._inner)
        self._check(losses)
        if visit >= len(sizes) or len(losses) != sizes[visit]:
            expected = f"{sizes[visit]} examples" if visit < len(sizes) else "no further batch"
            raise ValueError(
                f"revisit() number {visit + 1} got {len(losses)} examples, expected {expected}: "
                "the second sweep must go through the batches of the first, in the same order"
            )
        inner = per_example.directional_derivatives(losses, self._parameters, self._sums)
        self._inner.append(inner.detach().to(next(iter(self._sums.values())).dtype))

    def result(self) -> Coherence:
        """The coherence of everything added so far."""
        if not self._sums:
            raise ValueError("no batch has been added yet: call update(losses) first")
        squares = {name: torch.cat(chunks) for name, chunks in self._squares.items()}
        inner = torch.cat(self._inner) if self._inner else None
        if inner is not None and len(inner) != len(next(iter(squares.values()))):
            raise ValueError("the second sweep is not complete: revisit() the remaining batches")
        return summarise(self._sums, squares, inner, self._confidence, self._frozen)

    def _check(self, losses: Tensor) -> None:
        per_example.check_losses(losses)
        per_example.refuse_batch_statistics(losses, self._parameters, self._modules)

    def _current_versions(self) -> list[int]:
        return [parameter._version for parameter in self._parameters.values()]

    def _check_unchanged(self) -> None:
        if self._current_versions() != self._versions:
            raise ValueError(
                "the model's parameters changed between batches: coherence is a function of one "
                "point in parameter space. Start a new Accumulator after each optimiser step"
            )


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
    """

    dataset: Dataset
    loss: Callable[[Tensor, Tensor], Tensor] = field(default=cross_entropy, repr=False)
    batch_size: int = 32
    interval: bool = False

    def __call__(self, model: nn.Module) -> Coherence:
        """Measure ``model``, which should be in eval mode."""
        accumulator = Accumulator(model)
        for losses in self._losses(model):
            accumulator.update(losses)
        for losses in self._losses(model) if self.interval else ():
            accumulator.revisit(losses)
        return accumulator.result()

    def _losses(self, model: nn.Module) -> Iterator[Tensor]:
        batches = zip(
            self.dataset.x.split(self.batch_size),
            self.dataset.y.split(self.batch_size),
            strict=True,
        )
        with torch.enable_grad():
            for x, y in batches:
                yield self.loss(model(x), y)
