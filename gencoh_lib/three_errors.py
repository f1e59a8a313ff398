"""The account of an excess risk: approximation, optimisation, generalisation, and luck.

Six risks go in, of three functions under two measures, and four named parts come out that add up
to the excess exactly. Where the risks come from, a formula or a large test set, is not its affair.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["ErrorAccount"]


@dataclass(frozen=True, repr=False)
class ErrorAccount:
    r"""The risk of a learned function, taken apart into three errors.

    Three functions are compared: the learned one :math:`f_S`, the best one of the class
    :math:`f^*_{\mathcal F}`, and :math:`\hat f_S`, the minimiser of the empirical risk.

    Attributes
    ----------
    bayes : float
        R*, the least risk of any function.
    best, best_empirical : float
        Risk and empirical risk of the best function of the class.
    least_empirical : float
        Least empirical risk in the class.
    learned, learned_empirical : float
        Risk and empirical risk of the learned function.

    Raises
    ------
    ValueError
        If a number is not finite, the best risk is below the Bayes risk, or an empirical risk is
        below the least one by more than rounding: then the class or the minimiser is not what it
        is said to be.

    Notes
    -----
    The identity

    .. math:: R(f_S) - R^* = \varepsilon_{\mathrm{approx}} + \varepsilon_{\mathrm{opt}}
        + \varepsilon_{\mathrm{gen}} - \varepsilon_{\mathrm{luck}}

    with the last two as below is the telescoping sum behind equation (1.4) of Berner, Grohs,
    Kutyniok and Petersen (2021). Bounding both gaps by their supremum over the class, and dropping
    the last term, which is not negative, gives (1.4) itself.

    Examples
    --------
    >>> account = ErrorAccount(bayes=0.1, best=0.15, best_empirical=0.14, least_empirical=0.05,
    ...                        learned=0.3, learned_empirical=0.07)
    >>> round(account.excess, 12), round(account.generalization, 12)
    (0.2, 0.22)
    """

    bayes: float
    best: float
    best_empirical: float
    least_empirical: float
    learned: float
    learned_empirical: float

    def __post_init__(self) -> None:
        """Refuse numbers that cannot belong together."""
        for name, value in vars(self).items():
            if not math.isfinite(value):
                raise ValueError(f"{name} must be finite, got {value}")
        slack = 1e-9 * max(1.0, *map(abs, vars(self).values()))
        for lower, upper in (
            ("bayes", "best"),
            ("best", "learned"),
            ("least_empirical", "best_empirical"),
            ("least_empirical", "learned_empirical"),
        ):
            if getattr(self, upper) < getattr(self, lower) - slack:
                raise ValueError(
                    f"{upper} = {getattr(self, upper):g} is below {lower} = "
                    f"{getattr(self, lower):g}: then that one is no minimum"
                )

    @property
    def excess(self) -> float:
        """Risk of the learned function above the Bayes risk."""
        return self.learned - self.bayes

    @property
    def approximation(self) -> float:
        """Risk of the best function of the class above the Bayes risk."""
        return self.best - self.bayes

    @property
    def optimization(self) -> float:
        """Empirical risk of the learned function above the least one."""
        return self.learned_empirical - self.least_empirical

    @property
    def generalization(self) -> float:
        """Generalisation gap of the learned function minus that of the best one."""
        gap_learned = self.learned - self.learned_empirical
        return gap_learned - (self.best - self.best_empirical)

    @property
    def luck(self) -> float:
        """Empirical risk of the best function above the least one, never negative."""
        return self.best_empirical - self.least_empirical

    def bound(self, uniform_deviation: float) -> float:
        r"""Equation (1.4): approximation + optimization + 2 :math:`\sup_{f} |R - \widehat R_S|`.

        Parameters
        ----------
        uniform_deviation : float
            The supremum over the class, or a bound on it.

        Returns
        -------
        float
            A bound on the excess.

        Raises
        ------
        ValueError
            If it is below the gap of the learned or of the best function: then it is no supremum.

        Examples
        --------
        >>> account = ErrorAccount(0.1, 0.15, 0.14, 0.05, 0.3, 0.07)
        >>> round(account.bound(0.25), 12)
        0.57
        """
        gaps = self.learned - self.learned_empirical, self.best - self.best_empirical
        if not uniform_deviation >= max(map(abs, gaps)) - 1e-12:
            raise ValueError(
                f"uniform_deviation = {uniform_deviation:g} is below a gap of "
                f"{max(map(abs, gaps)):g} in the class: it is no supremum"
            )
        return self.approximation + self.optimization + 2 * uniform_deviation

    def __repr__(self) -> str:
        rows = {
            "approximation": self.approximation,
            "+ optimization": self.optimization,
            "+ generalization": self.generalization,
            "- luck": self.luck,
            "= excess risk": self.excess,
        }
        return "\n".join(f"{name:<18s}{value:>10.4f}" for name, value in rows.items())
