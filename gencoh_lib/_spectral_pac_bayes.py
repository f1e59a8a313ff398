"""The margin bound that comes from PAC-Bayes and spectral norms, behind `gencoh_lib.bounds`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from gencoh_lib._bound import Bound, assembled, check_delta, count, fraction, positive
from gencoh_lib._weights import (
    check_alive,
    check_weights,
    frobenius_norms,
    sizes,
    spectral_norms,
)

_PAPER = "Neyshabur, Bhojanapalli and Srebro (2018)"


def pac_bayes_spectral(
    margin_loss: float,
    weights: Sequence[Tensor],
    *,
    radius: float,
    margin: float,
    examples: int,
    delta: float = 0.05,
    beta: float | None = None,
) -> Bound:
    r"""Bound on the error of a ReLU network by PAC-Bayes with its spectral norms.

    Parameters
    ----------
    margin_loss : float
        Fraction of the training sample with a margin below `margin`.
    weights : sequence of Tensor
        [d_k, d_(k-1)] for each of d layers without biases, the input first.
    radius : float
        B, fixed beforehand: no input is longer.
    margin : float
        :math:`\gamma`; may be chosen after the data was seen, unless `beta` is given.
    examples : int
        m, the size of the training sample, at least 2.
    delta : float
        Probability that the bound may fail.
    beta : float, optional
        :math:`\tilde\beta`, fixed beforehand together with the margin and at most
        :math:`\beta/d` away from :math:`\beta = (\prod_k \lVert W_k\rVert_2)^{1/d}`; by default
        the nearest point of a grid, which has its price.

    Returns
    -------
    Bound
        On the probability of a wrong class, for all networks of these widths at once.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range, the matrices do not fit together, one is all zero, `beta` is
        too far away, or inputs within the radius cannot have such margins.

    Notes
    -----
    .. math:: R \le \hat R_\gamma + 4\sqrt{\frac{\mathrm{KL} + \ln T + \ln(6m/\delta)}{m-1}},
        \quad \mathrm{KL} = \sum_k \frac{\beta^2\lVert W_k\rVert_F^2}
        {2\sigma^2\lVert W_k\rVert_2^2},
        \quad \sigma = \frac{\gamma}{42\, d B \tilde\beta^{d-1} \sqrt{h\ln(4hd)}}

    Neyshabur, Bhojanapalli and Srebro (2018), with the constants of the proof by Xiao, Sun and
    Luo (2023). h is the largest dimension *with that of the inputs*: the noise of a first layer
    that is wider than it is high is as large as its width makes it. The grid for
    :math:`(B/\gamma)^{1/d}\beta` has T points between :math:`2^{-1/d}`, below which no margin
    reaches :math:`\gamma`, and :math:`(\sqrt m/2)^{1/d}`, above which the root exceeds 1, none
    further than 1/d of the left end from the next centre; dividing the network by its margin is
    why one grid serves for both.

    Examples
    --------
    >>> import torch
    >>> weights = [torch.diag(torch.tensor([3.0, 4.0])), torch.diag(torch.tensor([1.0, 2.0]))]
    >>> bound = pac_bayes_spectral(0, weights, radius=1, margin=1, examples=4, beta=8**0.5)
    >>> round(bound.value, 3)
    4333.692
    """
    check_delta(delta)
    matrices = check_weights(weights)
    check_alive(matrices)
    depth, width = len(matrices), max(sizes(matrices))
    examples = count("examples", examples, least=2)
    norms = spectral_norms(matrices)
    unit = (positive("margin", margin) / positive("radius", radius)) ** (1 / depth)
    scale = math.prod(norms) ** (1 / depth) / unit  # of a network with radius and margin one
    if scale**depth < 0.5 and margin_loss < 1:
        raise ValueError(
            f"margin_loss = {margin_loss:g} cannot be: with these norms no input of length "
            f"{radius:g} has a margin of {margin:g}; is radius the length of the longest input?"
        )
    if beta is None:
        centre, points = _nearest(scale, depth, examples)
    else:
        centre, points = positive("beta", beta) / unit, 1
        if abs(centre - scale) > scale / depth:
            raise ValueError(
                f"beta = {beta:g} is further than a fraction 1/{depth} from the geometric mean "
                f"of the spectral norms, {scale * unit:g}; leave it out to pay for a grid"
            )
    precision = 42 * depth * centre ** (depth - 1) * math.sqrt(width * math.log(4 * width * depth))
    ratios = (f / s for f, s in zip(frobenius_norms(matrices), norms, strict=True))
    terms = {
        "margin_loss": fraction("margin_loss", margin_loss),
        "divergence": sum((scale * ratio * precision) ** 2 / 2 for ratio in ratios),
        "grid_cost": math.log(points),
        "confidence": math.log(6 * examples / delta),
        "examples": examples,
    }
    fixed = "any norms, any margin" if beta is None else "beta and the margin fixed beforehand"
    return assembled(
        "margin_loss + 4 * ((divergence + grid_cost + confidence) / (examples - 1))**0.5",
        terms,
        [
            f"{examples} training examples, independent",
            f"no input of the distribution is longer than {radius:g}",
            f"ReLU layers without biases, of widths fixed beforehand; {fixed}",
        ],
        source=f"{_PAPER}, constants of Xiao, Sun and Luo (2023); inputs counted in the width",
    )


def _nearest(scale: float, depth: int, examples: int) -> tuple[float, int]:
    """Point of the grid next to a scale, and how many points there are.

    Outside the grid the statement is true whatever the point: below it every margin loss is 1,
    above it the root exceeds 1.
    """
    low, high = (0.5 ** (1 / depth), (math.sqrt(examples) / 2) ** (1 / depth))
    reach = low / depth
    points = max(1, math.ceil((high - low) / (2 * reach)))
    index = min(max(math.floor((scale - low) / (2 * reach)), 0), points - 1)
    return (low + (2 * index + 1) * reach, points) if low <= scale <= high else (scale, points)


def pac_bayes_spectral_order(
    weights: Sequence[Tensor], *, radius: float, margin: float, examples: int, delta: float = 0.05
) -> Bound:
    r"""Order of the gap by PAC-Bayes with spectral norms, as the paper prints it.

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
    delta : float
        Probability that the bound may fail.

    Returns
    -------
    Bound
        Of an order only. :func:`pac_bayes_spectral` has constants.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range, the matrices do not fit together, or one is all zero.

    Notes
    -----
    .. math:: \sqrt{\frac{B^2 d^2 h \ln(dh)\,\Phi + \ln(dm/\delta)}{\gamma^2 m}}, \qquad
        \Phi = \prod_k \lVert W_k\rVert_2^2 \sum_k \frac{\lVert W_k\rVert_F^2}
        {\lVert W_k\rVert_2^2}

    with h the largest number of outputs of a layer. Neyshabur, Bhojanapalli and Srebro (2018).

    Examples
    --------
    >>> import torch
    >>> weights = [torch.diag(torch.tensor([3.0, 4.0])), torch.diag(torch.tensor([1.0, 2.0]))]
    >>> round(pac_bayes_spectral_order(weights, radius=1, margin=1, examples=4).value, 6)
    22.368164
    """
    check_delta(delta)
    matrices = check_weights(weights)
    check_alive(matrices)
    depth, width = len(matrices), max(len(weight) for weight in matrices)
    norms = spectral_norms(matrices)
    ratios = (f / s for f, s in zip(frobenius_norms(matrices), norms, strict=True))
    terms = {
        "radius": positive("radius", radius),
        "depth": depth,
        "width": width,
        "log_units": math.log(depth * width),
        "norms": math.prod(norms) ** 2 * sum(ratio**2 for ratio in ratios),
        "confidence": math.log(depth * count("examples", examples) / delta),
        "margin": positive("margin", margin),
        "examples": examples,
    }
    return assembled(
        "((radius**2 * depth**2 * width * log_units * norms + confidence) "
        "/ (margin**2 * examples))**0.5",
        terms,
        ["every constant is set to one"],
        source=_PAPER,
        order_only=True,
    )
