"""Winsorized gradient descent, behind :mod:`gencoh_lib.aggregation`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, optim

from gencoh_lib import per_example
from gencoh_lib._graph import check_losses, nodes, reached
from gencoh_lib._robust import check_level, replaced, winsorized_mean
from gencoh_lib._vectors import BYTE_BUDGET
from gencoh_lib._whole import whole
from gencoh_lib._wrapped import Wrapped

__all__ = ["Winsorized"]


class Winsorized(Wrapped):
    r"""Winsorized gradient descent: the most extreme gradients of every coordinate are pulled in.

    The median's milder relative, and a finer one, since it looks at single examples. It cannot see
    them in the gradient of the mean loss, so :meth:`backward` takes the place of
    ``losses.mean().backward()``::

        optimizer = Winsorized(torch.optim.SGD(model.parameters(), lr=0.1), level=4)
        losses = F.cross_entropy(model(x), y, reduction="none")  # one an example
        optimizer.zero_grad()
        optimizer.backward(losses)
        optimizer.step()

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Makes the step; without momentum.
    level : float
        c, percent of the gradients that are replaced on each side, from 0 (the mean) to 50 (the
        median over examples); see :func:`~gencoh_lib.aggregation.winsorize`.
    byte_budget : int
        Bytes that the gradients of all examples may take at a time. Parameters are taken together
        as far as they fit, with one sweep of per-example gradients for each lot; a single
        parameter is never divided.

    Raises
    ------
    TypeError
        If ``optimizer`` is no optimizer or one of this module, a parameter is complex, or
        ``byte_budget`` is no whole number.
    ValueError
        If it has momentum (as for :class:`~gencoh_lib.aggregation.M3`) or is LBFGS or SparseAdam,
        ``level`` is not between 0 and 50, or ``byte_budget`` is not positive.

    Notes
    -----
    .. math:: w_j \leftarrow w_j - \frac{\eta}{b} \sum_{i=1}^{b}
        \min\bigl(\max(g_{i,j},\, l_j),\, u_j\bigr)

    for plain SGD, where :math:`l_j` and :math:`u_j` are the c-th and the (100 - c)-th percentile
    of the j-th entries of the b gradients. Chatterjee (2020). Weight decay is left to the
    optimizer: adding the same vector to all gradients commutes with winsorizing.

    Examples
    --------
    >>> import torch
    >>> from gencoh_lib.aggregation import Winsorized
    >>> w = torch.zeros(1, requires_grad=True)
    >>> optimizer = Winsorized(torch.optim.SGD([w], lr=1.0), level=20)
    >>> optimizer.backward(torch.tensor([-5.0, 0.0, 1.0, 2.0, 100.0]) * w)
    >>> optimizer.step()
    >>> w.item()  # minus the mean of 0, 0, 1, 2, 2
    -1.0
    """

    def __init__(
        self, optimizer: optim.Optimizer, level: float, *, byte_budget: int = BYTE_BUDGET
    ) -> None:
        level = check_level(level)
        if whole("byte_budget", byte_budget) < 1:
            raise ValueError(f"byte_budget must be at least 1, got {byte_budget}")
        super().__init__(optimizer)
        self.level, self.byte_budget = level, byte_budget
        self._ready = False

    def backward(self, losses: Tensor) -> None:
        """Add the winsorized mean of the examples' gradients to ``.grad``.

        Parameters
        ----------
        losses : Tensor
            [b] the loss of each example, with its graph, which is kept.

        Raises
        ------
        TypeError, ValueError
            As :func:`gencoh_lib.per_example.gradients`; ``.grad`` is as before then.

        Warns
        -----
        UserWarning
            If the batch is so small that the level replaces no value at all.
        """
        check_losses(losses)
        b = len(losses)
        if self.level and not replaced(b, self.level):
            warnings.warn(
                f"level {self.level:g} % replaces no value among {b} examples, so this is the "
                f"plain mean: it takes {math.floor(50 / self.level) + 2} examples or more",
                stacklevel=2,
            )
        named = {label: p for label, p in self._labelled() if p.requires_grad}
        used = reached(nodes(losses), named)
        means: dict[str, Tensor] = {}
        for lot in self._lots({n: p for n, p in named.items() if n in used} or named, b):
            rows = {n: p.new_empty((b, *p.shape), requires_grad=False) for n, p in lot.items()}
            first = 0
            for part in per_example.gradients(losses, lot):
                size = len(next(iter(part.values())))
                for name, gradients in part.items():
                    rows[name][first : first + size] = gradients
                first += size
            means |= {name: winsorized_mean(of_all, self.level) for name, of_all in rows.items()}
        for name, mean in means.items():
            before = named[name].grad
            named[name].grad = mean if before is None else before + mean
        self._ready = True

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters by what :meth:`backward` has put into ``.grad``.

        Parameters
        ----------
        closure : callable, optional
            Computes the losses and calls :meth:`backward`; called once.

        Returns
        -------
        float or Tensor, optional
            What the closure returned.

        Raises
        ------
        RuntimeError
            If :meth:`backward` was not called since the last step: the gradients of the examples
            cannot be had from their mean.
        ValueError
            If a scheduler has given the wrapped optimizer momentum.
        """
        loss = self._evaluated(closure)
        if not self._ready:
            raise RuntimeError(
                "step() without backward(losses): call optimizer.backward(losses) with the vector "
                "of losses in place of losses.mean().backward(), for the gradients of the "
                "examples cannot be had from their mean"
            )
        self.optimizer.step()
        self._ready = False
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        super().zero_grad(set_to_none)
        self._start_anew()

    def _start_anew(self) -> None:
        """Ask for :meth:`backward` before the next step."""
        self._ready = False

    def _own_state(self) -> dict[str, Any]:
        """Return the level."""
        return {"level": self.level}

    def _read_own_state(self, own: Mapping[str, Any]) -> Callable[[], None]:
        """Check the level."""
        level = check_level(own["level"])

        def take_up() -> None:
            self.level = level

        return take_up

    def _lots(self, parameters: dict[str, Tensor], examples: int) -> Iterator[dict[str, Tensor]]:
        """Divide the parameters into lots whose gradients of all examples fit the budget."""
        lot: dict[str, Tensor] = {}
        held = 0
        for name, parameter in parameters.items():
            size = examples * parameter.numel() * parameter.element_size()
            if lot and held + size > self.byte_budget:
                yield lot
                lot, held = {}, 0
            lot[name] = parameter
            held += size
        if lot:
            yield lot
