"""The bound of Theorem 13, and the one-shot bound, behind :mod:`gencoh_lib.sparsity`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor, nn

from gencoh_lib._bound import Bound
from gencoh_lib._gaussian_perturbation import perturbation_std
from gencoh_lib._sparse_hyperparameters import Hyperparameters
from gencoh_lib._sparsity_network import Norm
from gencoh_lib._sparsity_prior import Part, Prior
from gencoh_lib._sparsity_sample import Measured, measured

_PAPER = "Muthukumar and Sulam (2023, COLT)"
_THEOREM_13 = "margin_loss + derandomisation + full_kl + sparse_loss + sparse_loss_3 + partial_kl"
_ONE_SHOT = "joint_loss + (failure + complexity) / (1 - failure)"


@dataclass(frozen=True, repr=False, kw_only=True)
class SparsityBound(Bound):
    r"""A bound on the error of a network, with what it was computed from.

    Attributes
    ----------
    hyper : Hyperparameters
        Levels, norms, perturbations.
    std : tuple of float
        K + 1 standard deviations :math:`\sigma_k` of the noise on the weights.
    kl : tuple of float
        K + 1 divergences :math:`\mathrm{KL}_k` from the prior.
    threshold : float
        :math:`4\zeta_{K+1}\gamma_{K+1}`, the margin that is asked for.
    failing, failing_3 : tuple of float
        K shares of the sample with :math:`r_n < \gamma_n`, and :math:`r_n < 3\gamma_n`, for some
        :math:`n \le k`.
    examples : int
        m, the examples that the empirical terms were evaluated on.
    delta : float
        Probability that the bound may fail.
    union_cost : float
        :math:`\log T`, for one choice out of T; :math:`\delta/T` is what the theorem was used at.

    Examples
    --------
    >>> import torch
    >>> W, V = torch.eye(4) - 0.5, torch.eye(2).repeat(1, 2)
    >>> x, y = torch.eye(4).repeat(250, 1), torch.tensor([0, 1] * 500)
    >>> bound = one_shot([W, V], x, y, levels=[3], perturbations=0.06, prior=Prior.fixed([W, V]))
    >>> bound.kl, bound.failing_3, round(bound.threshold, 4)
    ((0.0, 0.0), (0.0,), 0.4944)
    """

    hyper: Hyperparameters
    std: tuple[float, ...]
    kl: tuple[float, ...]
    threshold: float
    failing: tuple[float, ...]
    failing_3: tuple[float, ...]
    examples: int
    delta: float
    union_cost: float

    def __repr__(self) -> str:
        """Return a small table."""
        levels = ", ".join(map(str, self.hyper.levels)) or "none"
        shares = ", ".join(f"{share:.3g}" for share in self.failing_3) or "none"
        return "\n".join([
            super().__repr__(),
            f"  levels    {levels} of {', '.join(f'{e:.3g}' for e in self.hyper.perturbations)} "
            "relative perturbation",
            f"  KL        {', '.join(f'{kl:.4g}' for kl in self.kl)} by layer",
            f"  failing   {shares} of the examples, by depth, at 3 gamma; "
            f"margin asked for {self.threshold:.3g}",
            f"  sample    {self.examples} examples, delta {self.delta:g}, union cost "
            f"{self.union_cost:.3g}",
        ])  # fmt: skip


def theorem_13(
    model: nn.Module | Sequence[Tensor],
    x: Tensor | Part,
    y: Tensor | None = None,
    *,
    prior: Prior | None = None,
    hyper: Hyperparameters | None = None,
    levels: Sequence[int] | None = None,
    perturbations: Sequence[float] | float | None = None,
    input_norm: float = 1.0,
    norm: Norm = "babel",
    babel_points: int = 100,
    delta: float = 0.05,
    union_cost: float = 0.0,
    paper_exact: bool = False,
) -> SparsityBound:
    r"""The paper's bound on the error of a network, every part named.

    Parameters
    ----------
    model : torch.nn.Module or sequence of Tensor
        The network or its K + 1 weights; only read.
    x : Tensor or Part
        [m, ...] inputs of the sample, or the part of a split that is for the bound.
    y : Tensor, optional
        [m] classes as int64; left out where x is a :class:`Part`.
    prior : Prior, optional
        Centre of the prior, by default zero. Must not have seen any of the sample.
    hyper : Hyperparameters, optional
        Levels, norms, perturbations, all fixed before the sample was seen. The network must be in
        their class, and is compared with the prior as it is.
    levels, perturbations, input_norm : optional
        In place of `hyper`: K levels and K + 1 relative perturbations (or one for all layers)
        that were fixed before, and a bound on the 2-norm of every input. Network and prior are
        then each divided, layer by layer, by their own row norm, which changes no prediction,
        and the Babel function is rounded up to a grid, whose price K log(`babel_points`) is
        added to `union_cost`.
    norm : str
        Bound on the sparse norms where `levels` are given: ``"babel"``, the paper's;
        ``"minimum"``, the smallest of three, and ``"spectral"``, that without Babel (both derived
        in the course).
    babel_points : int
        Points of that grid for each hidden layer.
    delta : float
        Probability that the bound may fail.
    union_cost : float
        :math:`\log T` if the choice was made after seeing the sample, among T that were fixed.
    paper_exact : bool
        Noise as printed: its failure shared among K + 1 events and no corners, see
        :func:`perturbation_std`. By default it is shared among the 2 K + 1 events that there are.

    Returns
    -------
    SparsityBound
        On the probability of a negative margin. Terms: ``margin_loss``, ``derandomisation``,
        ``full_kl``, ``sparse_loss``, ``sparse_loss_3``, ``partial_kl``, which add up.

    Raises
    ------
    SeenByPriorError
        If the prior has seen an example of the sample.
    TypeError, ValueError
        If shapes, classes or numbers do not fit, an input is longer than `input_norm`, or the
        network is outside the class of `hyper`.

    Notes
    -----
    With :math:`\sigma_k` of failure :math:`1/\sqrt m` and
    :math:`\ell = 2\log(2m(K+1)T/\delta)`,

    .. math::

        R_0(h) \le{}& \hat R_{4\zeta_{K+1}\gamma_{K+1}}(h) + \frac{4(K+1)}{\sqrt m - 1}
        + \sqrt{\frac{4\,\mathrm{KL} + \ell}{m-1}}
        + \sum_{k=1}^{K} \sqrt{\frac{4 \sum_{n \le k}\mathrm{KL}_n + \ell}{m-1}} \\
        &+ \sum_{k=1}^{K} \frac1m \#\{i : \exists n \le k: r_n < \gamma_n\}
        + \sum_{k=1}^{K} \frac1m \#\{i : \exists n \le k: r_n < 3\gamma_n\}.

    Theorem 13 of Muthukumar and Sulam (2023), p. 21, as its statement has it (the proof slips in
    three displays). Half of the second term would do, see the course. A margin or radius that
    equals its threshold is good.

    Examples
    --------
    >>> import torch
    >>> W, V = torch.eye(4) - 0.5, torch.eye(2).repeat(1, 2)
    >>> hyper = Hyperparameters((3,), (1.0, 1.0), (0.0,), (0.06, 0.06), 1.0)
    >>> x, y = torch.eye(4).repeat(2500, 1), torch.tensor([0, 1] * 5000)
    >>> round(theorem_13([W, V], x, y, hyper=hyper, paper_exact=True).value, 7)
    7.3945333
    """
    found = measured(
        model, x, y, prior, hyper, levels, perturbations, input_norm, norm, babel_points, delta,
        union_cost,
    )  # fmt: skip
    return theorem_13_of(found, paper_exact=paper_exact)


def theorem_13_of(found: Measured, *, paper_exact: bool) -> SparsityBound:
    """Put Theorem 13 together."""
    m, layers = found.examples, len(found.hyper.row_norms)
    std = perturbation_std(
        found.network.shapes, found.hyper, 1 / math.sqrt(m),
        paper_exact=paper_exact, corners=not paper_exact,
    )  # fmt: skip
    kl = found.divergences(std)
    confidence = 2 * (math.log(2 * m * layers / found.delta) + found.union_cost)

    def root(divergence: float) -> float:
        return math.sqrt((4 * divergence + confidence) / (m - 1))

    terms = {
        "margin_loss": found.margin_loss,
        "derandomisation": 4 * layers / (math.sqrt(m) - 1),
        "full_kl": root(math.fsum(kl)),
        "sparse_loss": math.fsum(found.failing),
        "sparse_loss_3": math.fsum(found.failing_3),
        "partial_kl": math.fsum(root(math.fsum(kl[: k + 1])) for k in range(layers - 1)),
    }
    shared = "K + 1 events, as printed, of the 2 K + 1" if paper_exact else "all 2 K + 1 events"
    return _assembled(
        found, _THEOREM_13, terms, std, kl,
        source=f"{_PAPER}, Theorem 13; noise for {shared}",
    )  # fmt: skip


def one_shot(
    model: nn.Module | Sequence[Tensor],
    x: Tensor | Part,
    y: Tensor | None = None,
    *,
    prior: Prior | None = None,
    hyper: Hyperparameters | None = None,
    levels: Sequence[int] | None = None,
    perturbations: Sequence[float] | float | None = None,
    input_norm: float = 1.0,
    norm: Norm = "babel",
    babel_points: int = 100,
    delta: float = 0.05,
    union_cost: float = 0.0,
    failure: float | None = None,
) -> SparsityBound:
    r"""A tighter bound on the error of a network; derived in the course, not in the paper.

    Parameters
    ----------
    model, x, y, prior, hyper, levels, perturbations, input_norm, norm, babel_points
        See :func:`theorem_13`.
    delta, union_cost
        See :func:`theorem_13`.
    failure : float, optional
        :math:`\tau`, the probability that is allowed for noise outside the neighbourhood, fixed
        before the sample was seen; by default :math:`1/\sqrt m`.

    Returns
    -------
    SparsityBound
        On the probability of a negative margin. Terms: ``joint_loss``, the share J of the
        examples with :math:`\rho < 4\zeta_{K+1}\gamma_{K+1}` or some :math:`r_k < 3\gamma_k`;
        ``failure`` and ``complexity``.

    Raises
    ------
    SeenByPriorError, TypeError, ValueError
        See :func:`theorem_13`.

    Notes
    -----
    .. math:: R_0(h) \le J + \frac{\tau + B}{1 - \tau}, \qquad
        B = \sqrt{\frac{\mathrm{KL} + \log(m T/\delta)}{2(m-1)}}

    Derived in the course from McAllester's theorem, used **once**: at an example that is wrong or
    has a radius below :math:`\gamma_k`, noise inside the neighbourhood leaves the first such
    radius below :math:`2\gamma_k`, or the margin below :math:`2\zeta_{K+1}\gamma_{K+1}`; at one
    that J does not count it leaves all of them at least as large. It does without the factors
    K + 1, 2 K and :math:`\sqrt 8` of Theorem 13 and is never above it where either is below 1.
    Noise is shared among all 2 K + 1 events. The proof allows the kl form of that theorem as well:
    :math:`R_0 \le \mathrm{kl}^{-1}(J + (1 - J)\tau, c) / (1 - \tau)` with
    :math:`c = (\mathrm{KL} + \log(2\sqrt m\, T/\delta))/m`.

    Examples
    --------
    >>> import torch
    >>> W, V = torch.eye(4) - 0.5, torch.eye(2).repeat(1, 2)
    >>> x, y = torch.eye(4).repeat(2500, 1), torch.tensor([0, 1] * 5000)
    >>> hyper = Hyperparameters((3,), (1.0, 1.0), (0.0,), (0.06, 0.06), 1.0)
    >>> round(one_shot([W, V], x, y, hyper=hyper, prior=Prior.fixed([W, V])).value, 6)
    0.035056
    """
    found = measured(
        model, x, y, prior, hyper, levels, perturbations, input_norm, norm, babel_points, delta,
        union_cost,
    )  # fmt: skip
    return one_shot_of(found, failure=failure)


def one_shot_of(found: Measured, *, failure: float | None = None) -> SparsityBound:
    """Put the one-shot bound together."""
    m = found.examples
    tau = 1 / math.sqrt(m) if failure is None else failure
    std = perturbation_std(found.network.shapes, found.hyper, tau)
    kl = found.divergences(std)
    confidence = math.log(m / found.delta) + found.union_cost
    terms = {
        "joint_loss": found.joint_loss,
        "failure": tau,
        "complexity": math.sqrt((math.fsum(kl) + confidence) / (2 * (m - 1))),
    }
    return _assembled(
        found, _ONE_SHOT, terms, std, kl,
        source=f"one-shot bound: derived in the course, not in {_PAPER}",
    )  # fmt: skip


def _assembled(
    found: Measured,
    formula: str,
    terms: dict[str, float],
    std: tuple[float, ...],
    kl: tuple[float, ...],
    *,
    source: str,
) -> SparsityBound:
    return SparsityBound(
        value=float(eval(formula, {"__builtins__": {}}, dict(terms))),
        terms=MappingProxyType(terms),
        formula=formula,
        assumptions=found.assumptions,
        trivial=1.0,
        source=source,
        hyper=found.hyper,
        std=std,
        kl=kl,
        threshold=found.threshold,
        failing=found.failing,
        failing_3=found.failing_3,
        examples=found.examples,
        delta=found.delta,
        union_cost=found.union_cost,
    )
