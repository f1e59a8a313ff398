"""Margin bounds by the norms of the weights, behind :mod:`gencoh_lib.bounds`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor

from gencoh_lib._bound import Bound, assembled, check_delta, count, fraction, positive
from gencoh_lib._scale_grid import round_up
from gencoh_lib._weights import (
    check_alive,
    check_weights,
    frobenius_norms,
    largest_row_norm,
)

Peeling = Literal["survey", "Neyshabur-Tomioka-Srebro", "Golowich-Rakhlin-Shamir"]
"""The statements that :func:`frobenius_rademacher` knows."""

_SOURCES = {
    "survey": "Berner, Grohs, Kutyniok and Petersen (2021, v2), Theorem 2.1",
    "Neyshabur-Tomioka-Srebro": "Neyshabur, Tomioka and Srebro (2015), Corollary 2 with p = q = 2",
    "Golowich-Rakhlin-Shamir": "Golowich, Rakhlin and Shamir (2018), constants as in the lecture "
    "slides of the survey's authors and re-derived in the course",
}


def frobenius_rademacher(
    norms: Sequence[float],
    *,
    examples: int,
    radius: float = 1.0,
    form: Peeling = "Golowich-Rakhlin-Shamir",
) -> float:
    r"""Rademacher complexity of ReLU networks with one output and bounded Frobenius norms.

    Parameters
    ----------
    norms : sequence of float
        [L] bounds :math:`M_1, \dots, M_L` on the Frobenius norms of the layers; only their
        product counts.
    examples : int
        m, the size of the sample.
    radius : float
        B: no input is longer.
    form : str
        Whose statement; see the notes.

    Returns
    -------
    float
        An upper bound on :math:`E \sup_f \frac1m \sum_i \tau_i f(x_i)`.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range or the form is unknown.

    Notes
    -----
    :math:`\frac{B}{\sqrt m} \prod_\ell M_\ell` times :math:`2^{L-1}` (``"survey"``),
    :math:`\sqrt2 \cdot 2^{L-1}` (``"Neyshabur-Tomioka-Srebro"``) or
    :math:`\sqrt{2 L\ln 2} + 1` (``"Golowich-Rakhlin-Shamir"``). For the last: with
    :math:`\lambda > 0` the complexity is at most
    :math:`\frac{1}{\lambda m} \ln E e^{\lambda m \cdot \mathrm{sup}}`; peeling off a layer costs
    a factor 2 inside the logarithm, where it is an addend; what is left is
    :math:`\lambda\,\lVert\sum_i\tau_i x_i\rVert\prod M`, with a mean of at most
    :math:`\sqrt m B` and sub-Gaussian; then the best :math:`\lambda`.

    Examples
    --------
    >>> [round(frobenius_rademacher([1] * depth, examples=1000), 6) for depth in (1, 2, 3, 10)]
    [0.068856, 0.084278, 0.096112, 0.149364]
    """
    if not len(norms):
        raise ValueError("norms must hold one number a layer, got none")
    product = math.prod(positive(f"norms[{n}]", norm) for n, norm in enumerate(norms))
    scale = positive("radius", radius) * product / math.sqrt(count("examples", examples))
    return scale * _depth_factor(len(norms), form)


def _depth_factor(depth: int, form: Peeling) -> float:
    if form == "survey":
        return 2.0 ** (depth - 1)
    if form == "Neyshabur-Tomioka-Srebro":
        return math.sqrt(2) * 2.0 ** (depth - 1)
    if form == "Golowich-Rakhlin-Shamir":
        return math.sqrt(2 * depth * math.log(2)) + 1
    raise ValueError(f"form must be one of {get_args(Peeling)}, got {form!r}")


def norm_margin(
    margin_loss: float,
    weights: Sequence[Tensor],
    *,
    radius: float,
    margin: float,
    examples: int,
    delta: float = 0.05,
    form: Peeling = "Golowich-Rakhlin-Shamir",
) -> Bound:
    r"""Bound on the error of a ReLU network by its margins and its Frobenius norms.

    Parameters
    ----------
    margin_loss : float
        Fraction of the training sample with a margin below `margin`.
    weights : sequence of Tensor
        [d_k, d_(k-1)] for each of L layers without biases, the input first.
    radius : float
        B, fixed beforehand: no input is longer.
    margin : float
        :math:`\gamma`; may be chosen after the data was seen.
    examples : int
        m, the size of the training sample.
    delta : float
        Probability that the bound may fail.
    form : str
        The complexity that is used, see :func:`frobenius_rademacher`.

    Returns
    -------
    Bound
        On the probability of a wrong class, for all networks of this depth and number of classes
        and all margins at once.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range, the matrices do not fit together, or one is all zero.

    Notes
    -----
    .. math:: R \le \hat R_\gamma + 4C\,\mathrm{Rad}_m + \sqrt{\frac{\ln(1/\delta) + c(q)}{2m}},
        \qquad q = \frac{B}{\gamma} \prod_{k<L} \lVert W_k\rVert_F \max_j \lVert w_{L,j}\rVert_2

    with C classes and the complexity of one output of the networks divided by the margin. The
    factor is 2 for symmetrisation, and 2C because the ramp of the margin is
    :math:`\sqrt2/\gamma`-Lipschitz in the outputs (with Maurer's contraction inequality for
    vectors, another :math:`\sqrt2`, output by output). Without biases a network divided by its
    margin is a network, so one grid for q covers the norms and the margin together: q is rounded
    up to a power of 1.1, and c(q) is the price. This step is derived in the course; the
    complexity is the sources'.

    Examples
    --------
    >>> import torch
    >>> weights = [torch.eye(2, dtype=torch.float64)] * 2
    >>> bound = norm_margin(0, weights, radius=1, margin=1, examples=10**6)
    >>> round(bound.value, 4)
    0.0331
    """
    check_delta(delta)
    matrices = check_weights(weights)
    check_alive(matrices)
    classes = count("the number of classes", len(matrices[-1]), least=2)
    product = math.prod(frobenius_norms(matrices[:-1])) * largest_row_norm(matrices[-1])
    scale, cost = round_up(
        positive("the norms over the margin", positive("radius", radius) * product
                 / positive("margin", margin))
    )  # fmt: skip
    terms = {
        "margin_loss": fraction("margin_loss", margin_loss),
        "contraction": 4.0 * classes,
        "depth_factor": _depth_factor(len(matrices), form),
        "scale": scale,
        "examples": count("examples", examples),
        "grid_cost": cost,
        "confidence": math.log(1 / delta),
    }
    return assembled(
        "margin_loss + contraction * depth_factor * scale / examples**0.5 "
        "+ ((grid_cost + confidence) / (2 * examples))**0.5",
        terms,
        [
            f"{examples} training examples, independent",
            f"no input of the distribution is longer than {radius:g}",
            "ReLU layers without biases; any norms, any margin",
        ],
        source=f"complexity: {_SOURCES[form]}; classes and grid derived in the course",
    )


def golowich_order(
    weights: Sequence[Tensor], *, radius: float, margin: float, examples: int
) -> Bound:
    r"""Order of the gap by the product of the Frobenius norms, as Golowich et al. print it.

    Parameters
    ----------
    weights : sequence of Tensor
        [d_k, d_(k-1)] for each of d layers without biases, the input first.
    radius : float
        B: no input is longer.
    margin : float
        :math:`\gamma`.
    examples : int
        m, the size of the training sample.

    Returns
    -------
    Bound
        Of an order only. :func:`norm_margin` has constants.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range or the matrices do not fit together.

    Notes
    -----
    :math:`\frac{B\sqrt d}{\gamma\sqrt m}\prod_k \lVert W_k\rVert_F`; Golowich, Rakhlin and Shamir
    (2018, abstract).

    Examples
    --------
    >>> import torch
    >>> weights = [torch.diag(torch.tensor([3.0, 4.0])), torch.diag(torch.tensor([1.0, 2.0]))]
    >>> round(golowich_order(weights, radius=1, margin=1, examples=4).value, 6)
    7.905694
    """
    matrices = check_weights(weights)
    terms = {
        "radius": positive("radius", radius),
        "depth": len(matrices),
        "frobenius_product": math.prod(frobenius_norms(matrices)),
        "margin": positive("margin", margin),
        "examples": count("examples", examples),
    }
    return assembled(
        "radius * depth**0.5 * frobenius_product / (margin * examples**0.5)",
        terms,
        ["every constant is set to one"],
        source="Golowich, Rakhlin and Shamir (2018)",
        order_only=True,
    )
