"""The exercises of "Where SGD stays", behind :mod:`gencoh_lib.exercises`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from gencoh_lib import checks
from gencoh_lib.checks import Verdict
from gencoh_lib.stagnation import stagnation_radius


def _tube_radius(answer: object) -> Verdict:
    spread = 0.1 / math.sqrt(1 - 0.9**2)  # sqrt of v
    logarithm = math.sqrt(2 * math.log(1000 / 0.05))
    return checks.number(
        answer,
        stagnation_radius(
            0.05, steps=1000, contraction=0.9, step_size=0.1, noise=1.0, dimension=10
        ),
        tolerance=2e-3,
        name="radius",
        mistakes={
            "That is q: multiply by the square root of v.": math.sqrt(10) + logarithm,
            "That is the radius for one step: the number of steps enters the logarithm.": (
                spread * (math.sqrt(10) + math.sqrt(2 * math.log(1 / 0.05)))
            ),
            "That takes eps = 0.95; it is the probability to leave, 0.05.": (
                spread * (math.sqrt(10) + math.sqrt(2 * math.log(1000 / 0.95)))
            ),
            "The size of the cloud itself, sqrt(k v), is missing.": spread * logarithm,
            "That takes k in place of its square root.": spread * (10 + logarithm),
            "That takes the noise of one step, eta sigma, for the stationary one, sqrt(v).": (
                0.1 * (math.sqrt(10) + logarithm)
            ),
        },
    )


def _batch_step(answer: object) -> Verdict:
    return checks.function(
        answer,
        lambda batch, step, new: step * new / batch,
        [(32, 0.5, 64), (100, 0.1, 10), (8, 0.02, 24)],
        name="rate",
        mistakes={
            "The other way round: with a larger batch there is less noise, so that the step "
            "may be larger.": lambda batch, step, new: step * batch / new,
            "The variance, not the standard deviation, is to stay: no root.": (
                lambda batch, step, new: step * math.sqrt(new / batch)
            ),
        },
    )


def _bent_secant(answer: object) -> Verdict:
    def pair(x: float, y: float, sign: float = -1) -> tuple[float, float]:
        a, b, c = 1 + y**2, 2 * x * y, x**2
        return a, (a + c) / 2 + sign * math.sqrt(((a - c) / 2) ** 2 + b**2)

    def determinant(x: float, y: float) -> tuple[float, float]:
        return 1 + y**2, x**2 * (1 - 3 * y**2)

    def unscaled(x: float, y: float) -> tuple[float, float]:
        return x**2 * (1 + y**2), pair(x, y)[1]

    def to_the_origin(x: float, y: float) -> tuple[float, float]:
        along = x**2 * (1 + y**2) + x**2 * y**2
        return along / (x**2 + y**2), pair(x, y)[1]

    return checks.function(
        answer,
        pair,
        [(1.0, 1.0), (0.5, -2.0), (-2.0, 0.3)],
        name="secant_and_curvature",
        mistakes={
            "That is the larger eigenvalue.": lambda x, y: pair(x, y, 1),
            "The second is the determinant; its sign tells, but the eigenvalue is asked for.": (
                determinant
            ),
            "Divide the inner product by the squared length of delta, x squared.": unscaled,
            "Measure from the nearest minimiser, (0, y), not from the origin.": to_the_origin,
        },
    )


def _certify_stay(answer: object) -> Verdict:
    return checks.number(
        answer,
        299,
        tolerance=1e-4,
        name="number of runs",
        mistakes={
            "One more: with 298 the confidence is just below 95 %.": 298,
            "The rule of three gives about that; the exact number is a little smaller.": 300,
            "That is 1/0.01: with so many runs none leaves with probability 0.37.": 100,
            "Round up to a whole number of runs.": math.log(0.05) / math.log(0.99),
        },
    )


EXERCISES: Mapping[str, Callable[[object], Verdict]] = MappingProxyType(
    {
        "ex-tube-radius": _tube_radius,
        "ex-batch-step": _batch_step,
        "ex-bent-secant": _bent_secant,
        "ex-certify-stay": _certify_stay,
    }
)
