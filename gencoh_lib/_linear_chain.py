r"""The linear chain: what noisy gradient descent does in a bowl, exactly.

The distance from the minimum is itself a Markov chain, with the radius of a shifted Gaussian as
its kernel. Quadrature turns that kernel into a matrix, so that staying T times is a product of
matrices and the mean exit time a linear system. The public names are those of
:mod:`gencoh_lib.stagnation`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gencoh_lib._dataset import listing
from gencoh_lib._numbers import count, nonnegative, positive
from gencoh_lib._radius_density import radius_density

Array = NDArray[np.float64]
_MOST_NODES = 4096
_MOST_DIMENSIONS = 2000  # in many more the power series of the Bessel function overflows
_LONGEST_MEAN = 1e11  # beyond it I - K is singular to a thousandth in double precision


@dataclass(frozen=True, repr=False)
class LinearChain:
    r"""Noisy gradient descent in a bowl :math:`h \lVert x\rVert^2/2` of k dimensions.

    Parameters
    ----------
    curvature : float
        h, the eigenvalue of the Hessian.
    step_size : float
        :math:`\eta`, constant.
    noise : float
        :math:`\sigma`, standard deviation of the gradient noise in each coordinate.
    dimension : int
        k.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range.

    Notes
    -----
    .. math:: x_{t+1} = x_t - \eta (h x_t + \sigma z_t), \qquad z_t \sim N(0, I_k), \qquad
        \rho = 1 - \eta h, \qquad v = \frac{\eta^2\sigma^2}{1-\rho^2}

    A chain with :math:`|\rho| \ge 1` has no stationary variance; it stays somewhere for a while all
    the same. Standard facts on autoregressions of order one; the quadrature is the course's.

    Examples
    --------
    >>> LinearChain(curvature=1, step_size=0.1, noise=1)
    linear chain
      curvature            1, in 1 dimension
      step size            0.1
      noise                1 a coordinate
      contraction          0.9 a step
      stationary variance  0.05263 a coordinate
      correlation time     19 steps
    """

    curvature: float
    step_size: float
    noise: float
    dimension: int = 1
    _grids: dict[float, tuple[Array, Array]] = field(
        default_factory=dict, init=False, compare=False, hash=False
    )

    def __post_init__(self) -> None:
        if not math.isfinite(self.curvature):
            raise ValueError(f"curvature must be a finite number, got {self.curvature}")
        positive("step_size", self.step_size)
        nonnegative("noise", self.noise)
        object.__setattr__(self, "dimension", count("dimension", self.dimension))

    @classmethod
    def from_contraction(
        cls, contraction: float, *, step_size: float, noise: float, dimension: int = 1
    ) -> LinearChain:
        r"""Return the chain that shrinks by this factor :math:`\rho` a step."""
        positive("step_size", step_size)
        return cls((1 - contraction) / step_size, step_size, noise, dimension)

    @property
    def contraction(self) -> float:
        r""":math:`\rho = 1 - \eta h`, the factor of one step without noise."""
        return 1 - self.step_size * self.curvature

    @property
    def stationary_variance(self) -> float:
        r"""v, of each coordinate in the long run; infinite if :math:`|\rho| \ge 1`."""
        return self._kick**2 / (1 - self.contraction**2) if self._pulls else math.inf

    @property
    def correlation_time(self) -> float:
        r"""Sum of the autocorrelations over all lags, :math:`(1+\rho)/(1-\rho)`."""
        return (1 + self.contraction) / (1 - self.contraction) if self._pulls else math.inf

    @property
    def expected_loss(self) -> float:
        """Mean of the loss in the long run, k h v / 2."""
        return self.dimension * self.curvature * self.stationary_variance / 2

    @property
    def _kick(self) -> float:
        """Standard deviation of what one step adds to a coordinate."""
        return self.step_size * self.noise

    @property
    def _pulls(self) -> bool:
        return abs(self.contraction) < 1

    def variance(self, step: int) -> float:
        r"""Variance of a coordinate after this many steps from a fixed start.

        Returns
        -------
        float
            :math:`\eta^2\sigma^2 (1-\rho^{2t})/(1-\rho^2)`, or :math:`t\eta^2\sigma^2` on a flat
            direction.

        Examples
        --------
        >>> round(LinearChain(1, 0.1, 1).variance(20), 7)
        0.0518536
        """
        step = count("step", step, at_least=0)
        squared = self.contraction**2
        geometric = step if squared == 1 else (1 - squared**step) / (1 - squared)
        return self._kick**2 * geometric

    def autocovariance(self, lag: int) -> float:
        r"""Covariance of a coordinate with itself `lag` steps later, :math:`v\rho^s`."""
        return self.stationary_variance * self.contraction ** count("lag", lag, at_least=0)

    def stay(self, radius: float, steps: int, start: float = 0.0) -> float:
        r"""Probability that :math:`\lVert x_t\rVert \le r` at t = 1..T.

        Parameters
        ----------
        radius : float
            r.
        steps : int
            T.
        start : float
            Distance :math:`\lVert x_0\rVert`.

        Returns
        -------
        float

        Raises
        ------
        ValueError
            If `radius` is so many kicks :math:`\eta\sigma` wide that the quadrature would need
            too many nodes.

        Notes
        -----
        Gauss-Legendre nodes on [0, r] and the kernel :math:`p(r'|a)`, that of a
        :math:`\chi_k(\rho a/\eta\sigma)` variable times :math:`\eta\sigma`. Derived here.

        Examples
        --------
        >>> round(LinearChain(1, 0.1, 1).stay(0.5, 50), 6)
        0.642842
        """
        return self._iterated(radius, steps, start)[-1]

    def stay_curve(self, radius: float, steps: int, start: float = 0.0) -> Array:
        """:meth:`stay` for 0, 1, ..., T steps.

        Returns
        -------
        ndarray
            [T + 1], from 1 downwards.
        """
        return np.array(self._iterated(radius, steps, start))

    def mean_exit_time(self, radius: float, start: float = 0.0) -> float:
        r"""Mean of the first t >= 1 at which the chain is further away than `radius`.

        Returns
        -------
        float
            Steps.

        Raises
        ------
        ValueError
            If it is beyond what double precision can resolve, 1e11 steps, or never ends.

        Notes
        -----
        Solves :math:`(I - K)m = 1` on the nodes of :meth:`stay`.

        Examples
        --------
        >>> round(LinearChain(1, 0.1, 1).mean_exit_time(0.5), 2)
        107.14
        """
        if not self.noise:
            raise ValueError("without noise the chain may stay for ever: use noise > 0")
        kernel, nodes_of_start = self._killed(radius), self._from(start, radius)
        times = np.linalg.solve(np.eye(len(kernel)) - kernel, np.ones(len(kernel)))
        mean = 1 + float(nodes_of_start @ times)
        if not 1 <= mean <= _LONGEST_MEAN or times.min() < 0:
            raise ValueError(
                f"the mean exit time from radius {radius:g} is beyond 1e11 steps, which double "
                "precision cannot resolve: use a smaller radius or more noise"
            )
        return mean

    def survival_rate(self, radius: float) -> float:
        r"""Share of the chains still inside that stay for one step more, in the long run.

        Returns
        -------
        float
            Top eigenvalue :math:`\lambda` of the kernel killed outside: staying T steps has the
            probability :math:`c\lambda^T` for large T, and tends to 0.

        Examples
        --------
        >>> round(LinearChain(1, 0.1, 1).survival_rate(0.5), 7)
        0.9902005
        """
        if not self.noise:
            return 1.0 if abs(self.contraction) <= 1 else 0.0
        return float(np.linalg.eigvals(self._killed(radius)).real.max())

    def _iterated(self, radius: float, steps: int, start: float) -> list[float]:
        steps, start = count("steps", steps, at_least=0), nonnegative("start", start)
        positive("radius", radius)
        if not self.noise:
            distances = start * abs(self.contraction) ** np.arange(1, steps + 1)
            return [1.0, *np.minimum.accumulate(distances <= radius).astype(float).tolist()]
        if not steps:
            return [1.0]
        kernel, from_start = self._killed(radius), self._from(start, radius)
        alive, curve = np.ones(len(kernel)), [1.0]
        for _ in range(steps):
            curve.append(min(1.0, float(from_start @ alive)))
            alive = kernel @ alive
        return curve

    def _grid(self, radius: float) -> tuple[Array, Array]:
        """Nodes and weights on [0, radius], enough to resolve one kick to rounding."""
        radius = positive("radius", radius)
        if self.dimension > _MOST_DIMENSIONS:
            raise ValueError(
                f"dimension = {self.dimension}: the quadrature is accurate up to "
                f"{_MOST_DIMENSIONS} dimensions; gencoh_lib.stagnation.stay_bound has no limit"
            )
        if radius not in self._grids:
            wanted = 40 + math.ceil(8 * radius / self._kick)
            if wanted > _MOST_NODES:
                raise ValueError(
                    f"a radius of {radius / self._kick:.0f} kicks (step_size * noise = "
                    f"{self._kick:g}) needs {wanted} quadrature nodes, more than {_MOST_NODES}: "
                    "use a smaller radius"
                )
            nodes, weights = np.polynomial.legendre.leggauss(wanted)
            self._grids[radius] = (radius * (nodes + 1) / 2, radius * weights / 2)
        return self._grids[radius]

    def _killed(self, radius: float) -> Array:
        nodes, weights = self._grid(radius)
        before = abs(self.contraction) * nodes
        return radius_density(nodes, before[:, None], self._kick, self.dimension) * weights

    def _from(self, start: float, radius: float) -> Array:
        nodes, weights = self._grid(radius)
        before = np.array(abs(self.contraction) * nonnegative("start", start))
        return radius_density(nodes, before, self._kick, self.dimension) * weights

    def __repr__(self) -> str:
        dimensions = "dimension" if self.dimension == 1 else "dimensions"
        rows = {
            "curvature": f"{self.curvature:.4g}, in {self.dimension} {dimensions}",
            "step size": f"{self.step_size:.4g}",
            "noise": f"{self.noise:.4g} a coordinate",
            "contraction": f"{self.contraction:.4g} a step",
            "stationary variance": f"{self.stationary_variance:.4g} a coordinate",
            "correlation time": f"{self.correlation_time:.4g} steps",
        }
        return listing("linear chain", rows)
