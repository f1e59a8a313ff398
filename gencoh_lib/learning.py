"""Learning problems so small that risk and Bayes risk are sums.

On real data the risk can only be estimated, and the Bayes risk is not known at all. With finitely
many inputs and a table of probabilities both are sums: :class:`FiniteProblem` computes them. The
empirical risk needs no code of its own, for a sample is a problem too, the one in which each of
its m examples has probability 1/m.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gencoh_lib._whole import whole

__all__ = ["FiniteProblem"]

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class FiniteProblem:
    """A distribution of (x, y) on finitely many inputs and targets, and a loss.

    A function of the input is an array [N], its value at each input.

    Attributes
    ----------
    joint : array_like
        [N, K] probability of each pair of input and target.
    targets : array_like
        [K] values of y; for the zero-one loss they are -1 and 1.
    loss : {"zero-one", "squared"}
        Zero-one: 1 where y f(x) < 0. Squared: (f(x) - y)².

    Raises
    ------
    ValueError
        If ``joint`` holds no probabilities that add to 1, the shapes do not fit, the loss is
        neither of the two, or the zero-one loss gets targets other than -1 and 1.

    Examples
    --------
    Two equally likely inputs; the label is noisy at the first one only.

    >>> problem = FiniteProblem([[0.15, 0.35], [0.5, 0.0]])
    >>> round(problem.bayes_risk, 12), problem.bayes_function.tolist()
    (0.15, [1.0, -1.0])
    """

    joint: Array
    targets: Array = field(default_factory=lambda: np.array([-1.0, 1.0]))
    loss: Literal["zero-one", "squared"] = "zero-one"

    def __post_init__(self) -> None:
        """Keep arrays that nobody else can change, and refuse what is no distribution."""
        for name in ("joint", "targets"):
            values = np.array(getattr(self, name), dtype=np.float64)
            values.setflags(write=False)
            object.__setattr__(self, name, values)
        shape = self.joint.shape
        if self.joint.ndim != 2 or self.targets.shape != shape[1:]:
            raise ValueError(
                f"joint must be [N, K] with one column a target; it has shape {list(shape)} and "
                f"there are targets of shape {list(self.targets.shape)}"
            )
        if not (self.joint >= 0).all() or not math.isclose(self.joint.sum(), 1, rel_tol=1e-9):
            raise ValueError(
                "joint must hold probabilities, not negative and with sum 1; its least entry is "
                f"{self.joint.min():g} and its sum {self.joint.sum():g}"
            )
        if not np.isfinite(self.targets).all():
            raise ValueError("targets must be finite")
        if self.loss not in ("zero-one", "squared"):
            raise ValueError(f"loss must be 'zero-one' or 'squared', got {self.loss!r}")
        if self.loss == "zero-one" and self.targets.tolist() != [-1, 1]:
            raise ValueError(
                f"the zero-one loss needs the targets [-1, 1], got {self.targets.tolist()}"
            )

    def __repr__(self) -> str:
        inputs, targets = self.joint.shape
        return (
            f"problem with {inputs} inputs, {targets} targets, {self.loss} loss\n"
            f"  Bayes risk  {self.bayes_risk:.4g}"
        )

    @property
    def marginal(self) -> Array:
        """[N] probability of each input."""
        marginal: Array = self.joint.sum(axis=1)
        return marginal

    @property
    def regression_function(self) -> Array:
        """[N] E[Y | X = x], and 0 where x has no probability."""
        marginal = self.marginal
        mean: Array = self.joint @ self.targets
        return mean / np.where(marginal > 0, marginal, 1)

    @property
    def bayes_function(self) -> Array:
        """[N] the Bayes-optimal function, E[Y | X = x] or its sign, with sgn(0) = 1.

        For a sample this is the lookup table, the empirical risk minimiser over all functions: the
        mean, or the majority, of the targets seen at x, and 0, or 1, where x was not seen.
        """
        mean = self.regression_function
        return mean if self.loss == "squared" else np.where(mean < 0, -1.0, 1.0)

    @property
    def bayes_risk(self) -> float:
        """R*, the least risk of any function."""
        return self.risk(self.bayes_function)

    def risk(self, function: ArrayLike) -> float:
        """Risk of a function, the expected loss on a new example.

        Parameters
        ----------
        function : array_like
            [N] its value at each input.

        Returns
        -------
        float
            Sum of probability times loss over all pairs of input and target.

        Raises
        ------
        ValueError
            If there is not one finite value an input, or one that is not -1 or 1 under the
            zero-one loss: as y f(x) < 0 is an error there, 0 would never be one.

        Examples
        --------
        >>> FiniteProblem([[0.15, 0.35], [0.5, 0.0]]).risk([-1, -1])
        0.35
        """
        values = self._checked(function)
        return float((self.joint * self._losses(values)).sum())

    def excess(self, function: ArrayLike) -> float:
        r"""Risk above the Bayes risk, from the regression function alone.

        Parameters
        ----------
        function : array_like
            [N] its value at each input.

        Returns
        -------
        float
            :math:`\mathbb E[(f(X) - \mathbb E[Y|X])^2]` for the squared loss, and for the zero-one
            loss :math:`\mathbb E[|\mathbb E[Y|X]|;\ f(X)\,\mathbb E[Y|X] < 0]`.

        Raises
        ------
        ValueError
            As :meth:`risk`.

        Notes
        -----
        Lemma 1.1 of Berner, Grohs, Kutyniok and Petersen (2021). Computed by the lemma and not as
        a difference of risks, so that the two can check each other.

        Examples
        --------
        >>> round(FiniteProblem([[0.15, 0.35], [0.5, 0.0]]).excess([-1, -1]), 12)
        0.2
        """
        values, mean = self._checked(function), self.regression_function
        price = (
            (values - mean) ** 2 if self.loss == "squared" else np.abs(mean) * (values * mean < 0)
        )
        return float(self.marginal @ price)

    def sample(self, examples: int, *, seed: int) -> FiniteProblem:
        """Draw independent examples; they come as a problem, whose risk is the empirical risk.

        Parameters
        ----------
        examples : int
            m, at least 1.
        seed : int
            Seed of the draw.

        Returns
        -------
        FiniteProblem
            With ``joint`` the share of the m examples at each pair.

        Raises
        ------
        TypeError
            If ``examples`` is no whole number.
        ValueError
            If it is less than 1.

        Examples
        --------
        >>> problem = FiniteProblem([[0.15, 0.35], [0.5, 0.0]])
        >>> seen = problem.sample(10, seed=0)
        >>> round(seen.risk(seen.bayes_function), 12)  # what a lookup table gets wrong, of ten
        0.2
        """
        if whole("examples", examples) < 1:
            raise ValueError(f"examples must be at least 1, got {examples}")
        rng = np.random.default_rng(seed)
        flat = self.joint.ravel() / self.joint.sum()
        counts = rng.multinomial(examples, flat).reshape(self.joint.shape)
        return FiniteProblem(counts / examples, self.targets, self.loss)

    def uniform_deviation(self, sample: FiniteProblem) -> float:
        r"""Largest gap between risk and empirical risk over *all* functions, zero-one loss.

        Parameters
        ----------
        sample : FiniteProblem
            A problem with the same inputs, usually from :meth:`sample`.

        Returns
        -------
        float
            :math:`\sup_f |R(f) - \widehat R_S(f)|`, f ranging over all :math:`2^N` functions.

        Raises
        ------
        ValueError
            If a loss is not zero-one, or the inputs are not as many.

        Notes
        -----
        Each input adds a term that depends on the label there only, so the supremum is a sum of
        maxima. Without label noise it is the total variation distance of the inputs' distribution
        and their shares in the sample, at least the probability of the inputs that were not seen.

        Examples
        --------
        >>> problem = FiniteProblem([[0.25, 0], [0, 0.25], [0.25, 0], [0, 0.25]])
        >>> seen = FiniteProblem([[1, 0], [0, 0], [0, 0], [0, 0]])
        >>> problem.uniform_deviation(seen)
        0.75
        """
        if "squared" in (self.loss, sample.loss):
            raise ValueError("the squared loss has no largest gap over all functions: use zero-one")
        if sample.joint.shape != self.joint.shape:
            raise ValueError(
                f"the sample has {len(sample.joint)} inputs and the problem {len(self.joint)}"
            )
        # Label -1 pays the probability of y = 1 and label 1 that of y = -1, so swap the columns.
        per_label = (self.joint - sample.joint)[:, ::-1]
        return float(max(per_label.max(axis=1).sum(), -per_label.min(axis=1).sum()))

    def _losses(self, values: Array) -> Array:
        pairs = values[:, None], self.targets[None, :]
        if self.loss == "squared":
            return (pairs[0] - pairs[1]) ** 2
        return (pairs[0] * pairs[1] < 0).astype(np.float64)

    def _checked(self, function: ArrayLike) -> Array:
        values = np.asarray(function, dtype=np.float64)
        if values.shape != self.joint.shape[:1] or not np.isfinite(values).all():
            raise ValueError(
                f"function must hold one finite value for each of the {len(self.joint)} inputs, "
                f"got shape {list(values.shape)}"
            )
        if self.loss == "zero-one" and not (np.abs(values) == 1).all():
            raise ValueError(
                "under the zero-one loss a function takes the values -1 and 1; take the sign of "
                "a score first, with sgn(0) = 1"
            )
        return values
