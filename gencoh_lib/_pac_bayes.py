"""PAC-Bayes bounds, behind :mod:`gencoh_lib.bounds`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from torch import Tensor

from gencoh_lib._bound import Bound, assembled, check_delta, count, fraction, nonnegative
from gencoh_lib._dataset import Dataset
from gencoh_lib._kl_inverse import kl_inverse
from gencoh_lib._weights import check_weights, noisy_margins, sizes

PacBayesForm = Literal["McAllester", "kl-inverse"]
"""The statements that :func:`pac_bayes` and :func:`gaussian_pac_bayes` know."""

_HALVINGS = 12  # of the noise: 1, 1/2, ..., each with the same share of delta


def pac_bayes(
    stochastic_risk: float,
    *,
    divergence: float,
    examples: int,
    delta: float = 0.05,
    form: PacBayesForm = "kl-inverse",
) -> Bound:
    r"""Bound on the risk of a function that is drawn anew for every prediction.

    Parameters
    ----------
    stochastic_risk : float
        :math:`\hat R(Q)`, the mean over Q of the mean loss on the training sample, losses between
        0 and 1. It is an expectation: for an estimate put an upper confidence limit here.
    divergence : float
        :math:`\mathrm{KL}(Q\,\|\,P)` from a prior P that does not depend on the sample.
    examples : int
        m, the size of the training sample; at least 2 for McAllester's form.
    delta : float
        Probability that the bound may fail.
    form : str
        ``"McAllester"``, or ``"kl-inverse"`` (Langford and Seeger, with Maurer's constant).

    Returns
    -------
    Bound
        On the risk of the stochastic predictor, for all Q at once. The inverse is rounded up.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range or the form is unknown.

    Notes
    -----
    .. math:: R(Q) \le \hat R(Q) + \sqrt{\frac{\mathrm{KL} + \ln(m/\delta)}{2(m-1)}}, \qquad
        \mathrm{kl}(\hat R(Q)\,\|\,R(Q)) \le \frac{\mathrm{KL} + \ln(2\sqrt m/\delta)}{m}.

    McAllester (1999), as Muthukumar and Sulam (2023) state it; Maurer (2004).

    Examples
    --------
    >>> [round(pac_bayes(0.05, divergence=50, examples=1000, form=form).value, 4)
    ...  for form in ("McAllester", "kl-inverse")]
    [0.2232, 0.158]
    """
    check_delta(delta)
    terms: dict[str, float] = {
        "stochastic_risk": fraction("stochastic_risk", stochastic_risk),
        "divergence": nonnegative("divergence", divergence),
        "examples": count("examples", examples),
    }
    assumptions = [
        "the bound is on a function drawn from Q for every prediction, not on any one of them",
        f"{examples} training examples, independent; the prior does not depend on them",
    ]
    if form == "McAllester":
        count("examples", examples, least=2)
        terms["confidence"] = math.log(examples / delta)
        formula = "stochastic_risk + ((divergence + confidence) / (2 * (examples - 1)))**0.5"
        return assembled(formula, terms, assumptions, source="McAllester (1999)")
    if form != "kl-inverse":
        raise ValueError(f"form must be one of {get_args(PacBayesForm)}, got {form!r}")
    terms["confidence"] = math.log(2 * math.sqrt(examples) / delta)
    budget = (divergence + terms["confidence"]) / examples * (1 + 2.0**-49)
    terms |= {"budget": budget, "largest_risk": kl_inverse(stochastic_risk, budget)}
    assumptions.append("largest_risk is the largest r with kl(stochastic_risk || r) <= budget")
    source = "Langford and Seeger (2001), constant of Maurer (2004); rounded up"
    return assembled("largest_risk", terms, assumptions, source=source)


def gaussian_pac_bayes(
    weights: Sequence[Tensor],
    data: Dataset,
    *,
    prior: Sequence[Tensor] | None = None,
    delta: float = 0.05,
    form: PacBayesForm = "kl-inverse",
    seed: int = 0,
) -> Bound:
    r"""Bound on the error of a ReLU network with Gaussian noise on its weights.

    Parameters
    ----------
    weights : sequence of Tensor
        [d_k, d_(k-1)] for each of L layers without biases, the input first: the centre of Q.
    data : Dataset
        The training sample.
    prior : sequence of Tensor, optional
        Centre of the prior, of the same shapes, which must not depend on `data`; zero by default.
    delta : float
        Probability that the bound may fail.
    form : str
        See :func:`pac_bayes`.
    seed : int
        Seed of the noise.

    Returns
    -------
    Bound
        On the probability of a wrong class by a network whose noise is drawn for each input.

    Raises
    ------
    TypeError, ValueError
        If the matrices do not fit together, the prior has other shapes, or a number is out of
        range.

    Notes
    -----
    Q and P have the same noise, :math:`\sigma_k = 2^{-j}/\sqrt{d_{k-1}}` in layer k, so that
    :math:`\mathrm{KL} = \sum_k \lVert W_k - P_k\rVert_F^2/(2\sigma_k^2)`. The smallest value over
    j = 0, ..., 11 is returned; each j has 1/12 of delta. Half of that is for the bound, and half
    for the error of the noisy network on the sample, of which one draw of noise for each example
    is seen: Chernoff's inequality, inverted, bounds the mean of these independent errors.

    Examples
    --------
    >>> import torch
    >>> from gencoh_lib.data import Dataset
    >>> x, y = torch.eye(2).repeat(2000, 1), torch.arange(2).repeat(2000)
    >>> round(gaussian_pac_bayes([torch.eye(2)], Dataset("two", x, y, 2, "here")).value, 2)
    0.02
    """
    matrices = check_weights(weights)
    others = None if prior is None else check_weights(prior, "prior")
    shapes = [tuple(weight.shape) for weight in matrices]
    if others is not None and [tuple(other.shape) for other in others] != shapes:
        found = [tuple(other.shape) for other in others]
        raise ValueError(f"prior must have the shapes of the weights, {shapes}; got {found}")
    check_delta(delta)
    return best_level(noise_levels(matrices, others, data, delta=delta, seed=seed), form)


@dataclass(frozen=True)
class Level:
    """One level of noise: what was seen with it, what it costs, and its share of delta."""

    sigma: float  # in the first layer
    seen: float  # error on the sample, one draw of noise for each example
    divergence: float
    examples: int
    share: float  # for the bound, and once more for the error

    def bound(self, form: PacBayesForm) -> Bound:
        """Bound with the likely error in place of the one that was seen."""
        likely = kl_inverse(self.seen, math.log(1 / self.share) / self.examples * (1 + 2.0**-49))
        return pac_bayes(
            likely,
            divergence=self.divergence,
            examples=self.examples,
            delta=self.share,
            form=form,
        )


def noise_levels(
    weights: Sequence[Tensor],
    prior: Sequence[Tensor] | None,
    data: Dataset,
    *,
    delta: float,
    seed: int,
) -> list[Level]:
    """Try a network with all levels of noise."""
    moves = weights if prior is None else [a - b for a, b in zip(weights, prior, strict=True)]
    levels = []
    for halvings in range(_HALVINGS):
        sigmas = [2.0**-halvings / math.sqrt(width) for width in sizes(weights)[:-1]]
        parts = zip(moves, sigmas, strict=True)
        divergence = sum(float(move.square().sum()) / (2 * sigma**2) for move, sigma in parts)
        errors = noisy_margins(weights, data, sigmas, seed=seed + halvings) <= 0
        seen = float(errors.double().mean())
        levels.append(Level(sigmas[0], seen, divergence, len(data), delta / (2 * _HALVINGS)))
    return levels


def best_level(levels: Sequence[Level], form: PacBayesForm) -> Bound:
    """Choose the level with the smallest bound: each has paid for that with its share."""
    best, level = min(((level.bound(form), level) for level in levels), key=lambda b: b[0].value)
    note = (
        f"stochastic_risk is the upper limit for an error of {level.seen:.4g} that was seen with "
        f"noise of {level.sigma:.3g} per weight in the first layer, the best of {len(levels)} "
        "levels; delta is shared among them"
    )
    return replace(best, assumptions=(*best.assumptions, note))
