"""Coherence of m given vectors: the result, the estimators, the relation to mini-batches.

The public names are those of :mod:`gencoh_lib.coherence`, which also measures networks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from types import MappingProxyType

import torch
from torch import Tensor

_VANISHED = "all gradients vanish, so there is nothing to agree"


@dataclass(frozen=True)
class Block:
    """Coherence of the gradients restricted to one parameter or layer.

    Attributes
    ----------
    alpha : float
        As in :class:`Coherence`, of this block's coordinates alone.
    m_coherence : float
        Likewise.
    energy_share : float
        The block's part of the sum of squared norms. Over all blocks the shares sum to 1, and over
        those with a share the weighted mean of ``alpha`` is the ``alpha`` of the whole.

    Examples
    --------
    >>> measured = from_gradients(torch.eye(2))
    >>> measured.by_layer["gradients"].energy_share
    1.0
    """

    alpha: float
    m_coherence: float
    energy_share: float


@dataclass(frozen=True, eq=False)
class Coherence:
    """Coherence of one sample of per-example gradients.

    Attributes
    ----------
    alpha : float
        In [0, 1]; NaN where all gradients vanish.
    m_coherence : float
        ``examples * alpha``, in [0, m].
    alpha_corrected : float
        The U-statistic (m_coherence - 1)/(m - 1); may be negative. NaN for one example.
    interval : tuple of float
        Delete-one jackknife interval of ``alpha_corrected``, of nominal level ``confidence``; NaN
        for fewer than three examples or where it was not measured. It is an approximation, too
        short where a few examples hold most of the energy, and may reach beyond 1.
    standard_error : float
        Jackknife standard error of ``alpha_corrected``.
    confidence : float
        Nominal coverage of ``interval``.
    examples : int
        Their number m.
    squared_norms : Tensor
        [m] squared norms of the per-example gradients, float64.
    mean_gradient_squared_norm : float
        Squared norm of the mean gradient, ``alpha`` times the mean of ``squared_norms``.
    by_parameter : mapping of str to Block
        The same by parameter.
    by_layer : mapping of str to Block
        The same by the module that owns the parameters.
    frozen : tuple of str
        Parameters that were left out because they do not require a gradient.
    routes : mapping of str to str
        How each parameter was measured: "rule" (fast), "general" (exact too, and slower), or
        "unused" where no loss depends on it and its gradients are zero.
    reason : str or None
        Why something is NaN.

    Examples
    --------
    >>> from_gradients(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    coherence of 3 per-example gradients
      m-coherence           1.667   of at most 3
      alpha                0.5556
      alpha, corrected     0.3333   95% jackknife interval [-0.9733, 1.64]
    """

    alpha: float
    m_coherence: float
    alpha_corrected: float
    interval: tuple[float, float]
    standard_error: float
    confidence: float
    examples: int
    squared_norms: Tensor
    mean_gradient_squared_norm: float
    by_parameter: Mapping[str, Block]
    by_layer: Mapping[str, Block]
    frozen: tuple[str, ...] = ()
    routes: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None

    @property
    def gradient_diversity(self) -> float:
        """The reciprocal of m-coherence, Q divided by the squared norm of S (Yin et al. 2018)."""
        return 1 / self.m_coherence if self.m_coherence else math.inf

    @property
    def noise_scale(self) -> float:
        """Total variance of the gradients over the squared mean, (1 - alpha)/alpha."""
        return (1 - self.alpha) / self.alpha if self.alpha else math.inf

    def __repr__(self) -> str:
        low, high = self.interval
        lines = [
            f"coherence of {self.examples} per-example gradients",
            f"  m-coherence      {self.m_coherence:10.4g}   of at most {self.examples}",
            f"  alpha            {self.alpha:10.4g}",
            f"  alpha, corrected {self.alpha_corrected:10.4g}   "
            f"{100 * self.confidence:g}% jackknife interval [{low:.4g}, {high:.4g}]",
        ]
        if len(self.by_layer) > 1:
            lines.append(f"  {'layer':<16s} {'m-coherence':>11s} {'alpha':>9s} {'energy':>7s}")
            lines += [
                f"  {name:<16s} {b.m_coherence:11.4g} {b.alpha:9.4g} {b.energy_share:7.1%}"
                for name, b in self.by_layer.items()
            ]
        lines += [f"  frozen, not measured: {', '.join(self.frozen)}"] if self.frozen else []
        for route, label in (("unused", "no loss depends on"), ("general", "the slow route took")):
            named = [name for name, taken in self.routes.items() if taken == route]
            lines += [f"  {label}: {', '.join(named)}"] if named else []
        lines += [f"  note: {self.reason}"] if self.reason else []
        return "\n".join(lines)


def from_gradients(gradients: Tensor, *, confidence: float = 0.95) -> Coherence:
    """Coherence of per-example gradients that are already at hand.

    Parameters
    ----------
    gradients : Tensor
        [m, p] one gradient a row.
    confidence : float
        Nominal coverage of the jackknife interval.

    Returns
    -------
    Coherence
        With a single block, named ``"gradients"``.

    Raises
    ------
    TypeError, ValueError
        If ``gradients`` is not a finite floating-point matrix.

    Examples
    --------
    >>> from_gradients(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]])).m_coherence
    1.3333333333333333
    """
    if not isinstance(gradients, Tensor) or not gradients.dtype.is_floating_point:
        raise TypeError("gradients must be a floating-point torch.Tensor [m, p]")
    if gradients.dim() != 2 or not gradients.numel():
        raise ValueError(f"gradients must be a matrix [m, p], got {tuple(gradients.shape)}")
    if not bool(torch.isfinite(gradients).all()):
        raise ValueError("gradients hold NaN or infinity")
    rows = gradients.detach().double()
    total = rows.sum(0)
    return summarise(
        {"gradients": total}, {"gradients": rows.square().sum(1)}, rows @ total, confidence
    )


def of_minibatches(alpha: float, batch_size: int) -> float:
    r"""Coherence of averages of k independent gradients, from that of the single ones.

    Parameters
    ----------
    alpha : float
        Coherence of the distribution of per-example gradients, in [0, 1].
    batch_size : int
        k, the number of examples in one average.

    Returns
    -------
    float
        :math:`k\alpha / (1 + (k-1)\alpha)`; the odds :math:`\alpha/(1-\alpha)` grow k-fold.

    Raises
    ------
    ValueError
        If ``alpha`` lies outside [0, 1] or ``batch_size`` is not a positive whole number.

    Notes
    -----
    Chatterjee and Zielinski (2022), the property on mini-batches; proof in the course.

    Examples
    --------
    >>> of_minibatches(0.25, 5)
    0.625
    """
    _check_alpha(alpha, batch_size)
    return batch_size * alpha / (1 + (batch_size - 1) * alpha)


def of_examples(alpha_of_minibatches: float, batch_size: int) -> float:
    r"""Coherence of single gradients, from that of averages of k: the inverse relation.

    Parameters
    ----------
    alpha_of_minibatches : float
        Coherence measured on gradients of batches, in [0, 1].
    batch_size : int
        k, the number of examples in each batch (not the number of batches).

    Returns
    -------
    float
        :math:`\alpha_k / (k - (k-1)\alpha_k)`.

    Raises
    ------
    ValueError
        As :func:`of_minibatches`.

    Examples
    --------
    >>> of_examples(0.625, 5)
    0.25
    """
    _check_alpha(alpha_of_minibatches, batch_size)
    return alpha_of_minibatches / (batch_size - (batch_size - 1) * alpha_of_minibatches)


def summarise(
    sums: Mapping[str, Tensor],
    squares: Mapping[str, Tensor],
    inner: Tensor | None,
    confidence: float,
    *,
    layers: Mapping[str, str] | None = None,
    frozen: tuple[str, ...] = (),
    routes: Mapping[str, str] | None = None,
) -> Coherence:
    """Everything that follows from the summed gradients, the [m] squared norms and g_i . S.

    ``layers`` names the layer of each parameter; by default every one is a layer of its own.
    """
    check_confidence(confidence)
    per_row = torch.stack(list(squares.values())).sum(0)
    examples = len(per_row)
    agreement = {name: float(total.square().sum()) for name, total in sums.items()}
    energy = {name: float(rows.sum()) for name, rows in squares.items()}
    total_agreement, total_energy = sum(agreement.values()), sum(energy.values())

    def block(names: list[str]) -> Block:
        parts = sum(agreement[n] for n in names), sum(energy[n] for n in names)
        return _block(*parts, examples, total_energy)

    members: dict[str, list[str]] = {}
    for name in sums:
        members.setdefault(layers[name] if layers else name, []).append(name)
    whole = block(list(sums))
    error, reason = _jackknife(total_agreement, per_row, inner)
    corrected = (whole.m_coherence - 1) / (examples - 1) if examples > 1 else math.nan
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * error
    return Coherence(
        alpha=whole.alpha,
        m_coherence=whole.m_coherence,
        alpha_corrected=corrected,
        interval=(corrected - reach, corrected + reach),
        standard_error=error,
        confidence=confidence,
        examples=examples,
        squared_norms=per_row,
        mean_gradient_squared_norm=total_agreement / examples**2,
        by_parameter=MappingProxyType({name: block([name]) for name in sums}),
        by_layer=MappingProxyType({layer: block(names) for layer, names in members.items()}),
        frozen=frozen,
        routes=MappingProxyType(dict(routes or {})),
        reason=reason,
    )


def _block(agreement: float, energy: float, examples: int, total_energy: float) -> Block:
    """Coherence from ``|S|^2`` and ``Q`` of a block; rounding must not push it past its range."""
    if not energy:
        return Block(math.nan, math.nan, 0.0 if total_energy else math.nan)
    m_coherence = min(agreement / energy, float(examples))
    return Block(m_coherence / examples, m_coherence, energy / total_energy)


def _jackknife(
    agreement: float, squared_norms: Tensor, inner: Tensor | None
) -> tuple[float, str | None]:
    """Delete-one jackknife standard error of alpha_corrected, and the reason where there is none.

    Leaving out example i takes ``2 g_i.S - |g_i|^2`` from ``|S|^2``, so m values of the statistic
    cost m inner products. (A bootstrap would repeat examples, and each repeat agrees with itself.)
    """
    examples, energy = len(squared_norms), float(squared_norms.sum())
    if not energy:
        return math.nan, _VANISHED
    if not math.isfinite(energy + agreement):
        return math.nan, "the squared gradients overflow: scale the losses down"
    if examples == 1:
        return math.nan, "one example has no others to agree with"
    if examples < 3:
        return math.nan, "an interval needs at least three examples"
    if inner is None:
        return math.nan, "no interval: it needs a second sweep over the batches, revisit()"
    left = energy - squared_norms
    # an example that holds all the energy leaves rounding noise behind
    if float(left.min()) <= 1e-12 * energy:
        return math.nan, "no interval: only one example has a gradient"
    without = ((agreement - 2 * inner + squared_norms) / left - 1) / (examples - 2)
    spread = float((without - without.mean()).square().sum())
    return math.sqrt((examples - 1) / examples * spread), None


def _check_alpha(alpha: float, batch_size: int) -> None:
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}; is it m-coherence? Divide by m")
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number >= 1, got {batch_size!r}")


def check_confidence(confidence: float) -> None:
    if not isinstance(confidence, int | float) or not 0 < confidence < 1:
        raise ValueError(f"confidence must lie strictly between 0 and 1, got {confidence!r}")
