"""The exercises of "Only what is active counts", behind :mod:`gencoh_lib.exercises`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from gencoh_lib import checks
from gencoh_lib.checks import Verdict


def _babel_by_hand(answer: object) -> Verdict:
    return checks.number(
        answer,
        3.0,
        tolerance=1e-3,
        name="bound on the norm",
        mistakes={
            "That leaves no row out: with two rows in, each has one partner only.": math.sqrt(11),
            "That bounds the squared norm.": 9.0,
            "Add up sizes, not signed products: rows 2 and 3 have a negative one.": math.sqrt(7),
            "That is the row norm alone; rows 1 and 3 are not orthogonal.": math.sqrt(5),
            "The Babel function divides by the *squared* row norm.": (
                math.sqrt(5 + 4 * math.sqrt(5))
            ),
            "That is the norm itself; the bound is a little larger.": math.sqrt(
                4.5 + math.sqrt(16.25)
            ),
        },
    )


def _depths(examples: int, units: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(examples, units, generator=generator, dtype=torch.float64) / 4


def _largest_level(answer: object) -> Verdict:
    first = torch.tensor(
        [[0.3, 0.1, -0.2], [0.2, -0.1, -0.3], [-0.1, -0.1, -0.1]], dtype=torch.float64
    )
    deep = torch.full((2, 4), 0.5, dtype=torch.float64)

    def level(depth: Tensor, threshold: float) -> Tensor:
        return (depth >= threshold).sum(1).clamp(max=depth.shape[1] - 1).double()

    return checks.function(
        answer,
        level,
        [
            (first, 0.1),
            (_depths(7, 9, 1), 0.05),
            (deep, 0.1),
        ],
        name="largest_level",
        mistakes={
            "A radius that equals the threshold is large enough.": (
                lambda depth, t: (depth > t).sum(1).clamp(max=depth.shape[1] - 1).double()
            ),
            "That counts the units that are active, or nearly so.": (
                lambda depth, t: (depth < t).sum(1).double()
            ),
            "At most all units but one can be left out: there is no level d.": (
                lambda depth, t: (depth >= t).sum(1).double()
            ),
            "That is one level for all inputs; one an input is asked for.": (
                lambda depth, t: level(depth, t).min().expand(len(depth))
            ),
        },
    )


def _floor(answer: object) -> Verdict:
    def log_term(m: int, hidden: int, delta: float) -> float:
        return math.sqrt(2 * math.log(2 * m * (hidden + 1) / delta) / (m - 1))

    def constant(m: int, hidden: int) -> float:
        return 4 * (hidden + 1) / (math.sqrt(m) - 1)

    return checks.function(
        answer,
        lambda m, k, d: constant(m, k) + (k + 1) * log_term(m, k, d),
        [(55_000, 2, 0.05), (10_000, 1, 0.05), (500, 3, 0.01)],
        name="floor",
        mistakes={
            "The root stands there K + 1 times: once with the whole divergence, and once for "
            "each hidden layer.": lambda m, k, d: constant(m, k) + log_term(m, k, d),
            "The first root is missing, that of the whole divergence.": (
                lambda m, k, d: constant(m, k) + k * log_term(m, k, d)
            ),
            "The constant 4(K+1)/(sqrt(m) - 1) is missing.": (
                lambda m, k, d: (k + 1) * log_term(m, k, d)
            ),
        },
    )


def _union_cost(answer: object) -> Verdict:
    tried = 500 * 500 * 30
    return checks.number(
        answer,
        math.log(tried),
        tolerance=1e-3,
        name="union cost",
        mistakes={
            "That is the number of choices; it enters as its logarithm.": tried,
            "That is the logarithm to base 10.": math.log10(tried),
            "That is the logarithm to base 2.": math.log2(tried),
            "Choices multiply: any level of one layer can meet any of the other.": (
                math.log(500 + 500 + 30)
            ),
            "The values of epsilon are missing.": math.log(500 * 500),
            "A layer of 500 units has 500 levels, and there are two layers.": math.log(500 * 30),
        },
    )


def _unit_rows(answer: object) -> Verdict:
    generator = torch.Generator().manual_seed(5)

    def draw(inputs: int, hidden: int, outputs: int) -> tuple[Tensor, Tensor]:
        first = torch.randn(hidden, inputs, generator=generator, dtype=torch.float64)
        return first, torch.randn(outputs, hidden, generator=generator, dtype=torch.float64)

    return checks.function(
        answer,
        lambda w1, w2: w2 * w1.norm(dim=1),
        [draw(2, 3, 1), draw(4, 3, 2), draw(3, 3, 3)],
        name="second_matrix",
        mistakes={
            "The rows of the first matrix were divided by their lengths, so the columns of the "
            "second have to be multiplied.": lambda w1, w2: w2 / w1.norm(dim=1),
            "That multiplies by squared lengths.": lambda w1, w2: w2 * w1.square().sum(1),
            "One factor for all units is not enough: each row has its own length.": (
                lambda w1, w2: w2 * w1.norm(dim=1).max()
            ),
        },
    )


EXERCISES: Mapping[str, Callable[[object], Verdict]] = MappingProxyType(
    {
        "ex-babel-by-hand": _babel_by_hand,
        "ex-largest-level": _largest_level,
        "ex-bound-floor": _floor,
        "ex-union-cost": _union_cost,
        "ex-unit-rows": _unit_rows,
    }
)
