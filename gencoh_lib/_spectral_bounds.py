"""Margin bounds by spectral norms and covering numbers, behind :mod:`gencoh_lib.bounds`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from gencoh_lib._bound import Bound, assembled, check_delta, count, fraction, positive
from gencoh_lib._scale_grid import round_up
from gencoh_lib._weights import check_alive, check_weights, row_sum_norms, sizes, spectral_norms

_PAPER = "Bartlett, Foster and Telgarsky (2017)"


def spectral_complexity(
    weights: Sequence[Tensor], references: Sequence[Tensor] | None = None
) -> float:
    r"""Spectral complexity of a ReLU network.

    Parameters
    ----------
    weights : sequence of Tensor
        [d_k, d_(k-1)] for each of L layers without biases, the input first.
    references : sequence of Tensor, optional
        Matrices :math:`M_k` of the same shapes that do not depend on the sample; zero by default.

    Returns
    -------
    float
        R, of the weights alone: inputs and margin come in :func:`spectral_margin`.

    Raises
    ------
    ValueError
        If the matrices do not fit together, one is all zero, or the references have other shapes.

    Notes
    -----
    .. math:: R = \prod_k \lVert W_k\rVert_2 \Bigl(\sum_k
        \frac{\lVert W_k^T - M_k^T\rVert_{2,1}^{2/3}}{\lVert W_k\rVert_2^{2/3}}\Bigr)^{3/2}

    where :math:`\lVert W^T\rVert_{2,1}` is the sum of the lengths of the rows of W. Bartlett,
    Foster and Telgarsky (2017).

    Examples
    --------
    >>> import torch
    >>> round(spectral_complexity([torch.eye(3), torch.eye(3)]), 6)
    8.485281
    """
    matrices, distances = _with_references(weights, references)
    norms = spectral_norms(matrices)
    ratios = [b / s for b, s in zip(row_sum_norms(distances), norms, strict=True)]
    return math.prod(norms) * _combined(ratios)


def spectral_margin_order(
    weights: Sequence[Tensor],
    *,
    data_norm: float,
    margin: float,
    examples: int,
    references: Sequence[Tensor] | None = None,
) -> Bound:
    r"""Order of the gap by the spectral complexity, as the paper prints it.

    Parameters
    ----------
    weights : sequence of Tensor
        [d_k, d_(k-1)] for each of L layers without biases, the input first.
    data_norm : float
        :math:`\lVert X\rVert_F`, the root of the sum of the squared lengths of the inputs.
    margin : float
        :math:`\gamma`.
    examples : int
        n, the size of the training sample.
    references : sequence of Tensor, optional
        See :func:`spectral_complexity`.

    Returns
    -------
    Bound
        Of an order only. :func:`spectral_margin` has constants.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range, the matrices do not fit together, one is all zero, or the
        references have other shapes.

    Notes
    -----
    :math:`\lVert X\rVert_F R \ln(W) / (\gamma n)` with W the largest dimension; Bartlett, Foster
    and Telgarsky (2017, Theorem 1.1), without the term for the confidence.

    Examples
    --------
    >>> import torch
    >>> weights = [torch.diag(torch.tensor([3.0, 4.0])), torch.diag(torch.tensor([1.0, 2.0]))]
    >>> round(spectral_margin_order(weights, data_norm=2, margin=1, examples=4).value, 6)
    12.730771
    """
    terms = {
        "data_norm": positive("data_norm", data_norm),
        "complexity": spectral_complexity(weights, references),
        "log_dimension": math.log(max(sizes(weights))),
        "margin": positive("margin", margin),
        "examples": count("examples", examples),
    }
    return assembled(
        "data_norm * complexity * log_dimension / (margin * examples)",
        terms,
        ["every constant is set to one"],
        source=f"{_PAPER}, Theorem 1.1",
        order_only=True,
    )


def spectral_margin(
    margin_loss: float,
    weights: Sequence[Tensor],
    *,
    data_norm: float,
    margin: float,
    examples: int,
    delta: float = 0.05,
) -> Bound:
    r"""Bound on the error of a ReLU network by its margins and its spectral complexity.

    Parameters
    ----------
    margin_loss : float
        Fraction of the training sample with a margin below `margin`.
    weights : sequence of Tensor
        [d_k, d_(k-1)] for each of L layers without biases, the input first.
    data_norm : float
        :math:`\lVert X\rVert_F`, the root of the sum of the squared lengths of the training
        inputs.
    margin : float
        :math:`\gamma`; may be chosen after the data was seen.
    examples : int
        n, the size of the training sample.
    delta : float
        Probability that the bound may fail.

    Returns
    -------
    Bound
        On the probability of a wrong class, for all networks of these widths and all margins at
        once.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range, the matrices do not fit together, or one is all zero.

    Notes
    -----
    .. math:: R \le \hat R_\gamma + \frac{8}{n^{3/2}}
        + \frac{72 \lVert X\rVert_F \sqrt{\ln(2W^2)} \ln(n)}{n}\, q
        \Bigl(\sum_k t_k^{2/3}\Bigr)^{3/2} + 3\sqrt{\frac{\ln(1/\delta) + c}{2n}}

    with :math:`q = \prod_k \lVert W_k\rVert_2/\gamma` and
    :math:`t_k = \lVert W_k^T\rVert_{2,1}/\lVert W_k\rVert_2`, each rounded up to a power of 1.1;
    c is the price of these L + 1 grids. The constants are derived here, the paper's main text has
    none. Its covering number and Dudley's integral from 1/n, twice for symmetrisation, give 72 =
    2 · 18 · 2, in which the last 2 is :math:`\sqrt2` for the margin, which is
    :math:`\sqrt2`-Lipschitz in the outputs, times :math:`\sqrt2` for rounding up the number of
    terms in Maurey's lemma (:math:`\lceil x\rceil \le 2x` for :math:`x \ge 1`, and below no term
    is needed). McDiarmid's inequality for the supremum minus twice the empirical complexity,
    which one example changes by at most 3/n, gives the last root.

    Examples
    --------
    >>> import torch
    >>> weights = [torch.eye(2, dtype=torch.float64)] * 2
    >>> bound = spectral_margin(0, weights, data_norm=1000, margin=1, examples=10**6)
    >>> round(bound.value, 2)
    8.7
    """
    check_delta(delta)
    matrices, _ = _with_references(weights, None)
    norms = spectral_norms(matrices)
    scale, cost = round_up(
        positive("the norms over the margin", math.prod(norms) / positive("margin", margin))
    )
    rounded = [round_up(b / s) for b, s in zip(row_sum_norms(matrices), norms, strict=True)]
    examples = count("examples", examples)
    terms = {
        "margin_loss": fraction("margin_loss", margin_loss),
        "data_norm": positive("data_norm", data_norm),
        "log_cover": math.log(2 * max(sizes(matrices)) ** 2),
        "log_examples": math.log(examples),
        "scale": scale,
        "shape": _combined([ratio for ratio, _ in rounded]),
        "examples": examples,
        "grid_cost": cost + sum(cost for _, cost in rounded),
        "confidence": math.log(1 / delta),
    }
    return assembled(
        "margin_loss + 8 / examples**1.5 "
        "+ 72 * data_norm * log_cover**0.5 * log_examples * scale * shape / examples "
        "+ 3 * ((grid_cost + confidence) / (2 * examples))**0.5",
        terms,
        [
            f"{examples} training examples, independent",
            "ReLU layers without biases, of widths fixed beforehand; any norms, any margin",
        ],
        source=f"covering number: {_PAPER}, Theorem 3.3; constants and grid derived here",
    )


def _combined(ratios: Sequence[float]) -> float:
    return float(sum(ratio ** (2 / 3) for ratio in ratios) ** 1.5)


def _with_references(
    weights: Sequence[Tensor], references: Sequence[Tensor] | None
) -> tuple[list[Tensor], list[Tensor]]:
    """Weights and their distances from the references."""
    matrices = check_weights(weights)
    check_alive(matrices)
    if references is None:
        return matrices, matrices
    others = check_weights(references, "references")
    shapes, wanted = ([tuple(w.shape) for w in ws] for ws in (others, matrices))
    if shapes != wanted:
        raise ValueError(f"references must have the shapes of the weights, {wanted}; got {shapes}")
    return matrices, [w - m for w, m in zip(matrices, others, strict=True)]
