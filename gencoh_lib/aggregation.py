r"""Robust averages in place of the mean gradient, as optimizers around other optimizers.

Gradient descent follows the *mean* gradient of a batch, and one example with a large gradient can
turn it. If what generalises is what many examples agree on, an average that a few cannot move
should learn it, and leave out what single examples ask for.

* :class:`Winsorized`: in every coordinate the c percent most extreme gradients on each side are
  pulled in before the mean is taken. It needs the gradient of every example.
* :class:`M3`: median of the gradients of three micro-batches at the same weights.
* :class:`RM3`: rolling median of the last three batch gradients, at the price of plain descent.
* :class:`RA3`: rolling mean of the last three, the control: it smooths and is not robust.

Winsorized gradient descent is from Chatterjee (2020), M3 and RM3 from Zielinski, Krishnan and
Chatterjee (2020); all are written afresh. What they are made of, :func:`winsorize`,
:func:`winsorized_mean`, :func:`median_of_three` and :func:`median_of_means`, works on tensors.
"""

from __future__ import annotations

from torch import Tensor

from gencoh_lib._of_three import OfThree
from gencoh_lib._robust import median_of_means, median_of_three, winsorize, winsorized_mean
from gencoh_lib._winsorized import Winsorized

__all__ = [
    "M3",
    "RA3",
    "RM3",
    "Winsorized",
    "median_of_means",
    "median_of_three",
    "winsorize",
    "winsorized_mean",
]

for _object in (Winsorized, median_of_means, median_of_three, winsorize, winsorized_mean):
    _object.__module__ = __name__  # their public name, in tracebacks and in the API reference


class M3(OfThree):
    r"""Median of three micro-batches: one update for every three calls of :meth:`step`.

    The loop is the usual one. Calls 1 and 2 only collect the gradients; call 3 steps along the
    median of the three, coordinate by coordinate, and so on.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Makes the step; without momentum.

    Raises
    ------
    TypeError
        If ``optimizer`` is no optimizer or one of this module, or a parameter is complex.
    ValueError
        If it has momentum (``momentum``, ``beta1`` or the first of ``betas``), or is LBFGS or
        SparseAdam. A running mean that keeps another name cannot be seen.

    Notes
    -----
    .. math:: w \leftarrow w - \eta \operatorname{med}(g^{(1)}, g^{(2)}, g^{(3)})

    for plain SGD, with all three gradients taken at the same w. Zielinski, Krishnan and Chatterjee
    (2020). Weight decay that an optimizer adds to the gradient is added to each of the three; what
    shrinks the weights directly, as in AdamW, is left to the optimizer. A parameter that some of
    the three losses do not use counts as having gradient zero there. Give learning-rate schedulers
    *this* optimizer; they count its calls, and so do the ``steps`` of
    :func:`gencoh_lib.training.train`.

    Examples
    --------
    >>> import torch
    >>> w = torch.zeros(1, requires_grad=True)
    >>> optimizer = M3(torch.optim.SGD([w], lr=1.0))
    >>> for gradient in (1.0, 9.0, 2.0):
    ...     w.grad = torch.tensor([gradient])
    ...     optimizer.step()
    ...     print(w.item())
    0.0
    0.0
    -2.0
    """

    rolling = False
    _average = staticmethod(median_of_three)


class RM3(OfThree):
    r"""Rolling median of three: every call steps along the median of the last three gradients.

    Calls 1 and 2 only collect. From the third on there is an update with every call, so that an
    epoch costs what it costs without the median; but the older gradients were taken at older
    weights.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Makes the step; without momentum.

    Raises
    ------
    TypeError, ValueError
        As :class:`M3`.

    Notes
    -----
    .. math:: w_{t+1} = w_t - \eta \operatorname{med}(g_t, g_{t-1}, g_{t-2}), \qquad
        g_t = \nabla \ell_t(w_t)

    for plain SGD. Zielinski, Krishnan and Chatterjee (2020). Weight decay as for :class:`M3`; here
    each gradient keeps that of its own weights.

    Examples
    --------
    >>> import torch
    >>> w = torch.zeros(1, requires_grad=True)
    >>> optimizer = RM3(torch.optim.SGD([w], lr=1.0))
    >>> for gradient in (1.0, 9.0, 2.0, 3.0):
    ...     w.grad = torch.tensor([gradient])
    ...     optimizer.step()
    >>> w.item()  # the medians of (1, 9, 2) and of (9, 2, 3)
    -5.0
    """

    rolling = True
    _average = staticmethod(median_of_three)


class RA3(OfThree):
    r"""Rolling mean of three: the control for :class:`RM3`, which smooths without being robust.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Makes the step; without momentum.

    Raises
    ------
    TypeError, ValueError
        As :class:`M3`.

    Notes
    -----
    .. math:: w_{t+1} = w_t - \tfrac{\eta}{3}\,(g_t + g_{t-1} + g_{t-2})

    for plain SGD. It has the delay and the smoothing of :class:`RM3`, so that what the two do
    differently is due to the median. The name is that of the code released with Zielinski,
    Krishnan and Chatterjee (2020).

    Examples
    --------
    >>> import torch
    >>> w = torch.zeros(1, requires_grad=True)
    >>> optimizer = RA3(torch.optim.SGD([w], lr=1.0))
    >>> for gradient in (1.0, 9.0, 2.0):
    ...     w.grad = torch.tensor([gradient])
    ...     optimizer.step()
    >>> w.item()
    -4.0
    """

    rolling = True

    @staticmethod
    def _average(first: Tensor, second: Tensor, third: Tensor) -> Tensor:
        """Return the mean of three gradients."""
        return (first + second + third) / 3
