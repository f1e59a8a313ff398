"""Checks of the exercises in "Suppressing memorisation", behind :mod:`gencoh_lib.exercises`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from gencoh_lib import checks
from gencoh_lib._robust import median_of_three
from gencoh_lib.checks import Verdict

__all__ = ["EXERCISES"]


def _winsorized_mean(answer: object) -> Verdict:
    return checks.number(
        answer,
        7 / 5,
        name="winsorized mean",
        mistakes={
            "That is the plain mean, moved by one example: pull the extremes in first.": 10.0,
            "That is the trimmed mean: winsorizing replaces values, and keeps all five.": 4 / 3,
            "That is the median, which is two values a side.": 1.0,
            "That sums the winsorized values; divide by five.": 7.0,
        },
    )


def _median(answer: object) -> Verdict:
    # Integers first; then what a sum forgets. Infinities are compared by what they leave behind.
    generator = torch.Generator().manual_seed(0)
    three = torch.randint(-9, 10, (3, 6), generator=generator).double()
    large = torch.tensor([[1.0, 2.0], [1e20, -1e20], [-1e20, 1e20]], dtype=torch.float64)
    infinite = torch.tensor([[math.inf, 1.0], [2.0, math.inf], [-math.inf, 3.0]]).double()

    def plain(text: str, slip: Callable[[Any, Any, Any], Tensor]) -> dict[str, Any]:
        return {text: lambda a, b, c: slip(a, b, c).nan_to_num(0.0, posinf=1e30, neginf=-1e30)}

    return checks.function(
        answer,
        median_of_three,
        [tuple(three), tuple(large), tuple(infinite)],
        tolerance=1e-12,
        name="median",
        mistakes={
            **plain(
                "the sum less the extremes forgets small numbers beside large ones: compare, "
                "and do not add.",
                lambda a, b, c: a + b + c - _least(a, b, c) - _greatest(a, b, c),
            ),
            **plain(
                "the first two are not in order everywhere: clamp between their minimum and "
                "their maximum.",
                lambda a, b, c: c.clamp(a, b),
            ),
            **plain("that is the mean of the three.", lambda a, b, c: (a + b + c) / 3),
            **plain("that is the greatest of the three.", lambda a, b, c: _greatest(a, b, c)),
            **plain("that is the least of the three.", lambda a, b, c: _least(a, b, c)),
        },
    )


def _least(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return torch.minimum(torch.minimum(a, b), c)


def _greatest(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return torch.maximum(torch.maximum(a, b), c)


def _rare(answer: object) -> Verdict:
    q = 1 - 0.98**5
    median, mean = 3 * q**2 - 2 * q**3, 1 - (1 - q) ** 3
    return checks.number(
        answer,
        median / mean,
        tolerance=2e-3,
        name="ratio",
        mistakes={
            "That is pb, the limit of the ratio as pb tends to 0: put q into both formulas.": 0.1,
            "That is q, the probability that one micro-batch has the feature.": q,
            "That is the probability for the median; divide by that for the mean.": median,
            "That is the probability for the mean; the one for the median goes on top.": mean,
            "That is the ratio the wrong way round: the median sees less, not more.": mean / median,
            "That forgets the case in which all three micro-batches have the feature.": (
                3 * q**2 * (1 - q) / mean
            ),
            "That takes q^2, as if the two micro-batches were fixed: there are three pairs.": (
                q**2 / mean
            ),
        },
    )


def _share(answer: object) -> Verdict:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(7, 3, generator=generator, dtype=torch.float64) + 0.4
    half = torch.tensor([True] * 4 + [False] * 3)
    pristine = torch.tensor([True, True, False, False])
    agree = torch.eye(4, dtype=torch.float64)[[0, 0, 1, 2]]
    agree[:2] *= 2

    def total(g: Tensor) -> Tensor:
        return g.sum(0)

    return checks.function(
        answer,
        lambda g, group: total(g) @ total(g[group]) / total(g).square().sum(),
        [(agree, pristine), (drawn, half)],
        name="share",
        mistakes={
            "the squared length of the group's own sum leaves out what the groups do to each "
            "other: take the inner product with the sum over all.": (
                lambda g, group: total(g[group]).square().sum() / total(g).square().sum()
            ),
            "that is the share of the other group.": (
                lambda g, group: total(g) @ total(g[~group]) / total(g).square().sum()
            ),
            "that is the share in the energy, the sum of squared lengths; add the vectors "
            "first.": lambda g, group: g[group].square().sum() / g.square().sum(),
            "that is the share in the number of examples.": (
                lambda g, group: group.double().mean()
            ),
            "a mean over the group and a mean over all weigh examples differently: take sums.": (
                lambda g, group: g.mean(0) @ g[group].mean(0) / g.mean(0).square().sum()
            ),
        },
    )


EXERCISES: Mapping[str, Callable[[object], Verdict]] = MappingProxyType(
    {
        "ex-winsorized-mean": _winsorized_mean,
        "ex-median-of-three": _median,
        "ex-rare-feature": _rare,
        "ex-decrease-share": _share,
    }
)
