r"""Estimates of coherence that never look at the gradient of a single example.

:func:`gencoh_lib.coherence.measure` is exact, and on ordinary layers about as cheap as one
backward pass: use it wherever it runs in time. The two estimators here are for the rest, and they
check it: they share neither its rules nor each other's mathematics. Write
:math:`S = \sum_i g_i` and :math:`Q = \sum_i\lVert g_i\rVert^2` over the m examples of the sample.
Both have S exactly and estimate Q, without bias, and both have a standard error:

* :func:`from_sub_batches` deals the examples into p equal parts at random and sees the gradients of
  the p parts alone: p backward passes. Take it first.
* :func:`from_probes` asks how fast every loss changes along random directions: each costs about
  three backward passes. Take it where m has no suitable divisor, or as a second opinion; not where
  an operation cannot be differentiated twice, since there every probe forms all m gradients.

With n draws both err, relative to the part of Q that is not known exactly, by about
:math:`\sqrt{2/(nr)}`, where :math:`r = (\mathrm{tr}\,C)^2/\mathrm{tr}\,C^2` counts the directions
in which the gradients spread, C being their covariance: a hundred directions and eight draws give
5 %.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from gencoh_lib import per_example
from gencoh_lib._graph import check_losses, check_parameters, refuse_what_hides, trainable
from gencoh_lib._vectors import backward, gram, wide

__all__ = ["Estimate", "from_probes", "from_sub_batches"]


@dataclass(frozen=True)
class Estimate:
    """An estimate of the coherence of one sample of per-example gradients.

    Attributes
    ----------
    alpha : float
        Estimate of what :class:`~gencoh_lib.coherence.Coherence` calls so, in [0, 1]; NaN where
        everything that was seen of the gradients vanishes.
    m_coherence : float
        ``examples * alpha``, in [0, m]. Its reciprocal, the gradient diversity, is unbiased.
    alpha_corrected : float
        (m_coherence - 1)/(m - 1); may be negative. NaN for one example.
    standard_error : float
        Of ``alpha_corrected``, as an estimate of the exact value *for these examples*: the luck of
        the draw alone. How far the sample is from the distribution that it came from is another
        question, which the interval of :class:`~gencoh_lib.coherence.Coherence` answers.
    examples : int
        Their number m.
    method : {"sub-batches", "probes"}
        How it was estimated.
    draws : int
        Number of sub-batches or probes.

    Examples
    --------
    >>> Estimate(0.25, 2.5, 1.5 / 9, 0.02, 10, "probes", 32)
    coherence of 10 per-example gradients, estimated from 32 probes
      m-coherence             2.5 ± 0.18   of at most 10
      alpha                  0.25 ± 0.018
      alpha, corrected     0.1667 ± 0.02
      ± one standard error, about the exact value for these examples
    """

    alpha: float
    m_coherence: float
    alpha_corrected: float
    standard_error: float
    examples: int
    method: Literal["sub-batches", "probes"]
    draws: int

    def __repr__(self) -> str:
        m, error = self.examples, self.standard_error
        head = f"coherence of {m} per-example gradients, estimated from {self.draws} {self.method}"
        lines = [
            head,
            f"  m-coherence      {self.m_coherence:10.4g} ± {(m - 1) * error:.2g}   of at most {m}",
            f"  alpha            {self.alpha:10.4g} ± {(m - 1) / m * error:.2g}",
            f"  alpha, corrected {self.alpha_corrected:10.4g} ± {error:.2g}",
            "  ± one standard error, about the exact value for these examples",
        ]
        if math.isnan(self.alpha):
            lines[-1] = "  note: all that was seen of the gradients vanishes; nothing to agree"
        return "\n".join(lines)


def from_sub_batches(
    losses: Tensor, model: nn.Module, *, parts: int = 8, seed: int = 0
) -> Estimate:
    r"""Coherence from the gradients of a few random, equal parts of the batch.

    Parameters
    ----------
    losses : Tensor
        [m] loss of each example, with its graph, which is kept.
    model : Module
        The model behind the losses; its parameters that require a gradient are measured.
    parts : int
        p, at least 4, a divisor of m. With p = m the result is exact.
    seed : int
        Seed of the deal.

    Returns
    -------
    Estimate

    Raises
    ------
    TypeError, ValueError
        As :func:`gencoh_lib.coherence.measure`; also if ``parts`` is less than 4 or does not
        divide the number of examples.

    Notes
    -----
    Deal the examples into parts of k = m/p, let :math:`T_a` be the sum of the gradients in part a
    and :math:`\bar T = S/p`. A mean of k gradients scatters k times less than a single one
    (Chatterjee and Zielinski 2022, on mini-batches). Drawn *without* replacement, and with the
    denominators of the analysis of variance, that is an identity for the sample at hand:

    .. math:: \hat Q = \frac{\lVert S\rVert^2}{m}
        + \frac{m-1}{k(p-1)} \sum_a \lVert T_a - \bar T\rVert^2, \qquad \mathbb{E}\,\hat Q = Q,

    over all deals. So :math:`\hat Q/m` and
    :math:`(\lVert S\rVert^2 - \hat Q)/(m(m-1))`, the denominator and the numerator of
    ``alpha_corrected``, are unbiased twice: over deals for the values of the sample, and over
    independent examples for :math:`\mathbb{E}\lVert g\rVert^2` and
    :math:`\lVert\mathbb{E} g\rVert^2` of their distribution (the estimators of the gradient noise
    scale of McCandlish et al. 2018, with batches of k and m). ``alpha`` and ``m_coherence``
    estimate the plug-in values of the sample, which depend on m.

    The standard error needs no second deal and no normality. Let K be the p x p matrix of the
    :math:`\langle T_a, T_b\rangle` and :math:`\tilde K` the same with rows and columns centred as
    in the unbiased distance covariance (Székely and Rizzo 2014), which leaves out the diagonal.
    Derived here: over all deals, exactly,

    .. math:: \mathrm{Var}\,\hat Q =
        \mathbb{E}\,\frac{2(k-1)(m-1)}{k^2(p-1)(p-3)} \sum_{a\ne b}\tilde K_{ab}^2 .

    It is passed on to the quotients to first order, by the delta method.

    Examples
    --------
    Gradients at right angles to each other and of one length agree with themselves only, and any
    deal shows it:

    >>> model = nn.Linear(8, 1, bias=False)
    >>> result = from_sub_batches(model(torch.eye(8)).squeeze(1), model, parts=4)
    >>> result.m_coherence, result.standard_error
    (1.0, 0.0)
    """
    parameters = _checked(losses, model)
    _check_draws("parts", parts, 4, "with fewer there is no standard error")
    m = len(losses)
    if m % parts:
        near = [p for p in range(4, m + 1) if m % p == 0]
        remedy = (
            f"take parts={min(near, key=lambda p: (abs(p - parts), p))}, the nearest divisor, or "
            f"leave {m % parts} of the examples out"
            if near
            else "gencoh_lib.coherence.measure() is exact, and cheap for so few"
        )
        raise ValueError(f"parts={parts} does not divide the {m} examples equally: {remedy}")
    order = torch.randperm(m, generator=torch.Generator().manual_seed(seed))
    with torch.enable_grad():
        dealt = losses[order.to(losses.device)].reshape(parts, -1)
        # in half precision a sum of losses can overflow where their gradients do not
        sums = dealt.sum(1, dtype=torch.promote_types(losses.dtype, torch.float32))
    return _from_parts(gram(sums, parameters), m)


def from_probes(losses: Tensor, model: nn.Module, *, probes: int = 32, seed: int = 0) -> Estimate:
    r"""Coherence from the rates at which the losses change along random directions.

    Parameters
    ----------
    losses : Tensor
        [m] loss of each example, with its graph, which is kept.
    model : Module
        The model behind the losses; its parameters that require a gradient are measured.
    probes : int
        n, the number of directions, at least 2. Each costs about three backward passes.
    seed : int
        Seed of the directions.

    Returns
    -------
    Estimate

    Raises
    ------
    TypeError, ValueError
        As :func:`gencoh_lib.coherence.measure`; also if ``probes`` is less than 2.

    Notes
    -----
    For a direction v of independent standard normal entries
    :math:`\mathbb{E}\langle g_i, v\rangle^2 = \lVert g_i\rVert^2` (Hutchinson 1990). One backward
    pass gives S exactly, and with it the part of every gradient along :math:`s = S/\lVert S\rVert`,
    so that only the rest is left to chance:

    .. math:: \hat Q = \sum_i \langle g_i, s\rangle^2 + \frac1n\sum_v \sum_i
        \bigl(\langle g_i, v\rangle - \langle g_i, s\rangle\langle s, v\rangle\bigr)^2,
        \qquad \mathbb{E}\,\hat Q = Q .

    Hence ``alpha`` never exceeds 1, and there is no error where all gradients point the same way.
    The standard error is that of the mean over the probes, passed on to the quotients to first
    order. Everything estimates the values of the sample: ``alpha`` and ``m_coherence`` are the
    plug-in ones.

    Examples
    --------
    >>> model = nn.Linear(2, 1, bias=False)
    >>> x = torch.tensor([[3.0, 4.0], [6.0, 8.0]])  # one direction, lengths 5 and 10
    >>> round(from_probes(model(x).squeeze(1), model, probes=4).m_coherence, 4)  # 225/125
    1.8
    """
    parameters = _checked(losses, model)
    _check_draws("probes", probes, 2, "one alone has no standard error")
    dtype = wide(losses)
    tensors = list(parameters.values())
    total = [g.to(dtype) for g in backward(losses, tensors, torch.ones_like(losses.detach()))]
    agreement = float(torch.stack([g.square().sum() for g in total]).sum())
    length = math.sqrt(agreement)

    def rates(direction: list[Tensor]) -> Tensor:
        along = dict(zip(parameters, direction, strict=True))
        return per_example.directional_derivatives(losses, parameters, along).detach().to(dtype)

    shared = [g / length if length else torch.zeros_like(g) for g in total]
    along_sum = rates(shared) if length else torch.zeros(len(losses), dtype=dtype).to(losses.device)
    generator = torch.Generator().manual_seed(seed)
    rest = torch.zeros(probes, dtype=torch.float64)
    for draw in range(probes):
        probe = [torch.randn(p.shape, generator=generator).to(p.detach()) for p in tensors]
        overlap = torch.stack([(s * v).sum() for s, v in zip(shared, probe, strict=True)]).sum()
        rest[draw] = (rates(probe) - along_sum * overlap).square().sum()
    energy = float(along_sum.square().sum()) + float(rest.mean())
    return _estimate(agreement, energy, float(rest.var()) / probes, len(losses), "probes", probes)


def _from_parts(inner: Tensor, examples: int) -> Estimate:
    """Estimate from the p x p inner products of the summed gradients of p equal parts."""
    m, p = examples, len(inner)
    k = m // p
    agreement = max(0.0, float(inner.sum()))
    scatter = max(0.0, float(inner.trace()) - agreement / p)
    energy = agreement / m + (m - 1) / (k * (p - 1)) * scatter
    off = inner - inner.diagonal().diag()
    rows = off.sum(0) / (p - 2)
    centred = off - rows - rows[:, None] + off.sum() / ((p - 1) * (p - 2))
    spread = float((centred - centred.diagonal().diag()).square().sum())
    variance = 2 * (k - 1) * (m - 1) / (k**2 * (p - 1) * (p - 3)) * spread
    return _estimate(agreement, energy, variance, m, "sub-batches", p)


def _estimate(
    agreement: float,
    energy: float,
    variance: float,
    examples: int,
    method: Literal["sub-batches", "probes"],
    draws: int,
) -> Estimate:
    """Quotients of ``|S|^2`` and the estimate of Q, whose variance is given."""
    if not math.isfinite(agreement + energy + variance):
        raise ValueError(
            "the gradients hold NaN or infinity, or their squares overflow: look at the inputs, or "
            "at a learning rate that is too large, or scale the losses down"
        )
    if not energy:
        return Estimate(math.nan, math.nan, math.nan, math.nan, examples, method, draws)
    m_coherence = min(agreement / energy, float(examples))  # rounding must not push it past m
    others = examples - 1 if examples > 1 else math.nan
    return Estimate(
        alpha=m_coherence / examples,
        m_coherence=m_coherence,
        alpha_corrected=(m_coherence - 1) / others,
        standard_error=m_coherence * math.sqrt(variance) / energy / others,
        examples=examples,
        method=method,
        draws=draws,
    )


def _checked(losses: Tensor, model: nn.Module) -> dict[str, Tensor]:
    """Refuse what has no per-example gradients; return the parameters to measure."""
    parameters, _ = trainable(model)
    check_losses(losses)
    check_parameters(parameters)
    refuse_what_hides(losses, parameters, model.named_modules())
    return parameters


def _check_draws(name: str, value: int, least: int, reason: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number >= {least} ({reason}), got {value!r}")
