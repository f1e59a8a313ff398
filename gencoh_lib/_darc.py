"""Losses of the direct analysis: DARC1, the ramp, and the squared loss on classes.

The public names are those of :mod:`gencoh_lib.paths`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gencoh_lib.training import cross_entropy


def darc1(
    logits: Tensor, strength: float = 0.001, *, reduction: Literal["sum", "mean"] = "sum"
) -> Tensor:
    r"""The regulariser DARC1: the largest, over classes, sum of absolute logits.

    Parameters
    ----------
    logits : Tensor
        [b, d_y] outputs before any softmax.
    strength : float
        Factor of the sum (:math:`\lambda/\bar m`), or :math:`\lambda` of the mean.
    reduction : str
        ``"sum"`` as the authors use it, with a factor that should change with the batch size;
        ``"mean"`` divides by b first, so that the factor need not.

    Returns
    -------
    Tensor
        A number, to be added to the mean loss.

    Raises
    ------
    ValueError
        If `logits` are no matrix, or an option is out of range.

    Notes
    -----
    .. math:: \frac{\lambda}{\bar m} \max_k \sum_{i=1}^{\bar m} |z_k^{[L]}(x_i)|

    Kawaguchi, Kaelbling and Bengio (2019, v5, eq. A.1), who use 0.001 with batches of 64. It
    equals the largest of :math:`\sum_i \xi_i z_k(x_i)` over signs and classes (derived in the
    course). The gradient reaches only the class that attains the maximum.

    Examples
    --------
    >>> logits = torch.tensor([[1.0, -2.0], [-3.0, 4.0]])
    >>> round(float(darc1(logits)), 6), float(darc1(logits, 1.0, reduction="mean"))
    (0.006, 3.0)
    """
    if logits.ndim != 2 or not logits.numel():
        raise ValueError(f"logits must be [b, outputs], got {tuple(logits.shape)}")
    _check(strength, reduction)
    totals = logits.abs().sum(0)
    largest = totals.max() / (len(logits) if reduction == "mean" else 1)
    return strength * largest


@dataclass(frozen=True)
class WithDARC1:
    """A loss with DARC1 added, for :func:`gencoh_lib.training.train`.

    Attributes
    ----------
    strength : float
        As for :func:`darc1`.
    reduction : str
        As for :func:`darc1`.
    loss : callable
        Maps outputs and targets to the losses of the examples, shape [b].

    Examples
    --------
    >>> from gencoh_lib.training import cross_entropy
    >>> loss = WithDARC1(0.001)
    >>> logits = torch.tensor([[1.0, -2.0], [-3.0, 4.0]])
    >>> added = loss(logits, torch.tensor([0, 1])) - cross_entropy(logits, torch.tensor([0, 1]))
    >>> [round(float(a), 4) for a in added]  # each example carries it, and so does the mean
    [0.006, 0.006]
    """

    strength: float = 0.001
    reduction: Literal["sum", "mean"] = "sum"
    loss: Callable[[Tensor, Tensor], Tensor] = field(default=cross_entropy, repr=False)

    def __post_init__(self) -> None:
        """Refuse what would fail at the first step, or mean nothing."""
        _check(self.strength, self.reduction)
        if not callable(self.loss):
            raise TypeError(f"loss must be a function of outputs and targets, got {self.loss!r}")

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Losses of the examples, each with the term of the batch."""
        return self.loss(outputs, targets) + darc1(outputs, self.strength, reduction=self.reduction)


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    r"""Squared loss of each example, :math:`\lVert f(x) - y \rVert^2`, classes as one-hot vectors.

    Parameters
    ----------
    outputs : Tensor
        [b, d_y].
    targets : Tensor
        [b] classes, [b, d_y] real targets, or [b] real targets where there is one output.

    Returns
    -------
    Tensor
        [b] losses, not halved and not averaged: the loss of :func:`gap_decomposition`.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> squared_error(torch.zeros(1, 10), torch.tensor([3]))
    tensor([1.])
    """
    if outputs.ndim != 2 or len(targets) != len(outputs):
        raise ValueError(
            f"outputs must be [b, d_y] and targets [b], got {tuple(outputs.shape)} and "
            f"{tuple(targets.shape)}"
        )
    y = targets
    if not y.is_floating_point():
        y = F.one_hot(y, outputs.shape[1]).to(outputs)
    elif y.ndim == 1 and outputs.shape[1] == 1:
        y = y[:, None]
    if y.shape != outputs.shape:
        raise ValueError(f"targets have shape {tuple(y.shape)}, outputs {tuple(outputs.shape)}")
    return (outputs - y).square().sum(1)


def ramp_loss(logits: Tensor, targets: Tensor, margin: float) -> Tensor:
    r"""Margin loss: 1 for a wrong class, 0 beyond the margin, linear between.

    Parameters
    ----------
    logits : Tensor
        [b, classes], two classes at least.
    targets : Tensor
        [b] classes.
    margin : float
        :math:`\rho > 0`.

    Returns
    -------
    Tensor
        [b] losses in [0, 1].

    Raises
    ------
    ValueError
        If the shapes do not fit, or `margin` is not positive.

    Examples
    --------
    >>> logits = torch.tensor([[3.0, 0.0], [0.5, 0.0], [0.0, 1.0]])
    >>> ramp_loss(logits, torch.tensor([0, 0, 0]), 2.0).tolist()
    [0.0, 0.75, 1.0]
    """
    if logits.ndim != 2 or logits.shape[1] < 2 or targets.shape != logits.shape[:1]:
        raise ValueError(
            f"ramp_loss needs logits [b, classes >= 2] and targets [b], got {tuple(logits.shape)} "
            f"and {tuple(targets.shape)}"
        )
    if not (math.isfinite(margin) and margin > 0):
        raise ValueError(f"margin must be a positive number, got {margin}")
    own = logits.gather(1, targets[:, None]).squeeze(1)
    others = logits.scatter(1, targets[:, None], -torch.inf).max(1).values
    return (1 - (own - others) / margin).clamp(0, 1)


def _check(strength: float, reduction: str) -> None:
    if not 0 <= strength < math.inf:
        raise ValueError(f"strength must be finite and >= 0, got {strength}")
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction must be 'sum' or 'mean', got {reduction!r}")
