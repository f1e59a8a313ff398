"""Many chains of noisy gradient descent at once, behind :mod:`gencoh_lib.stagnation`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gencoh_lib._dataset import listing
from gencoh_lib._gradient_noise import Gradient, GradientNoise
from gencoh_lib._numbers import count, nonnegative, positive
from gencoh_lib._stay import StayRecord, stay_record
from gencoh_lib._tubes import Tube

StepSize = float | Sequence[float] | Callable[[int], float]


@dataclass(frozen=True)
class DecayingSteps:
    r"""Step sizes that shrink like a power, :math:`\eta_t = \eta_0 (1 + t/t_0)^{-a}`.

    Parameters
    ----------
    first : float
        :math:`\eta_0`.
    scale : float
        :math:`t_0`, in steps.
    power : float
        a.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> round(DecayingSteps(first=0.2, scale=50, power=0.75)(50), 4)
    0.1189
    """

    first: float
    scale: float
    power: float

    def __post_init__(self) -> None:
        positive("first", self.first)
        positive("scale", self.scale)
        nonnegative("power", self.power)

    def __call__(self, step: int) -> float:
        """Return the size of the step taken at time `step`, counted from 0."""
        return float(self.first * (1 + step / self.scale) ** -self.power)


def step_sizes(step_size: StepSize, steps: int) -> NDArray[np.float64]:
    """Return the size of each of the steps, [steps]; refuse what is not finite and >= 0."""
    if callable(step_size):
        sizes = np.array([step_size(t) for t in range(steps)], dtype=float)
    else:
        sizes = np.asarray(step_size, dtype=float)
        if sizes.ndim and sizes.shape != (steps,):
            raise ValueError(f"{steps} steps but step_size of shape {sizes.shape}: one each")
        sizes = np.broadcast_to(sizes, (steps,))
    if not (np.isfinite(sizes) & (sizes >= 0)).all():
        raise ValueError("step_size must be finite and >= 0 at every step")
    return sizes


@dataclass(frozen=True, eq=False, repr=False)
class NoisyRun:
    """What :func:`noisy_sgd` returns.

    Attributes
    ----------
    final : Tensor
        [chains, D] where the chains ended.
    distances : Tensor or None
        [chains, steps + 1] distance from the piece of the tube; the start is column 0.
    positions : Tensor or None
        [chains, kept, D] the chains after the kept steps.
    kept_steps : tuple of int
        Steps after which positions were kept, 0 for the start.
    steps : int
        T.
    tube : Tube or None
        The tube that was watched.
    """

    final: Tensor
    distances: Tensor | None
    positions: Tensor | None
    kept_steps: tuple[int, ...]
    steps: int
    tube: Tube | None

    @property
    def diverged(self) -> int:
        """Number of chains that ended at infinity or NaN."""
        return int((~self.final.isfinite().all(1)).sum())

    def stay(self, radius: float | None = None) -> StayRecord:
        """See which chains stayed; see :func:`stay_record`.

        Parameters
        ----------
        radius : float, optional
            By default that of the tube.

        Returns
        -------
        StayRecord

        Raises
        ------
        ValueError
            If the run was not given a tube.
        """
        if self.distances is None or self.tube is None:
            raise ValueError("no distances were recorded: pass a tube to noisy_sgd")
        return stay_record(self.distances[:, 1:], self.tube.radius if radius is None else radius)

    def __repr__(self) -> str:
        chains, dimension = self.final.shape
        rows = {"chains": f"{chains}, {self.diverged} diverged", "parameters": f"{dimension}"}
        rows["positions"] = f"kept after {len(self.kept_steps)} steps" if self.kept_steps else "not"
        if self.tube is not None:
            rows["stayed"] = f"{self.stay().probability()}, radius {self.tube.radius:g}"
        return listing(f"noisy gradient descent, {self.steps} steps", rows)


def noisy_sgd(
    gradient: Gradient | None,
    start: Tensor,
    *,
    steps: int,
    step_size: StepSize,
    noise: GradientNoise | None = None,
    chains: int | None = None,
    projection: Callable[[Tensor], Tensor] | None = None,
    tube: Tube | None = None,
    keep: int | None = None,
    threads: int = 1,
    seed: int = 0,
) -> NoisyRun:
    r"""Run many chains of projected gradient descent with noisy gradients.

    Parameters
    ----------
    gradient : callable or None
        Maps points [chains, D] to gradients [chains, D]; None only with a `noise` that does not
        need it, such as :class:`LiveMinibatch`. See :func:`gradient_of` and
        :class:`NetworkLoss`.
    start : Tensor
        [D] where all chains start, or [chains, D].
    steps : int
        T.
    step_size : float, sequence or callable
        :math:`\eta_t`: one number, [T], or a function of t = 0, 1, ..., such as
        :class:`DecayingSteps`.
    noise : GradientNoise, optional
        The model of the noise; by default there is none.
    chains : int, optional
        How many, if `start` is a single point; by default 1.
    projection : callable, optional
        Maps points to points of the constraint set after each step, such as
        :class:`SpectralClip`; by default the identity.
    tube : Tube, optional
        Record the distances from its piece.
    keep : int, optional
        Keep the positions every so many steps, the start included; by default none.
    threads : int
        Number of threads; for small problems one is fastest.
    seed : int
        Seed of the noise; the global random state stays as it is.

    Returns
    -------
    NoisyRun

    Raises
    ------
    TypeError, ValueError
        If a number is out of range, a shape does not fit, or the gradient changes the shape.

    Notes
    -----
    .. math:: \theta_{t+1} = \mathrm{Proj}\bigl(\theta_t - \eta_t
        (\nabla R(\theta_t) + \zeta_t)\bigr)

    with :math:`\zeta_t` Gaussian given the past. Derived here (stand-in; the text of Imaizumi and
    Schmidt-Hieber was not available to us). Chains that diverge are not an error: they are
    counted in ``diverged``.

    Examples
    --------
    >>> import torch
    >>> from gencoh_lib.stagnation import IsotropicNoise
    >>> run = noisy_sgd(lambda x: x, torch.zeros(1), steps=50, step_size=0.1, chains=4000,
    ...                 noise=IsotropicNoise(1.0), tube=Tube(torch.zeros(1), radius=0.5))
    >>> found = run.stay().probability()
    >>> found.low < 0.642842 < found.high  # LinearChain knows it exactly
    True
    """
    steps = count("steps", steps)
    keep = None if keep is None else count("keep", keep)
    sizes = step_sizes(step_size, steps)
    theta = _started(start, chains)
    slope = _checked(gradient, noise)
    generator = torch.Generator(theta.device).manual_seed(seed)
    watched = None if tube is None else _fitting(tube, theta)
    distances = None if tube is None else theta.new_empty(steps + 1, len(theta))
    kept: list[Tensor] = []
    with torch.no_grad(), _threads(count("threads", threads)):
        for t in range(steps + 1):
            if t:
                noisy = slope(theta) if noise is None else noise(theta, slope, generator)
                if t == 1 and noisy.shape != theta.shape:
                    raise ValueError(
                        f"the gradient is of shape {tuple(noisy.shape)} at points of shape "
                        f"{tuple(theta.shape)}: it must map [chains, D] to [chains, D]"
                    )
                theta = torch.add(theta, noisy, alpha=-float(sizes[t - 1]))
                theta = theta if projection is None else projection(theta)
            if watched is not None and distances is not None:
                distances[t] = watched.distance(theta)
            if keep is not None and t % keep == 0:
                kept.append(theta)
    return NoisyRun(
        final=theta.clone(),
        distances=None if distances is None else distances.T,
        positions=torch.stack(kept, 1) if kept else None,
        kept_steps=tuple(range(0, steps + 1, keep)) if keep else (),
        steps=steps,
        tube=tube,
    )


def gradient_of(loss: Callable[[Tensor], Tensor]) -> Gradient:
    """Gradient of a loss for many points at once, by automatic differentiation.

    Parameters
    ----------
    loss : callable
        Maps points [chains, D] to losses [chains]; the loss of a chain may depend on its own row
        only.

    Returns
    -------
    callable
        Maps points [chains, D] to gradients [chains, D].

    Raises
    ------
    ValueError
        When called, if the losses are not of shape [chains].

    Examples
    --------
    >>> import torch
    >>> valley = gradient_of(lambda t: t[:, 0] ** 2 * (1 + t[:, 1] ** 2) / 2)
    >>> valley(torch.tensor([[1.0, 2.0]])).tolist()
    [[5.0, 2.0]]
    """

    def gradient(theta: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = theta.detach().requires_grad_()
            losses = loss(leaf)
            if losses.shape != theta.shape[:1]:
                raise ValueError(
                    f"the loss must map points {tuple(theta.shape)} to one number each, got shape "
                    f"{tuple(losses.shape)}"
                )
            (found,) = torch.autograd.grad(losses.sum(), leaf)
        return found

    return gradient


def _started(start: Tensor, chains: int | None) -> Tensor:
    if not isinstance(start, Tensor) or not start.is_floating_point():
        raise TypeError("start must be a floating-point tensor, [D] or [chains, D]")
    if start.ndim == 1 and len(start):
        return start.detach().repeat(count("chains", 1 if chains is None else chains), 1)
    if start.ndim != 2 or not start.numel():
        raise ValueError(f"start must be of shape [D] or [chains, D], got {tuple(start.shape)}")
    if chains is not None and chains != len(start):
        raise ValueError(f"start holds {len(start)} chains, chains = {chains}: leave chains out")
    return start.detach().clone()


def _checked(gradient: Gradient | None, noise: GradientNoise | None) -> Gradient:
    if gradient is not None:
        return gradient
    if noise is None:
        raise ValueError("give a gradient, a noise that brings its own, or both")

    def missing(theta: Tensor) -> Tensor:
        raise ValueError(f"{noise!r} adds to a gradient: give noisy_sgd one")

    return missing


def _fitting(tube: Tube, theta: Tensor) -> Tube:
    if tube.dimension != theta.shape[1]:
        raise ValueError(
            f"the tube is in {tube.dimension} dimensions, the chains are in {theta.shape[1]}"
        )
    return tube.like(theta)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(number)
        yield
    finally:
        torch.set_num_threads(before)
